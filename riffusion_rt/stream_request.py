"""What a stream is asked to be, and to become: frozen records that Python, the command line and a server share."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le

from riffusion_engine.errors import RequestError
from riffusion_rt.interpolation import Waypoint
from riffusion_rt.request import ClipRequest, Picture, check_ranges, request_hints, source_text

if TYPE_CHECKING:
    from riffusion_rt.place_drawing import Place

Mix = tuple[tuple[str, float], ...]
"""Prompts and how much each counts."""

CLIPS_A_SEED = 4
"""Clips from a seed to the next, at a quarter of the way each, as Riffusion's web app walks."""

GLIDE_CLIPS = 2
"""Clips to another prompt: half-way is heard at once, and it has arrived five seconds later."""

LOOK_AHEAD_CLIPS = 1.5
"""Of a live stream, by default: a clip may take as long as it plays, and half of that again in a busy moment."""

MAX_GLIDE = 100
MAX_CLIPS_A_SEED = 1000
MAX_STREAM_S = 1e7
MAX_PROMPTS = 16
MAX_LOOK_AHEAD_S = 600.0

_WEIGHT = re.compile(r"^(?P<prompt>.*?)\s*=\s*(?P<weight>[0-9.]+)$", re.DOTALL)
_BETWEEN = re.compile(r"\s\+\s")
_AT = re.compile(r"^(?P<prompt>.+)@(?P<seconds>[0-9.]+)\s*s?$", re.DOTALL)


def read_mix(text: str) -> Mix:
    """Prompts as people write them: ``funky piano``, ``piano + drums``, ``jazz piano=2 + church bells=0.5``.

    Returns:
        Prompts with shares that sum to 1.

    Raises:
        RequestError: a weight is no number above 0, or there are too many prompts.
    """
    mix = []
    for part in _BETWEEN.split(text):
        found = _WEIGHT.match(part)
        try:
            weight = float(found["weight"]) if found else 1.0
        except ValueError:
            weight = 0.0
        if not 0 < weight < 1e6:
            raise RequestError(
                f"{part.strip()!r} has no weight above 0", hint='Write it like "jazz piano=2 + church bells"'
            )
        mix.append(((found["prompt"] if found else part).strip(), weight))
    if len(mix) > MAX_PROMPTS:
        raise RequestError(
            f"{len(mix)} prompts at once are too many", hint=f"Mix up to {MAX_PROMPTS} of them"
        )
    total = sum(weight for _, weight in mix)
    return tuple((prompt, weight / total) for prompt, weight in mix)


@dataclass(frozen=True)
class Steer:
    """Another prompt, or several with weights, to go to."""

    prompt: str
    """As ``read_mix`` reads it."""
    glide: int = GLIDE_CLIPS
    """Clips until it has arrived."""
    seed: int | None = None
    """None keeps the seed that the stream has come to."""
    at_s: float | None = None
    """Seconds of the stream; None is as soon as can be."""

    def __post_init__(self) -> None:
        """Check everything that needs no stream.

        Raises:
            RequestError: a value is outside its range.
        """
        if not isinstance(self.glide, int) or not 1 <= self.glide <= MAX_GLIDE:
            raise RequestError(
                f"A glide takes 1 to {MAX_GLIDE} clips, not {self.glide!r}", hint="Choose --glide in range"
            )
        if self.at_s is not None and not 0 <= self.at_s < 1e9:
            raise RequestError(
                f"A stream cannot be steered at {self.at_s:g} s", hint="Give seconds of 0 or more"
            )
        for prompt, _ in self.mix:
            ClipRequest(prompt, seed=self.seed or 0)

    @property
    def mix(self) -> Mix:
        """The prompts and their shares."""
        return read_mix(self.prompt)

    @staticmethod
    def parse(text: str, glide: int = GLIDE_CLIPS) -> Steer:
        """A steer as ``--then`` takes it: ``PROMPT@20s``.

        Raises:
            RequestError: there is no time in it.
        """
        found = _AT.match(text)
        try:
            seconds = float(found["seconds"]) if found else -1.0
        except ValueError:
            seconds = -1.0
        if found is None or seconds < 0:
            raise RequestError(f"{text!r} does not say when", hint='Write it like "church bells@20s"')
        return Steer(found["prompt"].strip(), glide, at_s=seconds)

    def __str__(self) -> str:
        return self.prompt if self.at_s is None else f"{self.prompt}@{self.at_s:g}s"


@dataclass(frozen=True)
class StreamRequest:
    """Music that goes on. ``None`` means the model's own default, as its manifest states it."""

    prompt: str
    """One, or several with weights: see ``read_mix``."""
    seed: int = 0
    """Where the walk from seed to seed begins."""
    negative_prompt: str = ""
    steps: int | None = None
    """Wanted; a live stream takes fewer where the machine is too slow."""
    guidance: float | None = None
    sampler: str | None = None
    seed_image: Picture | None = None
    """A picture that every clip starts from: it keeps the beat."""
    strength: float | None = None
    clips_a_seed: Annotated[int, Ge(1), Le(MAX_CLIPS_A_SEED)] = CLIPS_A_SEED
    """Clips from a seed to the next."""
    glide: Annotated[int, Ge(1), Le(MAX_GLIDE)] = GLIDE_CLIPS
    """Clips to another prompt, where a steer does not say."""
    duration_s: Annotated[float, Ge(0.01), Le(MAX_STREAM_S)] | None = None
    """Where to end; None is never."""
    look_ahead_s: Annotated[float, Ge(0.1), Le(MAX_LOOK_AHEAD_S)] | None = None
    """How long before it is heard a bar is made; None is a clip and a half. Steers wait for it, and busy machines
    live on it."""
    then: tuple[Steer, ...] = ()
    """Steers that are known beforehand."""

    def __post_init__(self) -> None:
        """Check everything that needs no model; steers may be given as dictionaries.

        Raises:
            RequestError: a value is outside its range.
        """
        steers = (Steer(**each) if isinstance(each, dict) else each for each in self.then)
        object.__setattr__(self, "then", tuple(steers))
        for prompt, _ in read_mix(self.prompt):
            dataclasses.replace(self.as_clip(), prompt=prompt)
        Steer(self.prompt, self.glide)
        check_ranges(self, request_hints(StreamRequest))

    def as_clip(self) -> ClipRequest:
        """What all clips of the stream share, as a clip's request."""
        return ClipRequest(
            self.prompt,
            self.negative_prompt,
            self.seed,
            self.steps,
            self.guidance,
            self.sampler,
            self.strength,
            self.seed_image,
        )

    def place(self, mix: Mix, seed: int) -> Place:
        """Where a mixture of prompts is played."""
        return tuple(
            (Waypoint(prompt, seed, self.negative_prompt, self.guidance), share) for prompt, share in mix
        )

    def resolved_with(self, steered: list[Steer], duration_s: float) -> StreamRequest:
        """The request that plays again what was heard: with the steers that came and the end that was made."""
        return dataclasses.replace(self, then=tuple(steered), duration_s=duration_s)

    def settings(self) -> dict[str, Any]:
        """The request as plain JSON values that make the same request."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["seed_image"] = source_text(values["seed_image"])
        values["then"] = [
            {name: value for name, value in dataclasses.asdict(steer).items() if value is not None}
            for steer in self.then
        ]
        kept = {name: value for name, value in values.items() if value not in (None, "", [])}
        return {"verb": "stream", **kept}
