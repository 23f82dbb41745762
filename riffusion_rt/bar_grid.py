"""A model's picture in, the bars on it out: the grid that streams and songs keep from their first sample to their last.

A picture of Riffusion's holds two bars: 512 columns are 5.12 s, eight beats at 93.75 BPM. Bars are cut by columns, so
the grid cannot drift: bar n begins at sample ``n * columns * hop``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from riffusion_engine.errors import BundleError

if TYPE_CHECKING:
    from riffusion_engine.manifest import Manifest

BARS_A_CLIP = 2
"""All of Riffusion's seed pictures, and all clips that riffusion-mini was trained on, are two bars long."""


@dataclass(frozen=True)
class BarGrid:
    """How bars lie on a model's pictures and in its sound."""

    columns: int
    """Columns of a picture in one bar."""
    hop: int
    """Samples of a column."""
    rate: int
    """Samples a second."""

    @staticmethod
    def of(manifest: Manifest) -> BarGrid:
        """The grid of a bundle.

        Raises:
            BundleError: its pictures cannot be cut into bars of whole columns.
        """
        width = manifest.latent.width * manifest.latent.vae_factor
        if width % BARS_A_CLIP:
            raise BundleError(
                f"Pictures of {width} columns cannot be cut into {BARS_A_CLIP} bars",
                hint="Use a model whose pictures have an even number of columns",
            )
        params = manifest.spectrogram
        return BarGrid(width // BARS_A_CLIP, params.hop_length, params.sample_rate)

    @property
    def bar_samples(self) -> int:
        """Samples of one bar (112,896)."""
        return self.columns * self.hop

    @property
    def bar_s(self) -> float:
        """Seconds of one bar (2.56)."""
        return self.bar_samples / self.rate

    @property
    def clip_s(self) -> float:
        """Seconds of one picture (5.12)."""
        return BARS_A_CLIP * self.bar_s

    def bpm(self, beats_a_bar: int = 4) -> float:
        """Beats a minute where a bar has so many beats (93.75)."""
        return 60 * beats_a_bar / self.bar_s
