"""What a clip is asked to be: one frozen record that Python, the command line and a server share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Le

from riffusion_engine.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.manifest import SamplingDefaults

Picture = Union["Image.Image", Path, str]
"""A picture in memory, or the path of one."""

Ranges = tuple[tuple[float, float], ...]
"""Pairs of a least and a greatest value."""

MAX_SEED = 2**64 - 1
MAX_DURATION_S = 1200.0
"""Twenty minutes: what the largest picture holds that is read back."""
MAX_PROMPT_CHARACTERS = 20_000
"""Longer prompts are refused before they reach the tokenizer: a mistake or an attack, not a description."""


class SoundRequest(Protocol):
    """What every form of making music states: enough to name a result, and to make it again."""

    @property
    def prompt(self) -> str:
        """What a player shows as the title."""
        ...

    @property
    def seed(self) -> int:
        """The seed, or the first one."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain JSON values; ``verb`` names the form where it is not ``generate``."""
        ...


@dataclass(frozen=True)
class ClipRequest:
    """One clip. ``None`` means the model's own default, as its manifest states it.

    With ``seed_image`` the clip is drawn from that picture (image to image): the larger ``strength``, the less of it
    remains. With ``mask`` as well, white areas are drawn anew, black ones kept, grey ones blended.
    """

    prompt: str
    """What to play. ``(word)``, ``[word]`` and ``(word:1.3)`` stress or soften; any length."""
    negative_prompt: str = ""
    """What to stay away from; works when guidance is above 1."""
    seed: Annotated[int, Ge(0), Le(MAX_SEED)] = 0
    """Same seed, same request, same model: same clip."""
    steps: Annotated[int, Ge(1), Le(1000)] | None = None
    """Denoising steps."""
    guidance: Annotated[float, Ge(0), Le(100)] | None = None
    """How much the prompt outweighs the empty prompt; 1 or less turns guidance off and halves the work."""
    sampler: str | None = None
    """One of ``riffusion_rt.samplers.SAMPLERS``."""
    strength: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of the steps that are redone on a seed image."""
    seed_image: Picture | None = None
    """The picture to start from."""
    mask: Picture | None = None
    """Where the seed image may change."""
    seed_audio: Path | str | None = None
    """A recording whose spectrogram is the seed image."""
    duration_s: Annotated[float, Ge(0.01), Le(MAX_DURATION_S)] | None = None
    """Length, to the nearest column; the model's own if None."""
    loop: bool = False
    """The end meets the start: windows wrap around, and the length is rounded to whole cells of latents."""
    repaint_s: Ranges = ()
    """Times of the seed image, in seconds, that may change; the rest is kept."""
    repaint_hz: Ranges = ()
    """Frequencies of the seed image, in hertz, that may change; with ``repaint_s`` both must hold."""

    def __post_init__(self) -> None:
        """Check everything that needs no model.

        Raises:
            RequestError: a value is of the wrong type, outside its range, or contradicts another one.
        """
        for name in ("prompt", "negative_prompt"):
            if not isinstance(getattr(self, name), str):
                raise RequestError(f"{name} must be text, not {getattr(self, name)!r}", hint="Pass a string")
        check_ranges(self, request_hints(ClipRequest))
        if len(self.prompt) > MAX_PROMPT_CHARACTERS or len(self.negative_prompt) > MAX_PROMPT_CHARACTERS:
            raise RequestError(
                f"A prompt may have {MAX_PROMPT_CHARACTERS:,} characters",
                hint="Shorten it to what should be heard",
            )
        if self.sampler is not None:
            from riffusion_rt.samplers import SAMPLERS

            if self.sampler not in SAMPLERS:
                raise RequestError(
                    f"There is no sampler {self.sampler!r}", hint=f"Choose one of: {', '.join(SAMPLERS)}"
                )
        for name in ("repaint_s", "repaint_hz"):
            object.__setattr__(self, name, _checked_ranges(name, getattr(self, name)))
        self._check_seeds()

    @property
    def has_seed(self) -> bool:
        """Whether the clip is drawn from a picture or a recording."""
        return self.seed_image is not None or self.seed_audio is not None

    def _check_seeds(self) -> None:
        if self.seed_image is not None and self.seed_audio is not None:
            raise RequestError(
                "A clip starts from a seed image or from seed audio, not from both",
                hint="Leave --seed-image or --seed-audio out",
            )
        ranges = bool(self.repaint_s or self.repaint_hz)
        if self.mask is not None and ranges:
            raise RequestError(
                "A mask picture and ranges to repaint exclude each other",
                hint="Leave --mask out, or --repaint and --repaint-band",
            )
        given = {"mask": self.mask is not None, "strength": self.strength is not None, "repaint": ranges}
        for name, present in given.items():
            if present and not self.has_seed:
                raise RequestError(
                    f"A {name} needs a picture to work on",
                    hint="Add a seed image (--seed-image FILE) or a recording (--seed-audio FILE)",
                )

    def resolved(self, defaults: SamplingDefaults) -> ClipRequest:
        """The same request with the model's ``defaults`` in place of ``None``."""
        return dataclasses.replace(
            self,
            steps=self.steps if self.steps is not None else defaults.steps,
            guidance=self.guidance
            if self.guidance is not None
            else defaults.guidance_of(seeded=self.has_seed),
            sampler=self.sampler if self.sampler is not None else defaults.sampler,
            strength=(self.strength if self.strength is not None else defaults.strength)
            if self.has_seed
            else None,
        )

    def settings(self) -> dict[str, Any]:
        """The request as plain JSON values; pictures in memory become ``"(picture)"``, paths their text."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("seed_image", "mask", "seed_audio"):
            values[name] = source_text(values[name])
        return {
            name: value
            for name, value in values.items()
            if not (value is None or value is False or value == ())
        }


def source_text(source: Picture | None) -> str | None:
    """What metadata calls a seed: its path, or ``"(picture)"`` for one in memory."""
    if source is None:
        return None
    return str(source) if isinstance(source, str | Path) else "(picture)"


def field_range(name: str) -> tuple[float, float] | None:
    """The least and greatest value of a ``ClipRequest`` field, or None if it has no range."""
    bounds = number_bounds(request_hints(ClipRequest)[name])
    return bounds[1:] if bounds else None


def request_hints(kind: type) -> dict[str, Any]:
    """The types of a request's fields, with their ranges; a picture in memory counts as any object."""
    return get_type_hints(kind, include_extras=True, localns={"Image": type("Image", (), {"Image": object})})


