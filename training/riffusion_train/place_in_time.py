"""Features of a UNet in, where in a clip they are out: a lesson beside the denoising, from which tempi profit.

Convolutions see no positions; all that a UNet knows of them leaks in from its padded edges. A clip of 8 beats repeats
every 4 of 32 latent columns and can be drawn without, but 6, 10 or 12 beats fall on other columns each time. Asked for
it by heads that are thrown away afterwards, the UNet carries the phase of every tempo to all columns; otherwise it
learns that late, and plays 8 beats whatever the prompt asks for.
"""

from __future__ import annotations

import math

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from riffusion_train.catalogue import BEATS_PER_CLIP

CYCLES = (1, 2, 3, *BEATS_PER_CLIP)
"""Sines and cosines to be read, in cycles of a clip: its beats, and what tells one from the next."""


class PlaceInTime(nn.Module):
    """Linear heads on every upward block of ``unet`` but the last; they listen from now on to what it computes."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        blocks = unet.up_blocks[:-1]
        self.heads = nn.ModuleList(
            nn.Conv2d(block.resnets[-1].out_channels, 2 * len(CYCLES), 1) for block in blocks
        )
        self._heard: list[Tensor] = []
        for block in blocks:
            block.register_forward_hook(lambda block, inputs, features: self._heard.append(features))

    def loss(self) -> Tensor:
        """Mean squared error (0.5 for one who knows nothing) of what is read from the last forward pass."""
        heard, self._heard = self._heard, []
        errors = [
            (head(features).float() - phases(features.shape[-1])[:, None]).square().mean()
            for head, features in zip(self.heads, heard, strict=True)
        ]
        return torch.stack(errors).mean()


def phases(columns: int) -> Tensor:
    """Sines and cosines of ``CYCLES`` at the middle of each column, (2 × cycles, columns)."""
    turns = 2 * math.pi * (torch.arange(columns) + 0.5) / columns
    angles = torch.tensor(CYCLES)[:, None] * turns
    return torch.cat([angles.sin(), angles.cos()])
