"""A picture or a recording in, the pixels that a walk starts from out, as wide as the canvas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.manifest import LatentSpec
    from riffusion_engine.spectrogram_params import SpectrogramParams
    from riffusion_rt.request import Picture

COLUMNS_AT_ONCE = 4096
"""Columns analysed at a time: half a minute, so that a long recording costs little more than its samples."""

FAINTEST = 1e-6
"""Far below any 16-bit sample's magnitude: a silent recording divides by this."""

QUIETEST = 1e-3
"""Passages below a thousandth of the loudest (60 dB) are drawn quiet, not blown up into music."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A recording's spectrogram as the model knows such pictures, and how loud it really was."""

    pixels: NDArray[np.uint8]
    """(bands, columns) grey, or (bands, columns, 3) of a stereo model; black is the loudest of its surroundings."""
    loudness: NDArray[np.float32]
    """(columns,) magnitude that black stands for, which follows the recording slowly."""


def open_picture(picture: Picture) -> Image.Image:
    """The picture itself, read where a path, or the name of one of the package's seed images, was given.

    Raises:
        ImageFileError: it cannot be read.
    """
    from riffusion_rt.seed_image_set import seed_image_path
    from riffusion_rt.spectrogram_image import load_image

    picture = seed_image_path(picture)
    return load_image(Path(picture)) if isinstance(picture, str | Path) else picture


def pixels_of_picture(picture: Image.Image, spec: LatentSpec, width: int) -> NDArray[np.uint8]:
    """(rows, ``width`` cells of columns, 3): the picture at the model's height, cut off or repeated to the canvas.

    On a canvas of the model's own width a picture of another size is resized as a whole, as Riffusion does.
    """
    from PIL import Image as Pictures

    rows, columns = spec.height * spec.vae_factor, width * spec.vae_factor
    fitted = picture.convert("RGB")
    wanted = (columns if width == spec.width else fitted.width, rows)
    if fitted.size != wanted:
        fitted = fitted.resize(wanted, Pictures.Resampling.LANCZOS)
    return np.take(np.asarray(fitted), np.arange(columns), axis=1, mode="wrap")


def read_recording(
    path: Path, params: SpectrogramParams
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """A recording as it is, (channels, n), the same at the spectrogram's rate and channels, and its own rate.

    Raises:
        AudioFileError: it cannot be read.
    """
    from riffusion_rt.audio_file import read_audio
    from riffusion_rt.resampling import resample, with_channels

    samples, rate = read_audio(path)
    return samples, resample(with_channels(samples, params.channels), rate, params.sample_rate), rate


def draw_recording(samples: NDArray[np.float32], params: SpectrogramParams, columns: int) -> Drawing:
    """The spectrogram of a recording that is repeated until it fills ``columns``.

    Each passage is drawn against the loudest of the clip's length around it, as training clips were, so that
    quiet ones are pictures too; ``loudness`` keeps what that took away.

    Args:
        samples: (channels, n) at the parameters' rate.
        params: how sound becomes a picture.
        columns: width of the picture.
    """
    from riffusion_rt.spectrogram_image import image_from_mel

    loudness = _surrounding_loudness(samples, params, columns)
    # A picture holds magnitudes to the quarter power in 8 bits: kept so, twenty minutes are 60 MB and not 250.
    pieces = []
    for start, mel in _mel_pieces(samples, params, columns):
        relative = mel / loudness[start : start + mel.shape[-1]]
        drawn = np.asarray(image_from_mel(relative, params, max_value=1.0))
        pieces.append(drawn if params.stereo else drawn[:, :, 0])
    return Drawing(np.concatenate(pieces, axis=1), loudness)


def _surrounding_loudness(
    samples: NDArray[np.float32], params: SpectrogramParams, columns: int
) -> NDArray[np.float32]:
    from scipy.ndimage import maximum_filter1d, uniform_filter1d

    around = params.bands  # Pictures of a model are as wide as they are high.
    peaks = np.concatenate([mel.max(axis=(0, 1)) for _, mel in _mel_pieces(samples, params, columns)])
    floor = max(float(peaks.max()) * QUIETEST, FAINTEST)
    highest = maximum_filter1d(np.maximum(peaks, floor), 2 * around + 1, mode="nearest")
    smooth = uniform_filter1d(highest, around + 1, mode="nearest")
    loudness: NDArray[np.float32] = np.maximum(smooth, floor).astype(np.float32)
    return loudness


def _mel_pieces(
    samples: NDArray[np.float32], params: SpectrogramParams, columns: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first column, magnitudes (channels, bands, some columns)) of the recording, repeated if it is too short."""
    from riffusion_rt.spectrogram import mel_spectrogram

    hop, length = params.hop_length, samples.shape[1]
    beside = -(-params.win_length // (2 * hop))
    for start in range(0, columns, COLUMNS_AT_ONCE):
        stop = min(columns, start + COLUMNS_AT_ONCE)
        places = np.abs(np.arange((start - beside) * hop, (stop + beside) * hop)) % length
        mel = mel_spectrogram(samples[:, places], params, columns=stop - start + 2 * beside)
        yield start, mel[..., beside : beside + stop - start]