def number_bounds(hint: Any) -> tuple[type, float, float] | None:
    """(type, least, greatest) of an ``Annotated`` number, also inside a union with None."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        least: Any = next((note.ge for note in notes if isinstance(note, Ge)), None)
        greatest: Any = next((note.le for note in notes if isinstance(note, Le)), None)
        return None if least is None or greatest is None else (kind, least, greatest)
    for option in get_args(hint):
        if (found := number_bounds(option)) is not None:
            return found
    return None


def parse_range(text: str, unit: str) -> tuple[float, float]:
    """A range as people write it: ``1.5-3``.

    Raises:
        RequestError: it is not two numbers that rise.
    """
    least, _, greatest = text.partition("-")
    try:
        return _checked_ranges(unit, [(float(least), float(greatest))])[0]
    except ValueError as error:
        raise RequestError(f"{text!r} is no range of {unit}", hint="Write it like 1.5-3") from error


def _checked_ranges(name: str, ranges: Any) -> Ranges:
    try:
        pairs = tuple((float(least), float(greatest)) for least, greatest in ranges)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{name} must be pairs of numbers, not {ranges!r}", hint="Give it like [(1.5, 3.0)]"
        ) from error
    for least, greatest in pairs:
        if not 0 <= least < greatest < float("inf"):
            raise RequestError(
                f"{name} must be ranges that rise from 0 or more, not {least:g} to {greatest:g}",
                hint="Write the lesser value first, like 1.5-3",
            )
    return pairs


def check_ranges(record: Any, hints: Mapping[str, Any]) -> None:
    """Check the numbers of a dataclass against the ranges that its ``hints`` state; None is in every range.

    Raises:
        RequestError: one is of another type or outside its range.
    """
    for field in dataclasses.fields(record):
        value, bounds = getattr(record, field.name), number_bounds(hints[field.name])
        if bounds is None or value is None:
            continue
        kind, least, greatest = bounds
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))) or not least <= value <= greatest:
            number = "a whole number" if kind is int else "a number"
            raise RequestError(
                f"{field.name} must be {number} from {least} to {greatest}, not {value!r}",
                hint=f"Choose {field.name} within its range",
            )
