"""One line or a TOML file in, a checked plan of a song out, in which nothing is left unsaid.

intro 4 | verse 8 "jazz piano" | chorus 8 "electronic beats" level=2 | verse | chorus | outro
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from riffusion_engine.errors import RequestError

MAX_BARS = 480
"""Twenty minutes of bars of 2.56 s, as for a single picture."""

DEFAULT_BARS = 8
SHORT_BARS = 4
SHORT_SECTIONS = ("intro", "outro", "bridge", "break", "interlude")

QUIET_DB = -3.0
"""Sections that lead up or down are a little below the others."""

WRITE_IT = (
    'Write it like: intro 4 | verse 8 "jazz piano" | chorus 8 "electronic beats" | verse | chorus | outro'
)

Bars = Annotated[int, msgspec.Meta(ge=1, le=MAX_BARS)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Decibels = Annotated[float, msgspec.Meta(ge=-60, le=12)]
Fade = Literal["in", "out"]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a song. What is None is taken from the earlier section of that name, or else chosen."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=60)]
    bars: Bars | None = None
    prompt: str | None = None
    seed: Seed | None = None
    level: Decibels | None = None
    """Decibels above or below the song's loudness."""
    fade: Fade | None = None
    """Rise from silence, or fall to it, over the section."""
    variation: Share | None = None
    """How much a repeat departs from the first time: 0 is the same, 1 has only prompt and seed image in common."""
    transition: Annotated[int, msgspec.Meta(ge=0, le=MAX_BARS)] | None = None
    """Bars at its end that walk over to the next section."""


class SongPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole song. What is None is the model's own default."""

    title: str = ""
    style: str = ""
    """Words that are added to every prompt."""
    negative: str = ""
    seed: Seed = 0
    """Sections without a seed of their own count on from it."""
    steps: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    guidance: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    sampler: str | None = None
    seed_image: str = "beat-94"
    """A name or a picture's path that gives all sections one beat; an empty text goes without."""
    strength: Share = 0.92
    """How far sections go from the seed image: its beat stays, its sound does not (at 0.85 strings become marimbas)."""
    movement: Share = 0.6
    """How far the clips of a section depart from its first one."""
    transition: Annotated[int, msgspec.Meta(ge=0, le=MAX_BARS)] = 1
    """Bars at the end of a section that walk over to the next one."""
    sections: Annotated[tuple[Section, ...], msgspec.Meta(min_length=1, max_length=MAX_BARS)]

    @property
    def bars(self) -> int:
        """Bars of the whole song, once it is complete."""
        return sum(section.bars or 0 for section in self.sections)


def read_plan(text: str) -> SongPlan:
    """A plan from one line, from TOML, or from the path of a TOML file; complete.

    Raises:
        RequestError: it cannot be read, with the place in it.
    """
    if "|" not in text and "\n" not in text and text.endswith(".toml"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"Cannot read the plan {text}: {error}", hint="Check the path") from error
        return completed(plan_from_toml(text))
    return completed(plan_from_toml(text) if "[[" in text else plan_from_line(text))


def plan_from_toml(text: str) -> SongPlan:
    """The plan of a TOML document, as it says.

    Raises:
        RequestError: it is no TOML, or no plan.
    """
    try:
        return msgspec.toml.decode(text, type=SongPlan)
    except ImportError as error:
        raise RequestError(
            "Reading TOML needs Python 3.11, or a library", hint="Run: pip install tomli"
        ) from error
    except msgspec.ValidationError as error:
        raise RequestError(
            _with_place(str(error)), hint="See the plan beside any song for an example"
        ) from error
    except (msgspec.DecodeError, ValueError) as error:
        raise RequestError(f"The plan is no TOML: {error}", hint=WRITE_IT) from error


def plan_from_line(line: str) -> SongPlan:
    """The plan of one line: sections divided by ``|``, each a name, bars, a prompt, and settings like ``seed=3``.

    Raises:
        RequestError: a section cannot be read.
    """
    sections = []
    for number, part in enumerate(_divided(line), 1):
        values = _read_section(part, number)
        try:
            sections.append(msgspec.convert(values, Section, strict=False))
        except msgspec.ValidationError as error:
            raise RequestError(
                f"Section {number} of the plan, {part.strip()!r}: {_with_place(str(error))}", hint=WRITE_IT
            ) from error
    return SongPlan(sections=tuple(sections))


def completed(plan: SongPlan) -> SongPlan:
    """The plan with everything said that was left open: repeats are filled from the first time, and so on.

    Raises:
        RequestError: no section has a prompt, or the song is too long.
    """
    if all(section.prompt is None for section in plan.sections):
        raise RequestError("No section of the plan has a prompt", hint=WRITE_IT)
    known: dict[str, Section] = {}
    sections: list[Section] = []
    for index, section in enumerate(plan.sections):
        before = known.get(section.name)
        last = index == len(plan.sections) - 1
        lone = section.prompt is None and before is None
        filled = msgspec.structs.replace(
            section,
            bars=section.bars or (before.bars if before else _usual_bars(section.name)),
            prompt=section.prompt
            if section.prompt is not None
            else (before.prompt if before else _borrowed(plan, sections, index)),
            seed=section.seed
            if section.seed is not None
            else (before.seed if before else plan.seed + len(known)),
            level=section.level
            if section.level is not None
            else (before.level if before else QUIET_DB if lone and (index == 0 or last) else 0.0),
            fade=section.fade or ("in" if lone and index == 0 else "out" if lone and last else None),
            variation=section.variation or 0.0,
            transition=0 if last else plan.transition if section.transition is None else section.transition,
        )
        sections.append(filled)
        known.setdefault(section.name, filled)
    whole = msgspec.structs.replace(plan, sections=tuple(sections))
    if whole.bars > MAX_BARS:
        raise RequestError(
            f"{whole.bars} bars are too many", hint=f"A song has up to {MAX_BARS} bars, 20 minutes"
        )
    _check_settings(whole)
    return whole


