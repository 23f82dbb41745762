"""A spectrogram picture in, its sound at a clip's loudness out, however wide the picture is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from riffusion_engine.spectrogram_params import SpectrogramParams
    from riffusion_rt.vocoder import Vocoder

COLUMNS_AT_ONCE = 512
"""Pictures wider than twice this are reconstructed piece after piece, each beside the sound before it, in constant
memory."""


def sound_of_picture(
    pixels: NDArray[np.uint8],
    params: SpectrogramParams,
    *,
    loop: bool,
    preset: str = "balanced",
    vocoder: Vocoder | None = None,
) -> NDArray[np.float32]:
    """Reconstruct phases and set the loudness.

    Args:
        pixels: (bands, columns, 3).
        params: how picture and sound belong together.
        loop: the last column is followed by the first one; then the whole width is one reconstruction.
        preset: how much work the phase loop does.
        vocoder: what reconstructs a picture that is not too wide; by default the numpy form, at ``preset``.

    Returns:
        float32 (channels, columns * hop length) in ±1.
    """
    from riffusion_rt.loudness import finish_clip
    from riffusion_rt.vocoder import Vocoder

    columns = pixels.shape[1]
    if loop or columns <= 2 * COLUMNS_AT_ONCE:
        vocoder = vocoder or Vocoder(params, preset=preset)
        return finish_clip(vocoder.waveforms(pixels[None], loop=loop)[0])
    pieces = (
        mel_of_pixels(pixels[:, start : start + COLUMNS_AT_ONCE], params)
        for start in range(0, columns, COLUMNS_AT_ONCE)
    )
    samples = laid_down(
        joined_sound(pieces, params, preset=preset), params.channels, columns * params.hop_length
    )
    return finish_long(samples)


def laid_down(pieces: Iterable[NDArray[np.float32]], channels: int, length: int) -> NDArray[np.float32]:
    """Pieces (channels, some) one after another as (channels, length), none of them held twice."""
    samples = np.empty((channels, length), np.float32)
    behind = 0
    for piece in pieces:
        samples[:, behind : behind + piece.shape[1]] = piece
        behind += piece.shape[1]
    assert behind == length
    return samples


def finish_long(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ``loudness.finish_clip`` does, in place: a long sound has no room for copies in double precision.

    Args:
        samples: (channels, n), overwritten.

    Returns:
        The same array.
    """
    from riffusion_rt.loudness import PEAK_HEADROOM_DB, TARGET_RMS_DBFS, set_rms

    set_rms(samples, TARGET_RMS_DBFS)
    np.clip(samples, -1, 1, out=samples)
    peak = max(float(samples.max()), -float(samples.min()))
    if peak > 0:
        samples *= np.float32(10 ** (-PEAK_HEADROOM_DB / 20) / peak)
    return samples


def joined_sound(
    mels: Iterable[NDArray[np.float32]], params: SpectrogramParams, *, preset: str = "balanced"
) -> Iterator[NDArray[np.float32]]:
    """Samples of pieces (channels, bands, columns) that follow each other, without a seam, in the units of ``mels``."""
    from riffusion_rt.joining import join_clips

    return join_clips(mels, params, preset=preset)


def mel_of_pixels(pixels: NDArray[np.uint8], params: SpectrogramParams) -> NDArray[np.float32]:
    """Magnitudes (channels, bands, columns) of a picture's pixels (bands, columns, 3)."""
    from PIL import Image

    from riffusion_rt.spectrogram_image import mel_from_image

    return mel_from_image(Image.fromarray(np.ascontiguousarray(pixels)), params)
