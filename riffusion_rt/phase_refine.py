"""A reconstruction's magnitudes and the wanted mel enter; magnitudes nearer to the truth leave.

A mel band wider than a partial does not say where in it the partial lies: the inverse mel smears it. The signal that
the phase loop has found so far knows better, for a smeared partial is no signal's spectrogram. So, a few times on
the way, the loop's target moves: to the signal's own magnitudes, corrected so that they have the wanted mel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.inverse_mel import mel_bank, mel_edges
from riffusion_rt.phase_stft import FrameGrid

# Bins a band must be wide for the loop's grid to resolve it: from the first on a little, from the second on wholly.
_RESOLVED_FROM = 1.5
_RESOLVED_BY = 3.0


@dataclass(frozen=True)
class Refinement:
    """What it takes to correct magnitudes on a grid; frequencies below ``first`` keep their target."""

    first: int
    """The lowest bin that is refined."""
    bank: NDArray[np.float32]
    """From magnitudes of bins ``first`` on to mel: ``(bins, bands)``, of the bands that lie there wholly."""
    inverse: NDArray[np.float32]
    """From mel of those bands to magnitudes of those bins: ``(bands, bins)``."""
    share: NDArray[np.float32]
    """How far each bin's target moves, 0..1: ``(bins,)``."""

    @property
    def lowest_band(self) -> int:
        """The first band that lies wholly above ``first``, counted from all bands."""
        return -int(self.bank.shape[1])

    def target(
        self, magnitudes: NDArray[np.float32], given: NDArray[np.float32], mel: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The loop's next target.

        Args:
            magnitudes: of the signal so far, ``(columns, bins)`` on the grid.
            given: the first target, the inverse mel's.
            mel: the wanted mel in the units of the loop's transform, ``(columns, bands)``, all bands.

        Returns:
            float32, ``(columns, bins)``, nowhere negative.
        """
        own = magnitudes[:, self.first :]
        lacking = mel[:, self.lowest_band :] - own @ self.bank
        better = np.maximum(own + lacking @ self.inverse, 0)
        target = given.copy()
        target[:, self.first :] += self.share * (better - target[:, self.first :])
        return target


def refinement(
    params: SpectrogramParams, grid: FrameGrid, inverse_mel: NDArray[np.float32]
) -> Refinement | None:
    """The refinement on a grid, or None where the grid resolves no band.

    Args:
        params: the filter bank.
        grid: the loop's frames.
        inverse_mel: :func:`riffusion_rt.inverse_mel.inverse_mel_matrix` at the grid's frequencies.
    """
    frequencies = grid.frequencies
    spacing = frequencies[1]
    edges = mel_edges(params)
    widths = np.interp(frequencies, edges[:-1], np.diff(edges)) / spacing
    share = np.clip((widths - _RESOLVED_FROM) / (_RESOLVED_BY - _RESOLVED_FROM), 0, 1)
    share[(frequencies < params.f_min) | (frequencies > params.f_max)] = 0
    if not share.any():
        return None
    first = int(np.flatnonzero(share)[0])
    whole = edges[:-2] >= frequencies[first]
    if not whole.any():
        return None
    # The bank sums over bins: fewer of them weigh more.
    scale = spacing * params.n_fft / params.sample_rate
    bank = mel_bank(params, frequencies[first:])[:, whole] * scale
    inverse = np.ascontiguousarray(inverse_mel[whole][:, first:])
    return Refinement(first, bank.astype(np.float32), inverse, share[first:].astype(np.float32))
