"""A plan in, a song out bar by bar: sections that come back, walk over into each other, and keep one grid of bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.bar_grid import BARS_A_CLIP, BarGrid
from riffusion_rt.interpolation import Waypoint, slerp
from riffusion_rt.levelling import ClipLeveller
from riffusion_rt.place_drawing import Place, PlaceDrawer, mixed_place
from riffusion_rt.request import ClipRequest
from riffusion_rt.song_plan import Section, SongPlan

if TYPE_CHECKING:
    from riffusion_rt.open_model import OpenModel

BATCH = 4
"""Clips denoised together."""

PHRASE = (0.0, 0.7, 0.0, 1.0)
"""How far each of four clips departs from a section's first one, in units of the plan's movement: A A' A A''."""

TRANSITION_STRENGTH = 0.6
"""Share of the steps that are redone between two sections' clips: both are heard in what comes out."""

SILENT_DB = -48.0
"""Where fades begin and end."""

NEXT_SEED = 1_000_003
"""From a seed to that of its variations: a prime far beyond the seeds that people count."""


@dataclass(frozen=True)
class ClipPlan:
    """A clip to be drawn; two of the same plan are the same clip."""

    place: Place
    basis: ClipPlan | None = None
    """The clip that it departs from; None is a section's first one, drawn from the seed image or from noise."""
    towards: ClipPlan | None = None
    """The clip on the way to which the basis is left, by ``share``."""
    share: float = 0.0
    strength: float | None = None
    """Share of the steps that are redone on the basis."""

    @property
    def depth(self) -> int:
        """How many clips must be drawn one after another to have this one."""
        before = [each.depth for each in (self.basis, self.towards) if each is not None]
        return 1 + max(before) if before else 0


@dataclass(frozen=True)
class SongBar:
    """One bar of a song: which clip's, and which half of it."""

    section: int
    within: int
    """Bars of the section before this one."""
    clip: ClipPlan
    half: int


@dataclass(frozen=True)
class SongProgress:
    """So many of all clips are drawn."""

    drawn: int
    clips: int
    section: str


@dataclass(frozen=True, eq=False)
class SongBlock:
    """One bar of sound. As in a stream, samples lag 150 ms behind their picture; the last block brings the rest."""

    samples: NDArray[np.float32]
    """(channels, n) in ±1."""
    start: int
    """Sample of the song with which the block begins."""
    bar: int
    bars: int
    """Of the whole song."""
    section: int
    begins: bool
    """Whether the section begins with this bar."""
    pixels: NDArray[np.uint8]
    """(bands, columns of the bar, 3)."""


@dataclass(frozen=True)
class SongRequest:
    """What makes a song again."""

    plan: SongPlan

    @property
    def prompt(self) -> str:
        """What a player shows as the title."""
        names = dict.fromkeys(section.prompt or "" for section in self.plan.sections)
        return self.plan.title or " / ".join(names)

    @property
    def seed(self) -> int:
        """The plan's."""
        return self.plan.seed

    def settings(self) -> dict[str, Any]:
        """The plan as TOML."""
        from riffusion_rt.song_plan import plan_as_toml

        return {"verb": "song", "plan": plan_as_toml(self.plan)}


def arranged(plan: SongPlan) -> list[SongBar]:
    """Which clip plays in each bar of a complete plan.

    A section that comes again has the clips of its first time, at its own place in the song, unless it asks for
    variation. Its last bars walk over to the section after it.
    """
    return [bar for index in range(len(plan.sections)) for bar in _section_bars(plan, index)]


def iterate_song(model: OpenModel, plan: SongPlan) -> Iterator[SongProgress | SongBlock]:
    """Draw the clips of a complete plan, each once, and play them: progress first, then and between blocks of a bar.

    Memory holds a clip's latents, 64 kB, and its picture until it was heard for the last time.

    Raises:
        RequestError, ImageFileError, NumericsError: as ``Riffusion.generate``.
    """
    bars = arranged(plan)
    drawn = _drawn_clips(model, plan, bars)
    pictures: dict[ClipPlan, NDArray[np.uint8]] = {}
    last_use = {bar.clip: number for number, bar in enumerate(bars)}
    voice = _Voice(model, plan)
    for number, bar in enumerate(bars):
        while bar.clip not in pictures:
            clip, pixels, progress = next(drawn)
            pictures[clip] = pixels
            yield progress
        columns = slice(bar.half * voice.grid.columns, (bar.half + 1) * voice.grid.columns)
        pixels = pictures[bar.clip][:, columns]
        if not voice.has_bars:
            run = _played(bars, number, pictures)
            voice.begin_clip(run, last=number + len(run) == len(bars))
        start = voice.samples
        samples = voice.sing()
        yield SongBlock(samples, start, number, len(bars), bar.section, bar.within == 0, pixels)
        if last_use[bar.clip] == number:
            del pictures[bar.clip]