def with_settings(plan: SongPlan, settings: Mapping[str, Any]) -> SongPlan:
    """The same plan with fields of its own, not its sections', replaced; another seed moves the sections' with it.

    Raises:
        RequestError: a value is outside its range.
    """
    facts = msgspec.to_builtins(plan)
    moved = int(settings.get("seed", plan.seed)) - plan.seed
    for section in facts["sections"]:
        section["seed"] = (section["seed"] or 0) + moved
        if "transition" in settings and section is not facts["sections"][-1]:
            section["transition"] = settings["transition"]
    try:
        return completed(msgspec.convert({**facts, **settings}, SongPlan))
    except msgspec.ValidationError as error:
        raise RequestError(_with_place(str(error)), hint="Choose a value within its range") from error


def plan_as_toml(plan: SongPlan) -> str:
    """The plan as a TOML document that ``read_plan`` reads back to an equal plan."""
    facts: dict[str, Any] = msgspec.to_builtins(plan)
    sections = facts.pop("sections")
    lines = [f"{name} = {_toml(value)}" for name, value in facts.items() if value is not None]
    for section in sections:
        lines += ["", "[[sections]]"]
        lines += [f"{name} = {_toml(value)}" for name, value in section.items() if value is not None]
    return "\n".join(lines).lstrip("\n") + "\n"


def _divided(line: str) -> Iterator[str]:
    """Parts between bars that are not inside quotation marks."""
    part, quote = "", ""
    for letter in line:
        if quote:
            quote = "" if letter == quote else quote
        elif letter == '"':
            quote = letter
        elif letter == "|":
            yield part
            part = ""
            continue
        part += letter
    yield part


def _read_section(part: str, number: int) -> dict[str, Any]:
    lexer = shlex.shlex(part, posix=True)
    # An apostrophe is part of a word, and a number sign no comment.
    lexer.whitespace_split, lexer.quotes, lexer.commenters = True, '"', ""
    try:
        name, *words = list(lexer)
    except ValueError as error:
        reason = "a quotation mark is not closed" if part.strip() else "there is nothing in it"
        raise RequestError(
            f"Section {number} of the plan, {part.strip()!r}: {reason}", hint=WRITE_IT
        ) from error
    values: dict[str, Any] = {"name": name}
    prompt = []
    for word in words:
        setting, sign, value = word.partition("=")
        if sign and setting in Section.__struct_fields__:
            values[setting] = value
        elif word.isdecimal() and "bars" not in values:
            values["bars"] = int(word)
        else:
            prompt.append(word)
    if prompt:
        values["prompt"] = " ".join(prompt)
    return values


def _borrowed(plan: SongPlan, before: list[Section], index: int) -> str:
    """The prompt of a section that has none: an outro plays the intro's, others the next one's, or the last."""
    if index == len(plan.sections) - 1 and before and before[0].name == "intro" and before[0].prompt:
        return before[0].prompt
    later = (section.prompt for section in plan.sections[index:] if section.prompt is not None)
    earlier = (section.prompt for section in reversed(before) if section.prompt is not None)
    # An empty prompt is one too: music of no particular kind.
    found = next(later, None)
    return next(earlier) if found is None else found


def _usual_bars(name: str) -> int:
    return SHORT_BARS if name in SHORT_SECTIONS else DEFAULT_BARS


def _check_settings(plan: SongPlan) -> None:
    """Refuse what a clip would refuse, before anything runs."""
    from riffusion_rt.request import ClipRequest

    for section in plan.sections:
        ClipRequest(
            section.prompt or "",
            plan.negative,
            section.seed or 0,
            plan.steps,
            plan.guidance,
            plan.sampler,
        )


def _with_place(message: str) -> str:
    """msgspec's message with the place in people's words: sections are counted from 1."""
    text, _, place = message.partition(" - at `$")
    place = place.rstrip("`").lstrip(".")
    if place.startswith("sections["):
        number, _, field = place.removeprefix("sections[").partition("]")
        place = f"section {int(number) + 1}" + (f", {field.lstrip('.')}" if field else "")
    return f"{text}, in {place}" if place else text


def _toml(value: object) -> str:
    if isinstance(value, str):
        escaped = "".join(
            f"\\{letter}" if letter in '"\\' else letter if letter.isprintable() else f"\\U{ord(letter):08x}"
            for letter in value
        )
        return f'"{escaped}"'
    return repr(value)
