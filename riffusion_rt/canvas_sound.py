"""A canvas's latents in, its picture and its unbroken sound at the loudness of a recording out, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.loudness import PEAK_HEADROOM_DB, rms_dbfs, set_rms

if TYPE_CHECKING:
    from riffusion_rt.canvas import Canvas
    from riffusion_rt.open_model import OpenModel

MATCHING_ROUNDS = 4
"""Gains until cut peaks are made up for; each one comes closer by what the last one cut."""


def picture_and_sound(
    model: OpenModel, latents: NDArray[np.float32], canvas: Canvas, loudness: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decode and reconstruct piece by piece.

    Args:
        model: the decoder and the spectrogram's parameters.
        latents: (1, channels, height, canvas width), clean.
        canvas: how many columns are wanted.
        loudness: (columns or more,) magnitude that black stands for, column by column.

    Returns:
        Pixels (rows, columns, 3), and samples (channels, columns * hop length) of no particular level.
    """
    from riffusion_rt.picture_sound import COLUMNS_AT_ONCE, joined_sound, laid_down, mel_of_pixels
    from riffusion_rt.pipeline import picture_pieces

    params = model.manifest.spectrogram
    pixels = np.empty((params.bands, canvas.columns, 3), np.uint8)

    def mels() -> Iterator[NDArray[np.float32]]:
        sounded = drawn = 0
        for piece in picture_pieces(model, latents, canvas):
            pixels[:, drawn : drawn + piece.shape[1]] = piece
            drawn += piece.shape[1]
            # Every push reconstructs the columns held back once more: many small ones would be mostly that.
            if drawn - sounded >= COLUMNS_AT_ONCE or drawn == canvas.columns:
                yield mel_of_pixels(pixels[:, sounded:drawn], params) * loudness[sounded:drawn]
                sounded = drawn

    return pixels, laid_down(
        joined_sound(mels(), params), params.channels, canvas.columns * params.hop_length
    )


def at_loudness_of(samples: NDArray[np.float32], recording: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale to the root mean square of a recording; what would leave full scale is cut, and made up for.

    Args:
        samples: (channels, n), overwritten, for long ones have no room for copies; silence stays silence.
        recording: (channels, any); the level that is aimed at.

    Returns:
        The same array.
    """
    target, ceiling = rms_dbfs(recording), 10 ** (-PEAK_HEADROOM_DB / 20)
    for _ in range(MATCHING_ROUNDS):
        set_rms(samples, target)
        np.clip(samples, -ceiling, ceiling, out=samples)
    return samples


def as_recorded(
    samples: NDArray[np.float32], from_rate: int, recording: NDArray[np.float32], rate: int, length: int
) -> NDArray[np.float32]:
    """At a recording's sample rate, in as many channels, and of exactly ``length`` samples.

    Where the sound has other channels than the recording its mixture is placed as the recording is, which is what is
    heard at the same time, or at first; see ``riffusion_rt.panorama``.
    """
    from riffusion_rt.panorama import placed_as
    from riffusion_rt.resampling import resample

    at_rate = resample(samples, from_rate, rate)
    missing = length - at_rate.shape[1]
    exact = np.pad(at_rate, ((0, 0), (0, missing))) if missing > 0 else at_rate[:, :length]
    if len(exact) == len(recording):
        return exact
    mono = exact if len(exact) == 1 else exact.mean(axis=0, keepdims=True)
    return placed_as(mono, recording, rate)
