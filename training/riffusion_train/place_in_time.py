"""Features of a UNet in, where in a clip they are out: a lesson beside the denoising, from which tempi profit.

Convolutions see no positions; all that a UNet knows of them leaks in from its padded edges. A clip of 8 beats repeats
every 4 of 32 latent columns and can be drawn without, but 6, 10 or 12 beats fall on other columns each time. Asked for
it by heads that are thrown away afterwards, the UNet carries the phase of every tempo to all columns; otherwise it
learns that late, and plays 8 beats whatever the prompt asks for. Asked for the clip's own beat, too, it must pick one
of these phases, and where noise hides the clip nothing but the prompt tells which.
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
            nn.Conv2d(block.resnets[-1].out_channels, 2 * (len(CYCLES) + 1), 1) for block in blocks
        )
        self._heard: list[Tensor] = []
        for block in blocks:
            block.register_forward_hook(lambda block, inputs, features: self._heard.append(features))

    def loss(self, beats: Tensor) -> Tensor:
        """Mean squared error (0.5 for one who knows nothing) of what is read from the last forward pass.

        ``beats`` (n,) are those of the clips that it was about. Their own waves count as much as all the others.
        """
        heard, self._heard = self._heard, []
        errors: list[Tensor] = []
        for head, features in zip(self.heads, heard, strict=True):
            read, columns = head(features).float(), features.shape[-1]
            everyones, own = read.split([2 * len(CYCLES), 2], dim=1)
            errors.append((everyones - waves(torch.tensor(CYCLES), columns).T[:, None]).square().mean())
            errors.append((own - waves(beats[:, None], columns).mT[:, :, None]).square().mean())
        return torch.stack(errors).mean()


def waves(cycles: Tensor, columns: int) -> Tensor:
    """Sines and cosines of ``cycles`` (…, k) in a clip at the middle of each column, (…, columns, 2 × k)."""
    turns = 2 * math.pi * (torch.arange(columns) + 0.5) / columns
    angles = cycles[..., None, :] * turns[:, None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