class _Voice:
    """Pictures to sound: joined, at one loudness, with the plan's dynamics on it."""

    def __init__(self, model: OpenModel, plan: SongPlan) -> None:
        from riffusion_rt.joining import ClipJoiner

        self.grid = BarGrid.of(model.manifest)
        self.samples = 0
        self._params = model.manifest.spectrogram
        self._joiner = ClipJoiner(self._params)
        self._leveller = ClipLeveller(self._params.sample_rate)
        self._waiting: list[NDArray[np.float32]] = []
        self._bars = 0
        self._gain_db = 0.0
        self._dynamics = dynamics(plan, self.grid)

    @property
    def has_bars(self) -> bool:
        """Whether bars of the clip that was begun are still to come."""
        return bool(self._waiting)

    def begin_clip(self, bars: Sequence[NDArray[np.uint8]], *, last: bool) -> None:
        """Reconstruct the bars of a clip that are played one after another, and find its gain."""
        from riffusion_rt.picture_sound import mel_of_pixels

        self._waiting = [self._joiner.push(mel_of_pixels(pixels, self._params)) for pixels in bars]
        if last:
            self._waiting[-1] = np.concatenate([self._waiting[-1], self._joiner.finish()], axis=1)
        joint = self._bars * self.grid.bar_samples - self.samples
        self._gain_db = self._leveller.gain_db(np.concatenate(self._waiting, axis=1)[:, joint:])

    def sing(self) -> NDArray[np.float32]:
        """The next bar's samples."""
        sound = self._waiting.pop(0)
        joint = self._bars * self.grid.bar_samples - self.samples
        level = self._leveller.apply(sound, self._gain_db, joint)
        times = np.arange(self.samples, self.samples + sound.shape[1])
        decibels = np.interp(times, *self._dynamics)
        self.samples += sound.shape[1]
        self._bars += 1
        return (level * 10 ** (decibels / 20)).astype(np.float32)


