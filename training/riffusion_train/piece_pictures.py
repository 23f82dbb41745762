"""A piece of a recording in, its spectrogram picture out: exactly as many columns as were asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_train.cutting import CuttingRecipe, Piece

if TYPE_CHECKING:
    from PIL import Image

_SURROUNDINGS = 8
"""Columns analysed on either side of a piece, so that its first and last columns hear what is beside them."""


def mel_of_piece(samples: NDArray[np.float32], piece: Piece, recipe: CuttingRecipe) -> NDArray[np.float32]:
    """Analyse one piece of a recording (channels, n) at the picture's rate.

    A piece of another length than the picture's is played faster or slower without changing its pitch: its spectrogram
    is read at other moments. Columns overlap tenfold, so that reading between two of them loses nothing.

    Returns:
        Magnitudes (channels, bands, ``recipe.columns``).
    """
    from riffusion_rt.spectrogram import mel_spectrogram

    params, hop = recipe.params, recipe.params.hop_length
    if not piece.loop:
        first = round(piece.start)
        before = min(_SURROUNDINGS, first // hop)
        last = first + recipe.samples + _SURROUNDINGS * hop
        heard = samples[:, first - before * hop : last]
        return mel_spectrogram(heard, params, columns=before + recipe.columns)[:, :, before:]
    once = _cut_loop(samples, piece)
    whole = np.tile(once, (1, piece.repeats))
    moments = np.arange(recipe.columns) * (whole.shape[1] / recipe.columns / hop)
    mel = mel_spectrogram(whole, params, columns=math.ceil(moments[-1]) + 2, loop=True)
    left = np.floor(moments).astype(int)
    share = (moments - left).astype(np.float32)
    return np.asarray(mel[:, :, left] * (1 - share) + mel[:, :, left + 1] * share, np.float32)


def picture_of_piece(
    samples: NDArray[np.float32], piece: Piece, recipe: CuttingRecipe
) -> tuple[Image.Image, float]:
    """Draw one piece; the loudest magnitude is what its black stands for."""
    from riffusion_rt.spectrogram_image import image_from_mel, loudest_magnitude

    mel = mel_of_piece(samples, piece, recipe)
    loudest = loudest_magnitude(mel)
    return image_from_mel(mel, recipe.params, max_value=loudest), loudest


def turned(image: Image.Image, columns: int) -> Image.Image:
    """A loop's picture that begins ``columns`` later and ends with what came before."""
    from PIL import Image

    return Image.fromarray(np.roll(np.asarray(image), -columns, axis=1))


def turns(piece: Piece, recipe: CuttingRecipe) -> tuple[int, ...]:
    """By how many columns to turn each of the copies: evenly over the piece, by whole beats where they are known.

    Fewer than ``recipe.shifts`` if the piece has no more beats.
    """
    if not recipe.shifts or not piece.loop:
        return ()
    lap = recipe.columns / piece.repeats
    per_lap = (
        piece.beats // piece.repeats if piece.beats and piece.beats % piece.repeats == 0 else piece.beats
    )
    places = [lap * k / (recipe.shifts + 1) for k in range(1, recipe.shifts + 1)]
    if per_lap:
        places = [round(place * per_lap / lap) * lap / per_lap for place in places]
    columns = {round(place) for place in places if 0 < round(place) < round(lap)}
    return tuple(sorted(columns))


def _cut_loop(samples: NDArray[np.float32], piece: Piece) -> NDArray[np.float32]:
    """The loop's samples, a whole number of them; what the recording lacks at its end is silence."""
    first, length = round(piece.start), max(1, round(piece.length))
    part = samples[:, first : first + length]
    return np.pad(part, ((0, 0), (0, length - part.shape[1])))
