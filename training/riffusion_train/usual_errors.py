"""Errors of predictions in, how large errors usually are at each noise level out.

What a clip is, its instrument above all, is decided where noise hides nearly everything. Errors there are a hundredth
of what they are where it hides little: unless each is measured by what is usual at its level, they count for nothing.
Karras et al. 2024 (arXiv 2312.02696, section 2.2) learn the same measure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_PACE = 0.05
"""How fast a level's usual error follows, once as many errors as that allows are known."""


class UsualErrors:
    """A running mean of squared errors for each of ``levels`` bands of timesteps.

    Args:
        expected: what to assume of timesteps of which no error is known yet, float32 (timesteps,).
    """

    def __init__(self, expected: Tensor, levels: int = 32) -> None:
        self._timesteps, self._levels = len(expected), min(levels, len(expected))
        bands = self._bands(torch.arange(self._timesteps))
        sums = torch.zeros(self._levels).index_add(0, bands, expected.float())
        self._means = sums / bands.bincount(minlength=self._levels)
        self._known = torch.zeros(self._levels)

    def at(self, timesteps: Tensor) -> Tensor:
        """The usual error at each of ``timesteps`` (n,), float32 (n,), on the CPU."""
        return self._means[self._bands(timesteps.cpu())].clamp(min=1e-8)

    def learn(self, timesteps: Tensor, errors: Tensor) -> None:
        """Take ``errors`` (n,) at ``timesteps`` (n,) into account, whatever their order."""
        bands = self._bands(timesteps.cpu())
        seen = bands.bincount(minlength=self._levels)
        sums = torch.zeros(self._levels).index_add(0, bands, errors.detach().float().cpu())
        self._known += seen
        pace = torch.where(seen > 0, (seen / self._known.clamp(min=1)).clamp(min=_PACE), 0.0)
        self._means = torch.lerp(self._means, sums / seen.clamp(min=1), pace)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"means": self._means, "known": self._known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``'s answer."""
        self._means, self._known = state["means"].clone(), state["known"].clone()

    def _bands(self, timesteps: Tensor) -> Tensor:
        return timesteps * self._levels // self._timesteps
