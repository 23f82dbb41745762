"""Times and frequencies in, the mask that repaints them out: white changes, black stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.spectrogram import hz_to_mel, mel_to_hz

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.spectrogram_params import SpectrogramParams
    from riffusion_rt.request import Ranges


def mask_of_ranges(times_s: Ranges, bands_hz: Ranges, columns: int, params: SpectrogramParams) -> Image.Image:
    """A grey picture as wide as the clip and as high as its bands, white where it may change.

    Args:
        times_s: seconds; none means the whole length.
        bands_hz: hertz; none means all bands. Where both are given both must hold.
        columns: width of the picture.
        params: how columns are times and rows are frequencies.

    Raises:
        RequestError: a range lies beyond the clip, or between two columns or bands.
    """
    from PIL import Image

    seconds = (np.arange(columns) + 0.5) * params.hop_length / params.sample_rate
    across = _inside(seconds, times_s, "s", columns * params.hop_length / params.sample_rate)
    up = _inside(band_centres_hz(params), bands_hz, "Hz", params.f_max)
    return Image.fromarray(np.uint8(255) * np.outer(up[::-1], across).astype(np.uint8))


def band_centres_hz(params: SpectrogramParams) -> NDArray[np.float64]:
    """Where each band's triangle peaks, lowest first."""
    edges = mel_to_hz(np.linspace(hz_to_mel(params.f_min), hz_to_mel(params.f_max), params.bands + 2))
    return edges[1:-1]


def _inside(values: NDArray[np.float64], ranges: Ranges, unit: str, end: float) -> NDArray[np.bool_]:
    if not ranges:
        return np.ones(len(values), np.bool_)
    found = np.zeros(len(values), np.bool_)
    for least, greatest in ranges:
        within = (values >= least) & (values <= greatest)
        if not within.any():
            raise RequestError(
                f"There is nothing to repaint from {least:g} to {greatest:g} {unit}",
                hint=f"The clip reaches from 0 to {end:g} {unit}",
            )
        found |= within
    return found
