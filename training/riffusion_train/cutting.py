"""A recording in, the pieces of it that become pictures out: without silence, and whole bars if they are wanted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_train.tempo import FASTEST_BPM, SLOWEST_BPM, Beats, find_beats

SILENCE_DB = -45.0
"""Level of 20 ms, beside the recording's loudest, below which its beginning and its end are silence."""
FAINT = 10 ** (-70 / 20)
"""A recording whose loudest sample is fainter than this holds nothing."""
_FRAME_S = 0.02
MAX_SHIFTS = 64


@dataclass(frozen=True)
class CuttingRecipe:
    """How recordings are cut.

    Args:
        params, columns: the picture's geometry; a piece fills ``columns`` columns.
        bars: whole bars in a piece; None cuts one picture's length after another, regardless of beats.
        bpm: the tempo of all recordings, if it is known; None estimates each one's.
        beats_a_bar: beats in a bar.
        loops: every recording is one loop and taken whole.
        max_stretch: by what share the tempo may give way, so that bars or a loop fill the picture exactly.
        shifts: copies of every piece of bars or loop, turned in time.
        silence_db: where silence ends, beside the recording's loudest 20 ms.
    """

    params: SpectrogramParams = field(default_factory=SpectrogramParams)
    columns: int = 512
    bars: int | None = None
    bpm: float | None = None
    beats_a_bar: int = 4
    loops: bool = False
    max_stretch: float = 0.25
    shifts: int = 0
    silence_db: float = SILENCE_DB

    @property
    def samples(self) -> int:
        """Samples of a piece that is not stretched (225,792)."""
        return self.columns * self.params.hop_length

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            RequestError: with the option to change.
        """
        ranges = (
            ("columns", self.columns, 1, 65_536),
            ("bars", self.bars, 1, 256),
            ("bpm", self.bpm, SLOWEST_BPM, FASTEST_BPM),
            ("beats a bar", self.beats_a_bar, 1, 32),
            ("max stretch", self.max_stretch, 0.0, 1.0),
            ("shifts", self.shifts, 0, MAX_SHIFTS),
            ("silence", self.silence_db, -120.0, -6.0),
        )
        for name, value, low, high in ranges:
            if value is not None and not low <= value <= high:
                raise RequestError(
                    f"{name} must be from {low:g} to {high:g}, not {value}",
                    hint="See riffusion-rt dataset --help",
                )
        if self.loops and self.bars is not None:
            raise RequestError("--loops takes recordings whole, --bars cuts them", hint="Use one of the two")
        if self.shifts and not (self.loops or self.bars):
            raise RequestError(
                "Only loops may be turned in time: elsewhere a seam would be heard",
                hint="Add --bars N or --loops, or leave --shifts out",
            )


@dataclass(frozen=True)
class Piece:
    """A piece of a recording at the picture's rate: where it starts and how long it is, in (fractional) samples.

    ``repeats`` of it fill a picture. ``loop`` says that its end is followed by its start. ``beats`` is how many there
    are in a picture, 0 if nobody knows.
    """

    start: float
    length: float
    loop: bool = False
    repeats: int = 1
    beats: int = 0
    bpm: float | None = None


@dataclass(frozen=True)
class Cuts:
    """The pieces of one recording, and why there are none or fewer than one might think, counted."""

    pieces: tuple[Piece, ...]
    skipped: tuple[tuple[str, int], ...] = ()


def sounding_range(samples: NDArray[np.float32], rate: int, silence_db: float) -> tuple[int, int] | None:
    """Where sound (channels, n) begins and ends; None if there is none."""
    if float(np.abs(samples).max()) < FAINT:
        return None
    frame = max(1, round(_FRAME_S * rate))
    count = -(-samples.shape[1] // frame)
    padded = np.pad(samples, ((0, 0), (0, count * frame - samples.shape[1])))
    level = np.sqrt(np.mean(padded.reshape(len(samples), count, frame) ** 2, axis=(0, 2)))
    loud = np.flatnonzero(level >= level.max() * 10 ** (silence_db / 20))
    return int(loud[0]) * frame, min(samples.shape[1], (int(loud[-1]) + 1) * frame)


def cut(samples: NDArray[np.float32], recipe: CuttingRecipe) -> Cuts:
    """Cut a recording (channels, n) that is at the picture's rate."""
    rate = recipe.params.sample_rate
    sounding = sounding_range(samples, rate, recipe.silence_db)
    if sounding is None:
        return Cuts((), (("silent", 1),))
    if recipe.loops:
        return _whole_loop(samples.shape[1], recipe)
    begin, end = sounding
    if recipe.bars:
        cuts = _bars(samples[:, begin:end], samples.shape[1] - begin, recipe)
    else:
        cuts = _in_a_row(end - begin, recipe)
    moved = tuple(replace(piece, start=piece.start + begin) for piece in cuts.pieces)
    floor = _level(samples[:, begin:end]) * 10 ** (recipe.silence_db / 20)
    sounding_pieces = tuple(
        p for p in moved if _level(samples[:, int(p.start) : int(p.start + p.length)]) > floor
    )
    silent = len(moved) - len(sounding_pieces)
    return Cuts(sounding_pieces, cuts.skipped + ((("silent", silent),) if silent else ()))


