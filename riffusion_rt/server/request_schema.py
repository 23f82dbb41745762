"""The library's request records in, models of JSON bodies and the page's controls out: ranges are stated once.

What a record's fields mean is read from the texts below them, and their ranges from their types. A field without a
range of its own has that of the clip's field of the same name, because it ends up there.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from riffusion_rt.request import ClipRequest, number_bounds, request_hints
from riffusion_rt.samplers import SAMPLERS

if TYPE_CHECKING:
    from riffusion_engine.manifest import SamplingDefaults

REQUIRED: Any = ...


@dataclass(frozen=True)
class FieldFacts:
    """One field of a request."""

    name: str
    hint: Any
    default: Any
    """``REQUIRED`` if there is none."""
    description: str


def request_fields(record: type) -> dict[str, FieldFacts]:
    """All fields of a request record, by name."""
    texts, hints = _field_texts(record), _hints(record)
    clip_texts, clip_hints = _field_texts(ClipRequest), request_hints(ClipRequest)
    found = {}
    for name, default in _defaults(record).items():
        hint = hints[name]
        if (
            number_bounds(hint) is None
            and number_bounds(clip_hints.get(name))
            and _same_kind(hint, clip_hints[name])
        ):
            bounded = next(each for each in _options(clip_hints[name]) if get_origin(each) is Annotated)
            hint = bounded | None if type(None) in get_args(hint) else bounded
        text = texts.get(name) or clip_texts.get(name, "")
        found[name] = FieldFacts(name, hint, default, text)
    return found


def body_model(
    name: str,
    record: type,
    *,
    only: tuple[str, ...] | None = None,
    without: tuple[str, ...] = (),
    instead: Mapping[str, tuple[Any, Any]] | None = None,
    most_characters: int,
) -> type[BaseModel]:
    """The model of a JSON body that makes a request record.

    Args:
        name: of the model, in the API's documentation.
        record: a request's dataclass or struct.
        only: fields that are taken; all if None.
        without: fields that are left out.
        instead: other types and defaults for fields, and fields of its own.
        most_characters: length of texts.
    """
    made: dict[str, Any] = {}
    for facts in request_fields(record).values():
        if facts.name in without or (only is not None and facts.name not in only):
            continue
        if instead and facts.name in instead:
            hint, default = instead[facts.name]
        else:
            hint, default = _json_hint(facts, most_characters), facts.default
        made[facts.name] = (hint, Field(default, description=facts.description))
    for extra, (hint, default) in (instead or {}).items():
        if extra not in made:
            made[extra] = (hint, Field(default))
    model: type[BaseModel] = create_model(
        name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False, strict=False), **made
    )
    return model


def controls(model: type[BaseModel], defaults: SamplingDefaults, *, seeded: bool = False) -> dict[str, Any]:
    """A model's JSON Schema as a page reads it: no unions with null, and the bundle's own defaults in their place.

    ``seeded`` says that what is asked for always starts from a picture or a recording.
    """
    schema: dict[str, Any] = model.model_json_schema()
    named = {
        "steps": defaults.steps,
        "guidance": defaults.guidance_of(seeded=seeded),
        "sampler": defaults.sampler,
        "strength": defaults.strength,
    }
    for name, property_ in schema.get("properties", {}).items():
        _without_null(property_)
        if name in named and property_.get("default") is None:
            property_["default"] = named[name]
    for definition in schema.get("$defs", {}).values():
        for name, property_ in definition.get("properties", {}).items():
            _without_null(property_)
            if name in named and property_.get("default") is None:
                property_["default"] = named[name]
    return schema


def _without_null(property_: dict[str, Any]) -> None:
    options = [each for each in property_.get("anyOf", ()) if each.get("type") != "null"]
    if len(options) == 1:
        del property_["anyOf"]
        property_.update(options[0], nullable=True)


def _json_hint(facts: FieldFacts, most_characters: int) -> Any:
    if facts.name == "sampler":
        return Literal[SAMPLERS] | None
    hint = _with_pydantic_bounds(facts.hint)
    if hint is str:
        return Annotated[str, Field(max_length=most_characters)]
    if str in get_args(hint) and type(None) in get_args(hint) and len(get_args(hint)) == 2:
        return Annotated[str, Field(max_length=most_characters)] | None
    return hint


def _with_pydantic_bounds(hint: Any) -> Any:
    """A struct's bounds in the words that dataclasses use."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        metas = [note for note in notes if isinstance(note, msgspec.Meta)]
        if not metas:
            return hint
        bounds = {
            name: value
            for meta in metas
            for name in ("ge", "le", "min_length", "max_length")
            if (value := getattr(meta, name)) is not None
        }
        return Annotated[kind, Field(**bounds)]
    if type(None) in get_args(hint):
        options = [each for each in get_args(hint) if each is not type(None)]
        return _with_pydantic_bounds(options[0]) | None if len(options) == 1 else hint
    return hint


def _options(hint: Any) -> tuple[Any, ...]:
    return (hint,) if get_origin(hint) is Annotated else get_args(hint)


def _same_kind(hint: Any, other: Any) -> bool:
    """Whether both are numbers of one kind, or None."""
    bounds = number_bounds(other)
    plain = {each for each in (hint, *get_args(hint)) if each in (int, float)}
    return bounds is not None and bounds[0] in plain


def _hints(record: type) -> dict[str, Any]:
    if is_dataclass(record):
        return request_hints(record)
    hints: dict[str, Any] = get_type_hints(record, include_extras=True)
    return hints


def _defaults(record: type) -> dict[str, Any]:
    if is_dataclass(record):
        return {
            each.name: REQUIRED if each.default is MISSING else each.default
            for each in fields(record)
            if each.init
        }
    return {
        each.name: REQUIRED if each.default is msgspec.NODEFAULT else each.default
        for each in msgspec.structs.fields(record)
    }


@cache
def _field_texts(record: type) -> Mapping[str, str]:
    """The text below each field of a class, as one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(body, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = (
                after.value.value
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                else None
            )
            if isinstance(text, str):
                texts[statement.target.id] = " ".join(text.split()).replace("``", "")
    return texts
