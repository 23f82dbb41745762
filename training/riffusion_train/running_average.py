"""A network in training, and another that is its running average: what is kept of a training is the latter."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of ``average`` towards those of ``model``; it keeps the share ``decay`` of its own."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