def _in_a_row(total: int, recipe: CuttingRecipe) -> Cuts:
    count = total // recipe.samples
    if count == 0:
        return Cuts((), (("too short", 1),))
    return Cuts(tuple(Piece(float(k * recipe.samples), float(recipe.samples)) for k in range(count)))


def _whole_loop(total: int, recipe: CuttingRecipe) -> Cuts:
    repeats = max(1, round(recipe.samples / total))
    if not _fits(total * repeats, recipe):
        return Cuts((), (("too long" if total > recipe.samples else "too short", 1),))
    bpm, beats = None, 0
    if recipe.bpm is not None:
        beats = round(total * repeats / recipe.params.sample_rate * recipe.bpm / 60)
        bpm = beats * 60 / (total * repeats / recipe.params.sample_rate)
    return Cuts((Piece(0.0, float(total), True, repeats, beats, bpm),))


def _bars(samples: NDArray[np.float32], total: int, recipe: CuttingRecipe) -> Cuts:
    """Bars of ``samples``, the last of which may end in the silence up to ``total``, or lack half a beat of it."""
    assert recipe.bars is not None
    beats = recipe.bars * recipe.beats_a_bar
    rate = recipe.params.sample_rate
    fitting_bpm = 60 * beats * rate / recipe.samples
    found = find_beats(samples, bpm=recipe.bpm, beats_a_bar=recipe.beats_a_bar, near_bpm=fitting_bpm)
    if found is None:
        too_short = samples.shape[1] < recipe.samples * (1 - recipe.max_stretch)
        return Cuts((), (("too short" if too_short else "without a clear beat", 1),))
    last = total + rate * 60 / found.bpm / 2
    starts = range(found.first_downbeat, len(found.times), beats)
    pieces = [_fitted(found, first, beats, rate) for first in starts]
    pieces = [piece for piece in pieces if piece.start + piece.length <= last]
    if not pieces:
        return Cuts((), (("too short", 1),))
    fitting = tuple(piece for piece in pieces if _fits(piece.length, recipe))
    misfits = len(pieces) - len(fitting)
    return Cuts(fitting, (("too fast or slow for the picture", misfits),) if misfits else ())


def _fitted(found: Beats, first: int, beats: int, rate: int) -> Piece:
    """Bars from beat ``first`` on; a line through their beats is finer than any one of them."""
    around = found.times[first : first + beats + 1]
    if len(around) > 2:
        period, start = np.polyfit(np.arange(len(around)), around, 1)
    else:
        period, start = 60 / found.bpm, around[0]
    return Piece(
        max(0.0, float(start) * rate), float(period) * beats * rate, True, 1, beats, 60 / float(period)
    )


def _fits(length: float, recipe: CuttingRecipe) -> bool:
    most = 1 + recipe.max_stretch
    return 1 / most <= length / recipe.samples <= most


def _level(samples: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) if samples.size else 0.0