def dynamics(plan: SongPlan, grid: BarGrid) -> tuple[list[float], list[float]]:
    """Samples and decibels between which the loudness goes evenly: a step in level takes the bar before it."""
    times: list[float] = []
    levels: list[float] = []
    begin = 0
    for section in plan.sections:
        end, level = begin + (section.bars or 1) * grid.bar_samples, section.level or 0.0
        # A ramp of one bar before the next level, never longer than the section.
        ramp = min(grid.bar_samples, (end - begin) // 2)
        times += [begin, end - ramp]
        levels += [SILENT_DB if section.fade == "in" else level, level]
        if section.fade == "out":
            times[-1] = end
            levels[-1] = SILENT_DB
        begin = end
    return times, levels


def _section_bars(plan: SongPlan, index: int) -> Iterator[SongBar]:
    section = plan.sections[index]
    count, walk = section.bars or 1, 0
    if index + 1 < len(plan.sections):
        # At least the section's first bar is its own.
        walk = min(section.transition or 0, count - 1)
    for within in range(count):
        clip = _clip_at(plan, index, within // BARS_A_CLIP)
        place_in_walk = within - (count - walk) + 1
        if place_in_walk > 0:
            # Both bars of a clip that lies wholly inside the walk are as far on the way as its middle.
            share = place_in_walk / (walk + 1)
            after = _clip_at(plan, index + 1, 0)
            clip = ClipPlan(
                mixed_place(clip.place, after.place, share), clip, after, share, TRANSITION_STRENGTH
            )
        yield SongBar(index, within, clip, within % BARS_A_CLIP)


def _clip_at(plan: SongPlan, index: int, number: int) -> ClipPlan:
    """The clip that a section plays as its ``number``-th, were there no transition."""
    section = plan.sections[index]
    seed = section.seed or 0
    first = ClipPlan(_place(plan, section, seed))
    turn, phrase = divmod(number, len(PHRASE))
    departure = PHRASE[phrase] * plan.movement
    clip = first
    if departure > 0:
        # The third departure is the first one's: a phrase comes back, and not everything is new.
        other = _place(plan, section, seed + NEXT_SEED * (phrase + len(PHRASE) * (turn % 2)))
        clip = ClipPlan(other, first, strength=departure)
    if section.variation:
        again = sum(each.name == section.name for each in plan.sections[:index])
        other = _place(plan, section, seed + NEXT_SEED * (1000 * again + number + 100))
        clip = ClipPlan(other, clip, strength=section.variation)
    return clip


def _place(plan: SongPlan, section: Section, seed: int) -> Place:
    prompt = ", ".join(part for part in (section.prompt, plan.style) if part)
    return ((Waypoint(prompt, seed, plan.negative, plan.guidance), 1.0),)


def _played(
    bars: Sequence[SongBar], number: int, pictures: dict[ClipPlan, NDArray[np.uint8]]
) -> list[NDArray[np.uint8]]:
    """The bars of a clip that are played from a bar on, before another clip comes or it comes again."""
    clip, half = bars[number].clip, bars[number].half
    picture = pictures[clip]
    bar = picture.shape[1] // BARS_A_CLIP
    both = (
        number + 1 < len(bars) and half == 0 and bars[number + 1].clip == clip and bars[number + 1].half == 1
    )
    return [picture[:, each * bar : (each + 1) * bar] for each in range(half, half + 1 + both)]


def _drawn_clips(
    model: OpenModel, plan: SongPlan, bars: Sequence[SongBar]
) -> Iterator[tuple[ClipPlan, NDArray[np.uint8], SongProgress]]:
    """Clips in the order of their first bar, drawn in batches; clips that they depart from are drawn with them."""
    wanted = list(dict.fromkeys(bar.clip for bar in bars))
    names = {bar.clip: plan.sections[bar.section].name for bar in reversed(bars)}
    latents: dict[ClipPlan, NDArray[np.float32]] = {}
    drawer = PlaceDrawer(model, _clip_settings(plan))
    for done, clip in enumerate(wanted):
        if clip not in latents:
            ahead = [each for each in wanted[done:] if each not in latents][:BATCH]
            _draw(drawer, _with_bases(ahead, latents), latents)
        yield clip, drawer.pictures(latents[clip])[0], SongProgress(done + 1, len(wanted), names[clip])
        still = _with_bases(wanted[done + 1 :], {})
        for other in [each for each in latents if each not in still]:
            del latents[other]


def _with_bases(
    clips: Sequence[ClipPlan], known: dict[ClipPlan, NDArray[np.float32]]
) -> dict[ClipPlan, None]:
    """The clips and all that they depart from, those that are known left out."""
    found: dict[ClipPlan, None] = {}
    for clip in clips:
        if clip not in known and clip not in found:
            found.update(
                _with_bases([each for each in (clip.basis, clip.towards) if each is not None], known)
            )
            found[clip] = None
    return found


def _draw(
    drawer: PlaceDrawer, clips: dict[ClipPlan, None], latents: dict[ClipPlan, NDArray[np.float32]]
) -> None:
    """Draw clips, those of one depth and strength together."""
    waiting = sorted(clips, key=lambda clip: (clip.depth, clip.strength or 0.0))
    while waiting:
        first = waiting[0]
        batch = [each for each in waiting if (each.depth, each.strength) == (first.depth, first.strength)][
            :BATCH
        ]
        waiting = [each for each in waiting if each not in batch]
        original = None
        if first.basis is not None:
            original = np.concatenate([_original(each, latents) for each in batch])
        walk = drawer.denoised([each.place for each in batch], original=original, strength=first.strength)
        *_, done = walk
        for each, made in zip(batch, done.latents, strict=True):
            latents[each] = made[None].copy()


def _original(clip: ClipPlan, latents: dict[ClipPlan, NDArray[np.float32]]) -> NDArray[np.float32]:
    assert clip.basis is not None
    if clip.towards is None:
        return latents[clip.basis]
    return slerp(clip.share, latents[clip.basis], latents[clip.towards])


def _clip_settings(plan: SongPlan) -> ClipRequest:
    seeded = bool(plan.seed_image)
    return ClipRequest(
        plan.sections[0].prompt or "",
        plan.negative,
        plan.seed,
        plan.steps,
        plan.guidance,
        plan.sampler,
        strength=plan.strength if seeded else None,
        seed_image=plan.seed_image or None,
    )


def song_seconds(plan: SongPlan, grid: BarGrid) -> float:
    """How long a complete plan plays."""
    return plan.bars * grid.bar_s
