"""Features of a UNet in, where in a clip they are out: lessons beside the denoising, from which rhythm profits.

Convolutions see no positions; all that a UNet knows of them leaks in from its padded edges. A clip of 8 beats repeats
every 4 of 32 latent columns and can be drawn without, but 6, 10 or 12 beats fall on other columns each time. Asked for
it by heads that are thrown away afterwards, the UNet carries the phase of every tempo to all columns; otherwise it
learns that late, and plays 8 beats whatever the prompt asks for. Asked for the clip's own beat, too, it must pick one
of these phases, and where noise hides the clip nothing but the prompt tells which. That is harder to learn, so the
prompt as one vector (``pooled_text``) is asked for the tempo by itself.

Features and prompt are also asked whether the clip swings. One head reads it for every instrument, so it must be said
of each in the same way, and can be drawn by one that was never heard to swing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from riffusion_train.catalogue import BEATS_PER_CLIP

CYCLES = (1, 2, 3, *BEATS_PER_CLIP)
"""Sines and cosines to be read, in cycles of a clip: its beats, and what tells one from the next."""


@dataclass(frozen=True)
class Lessons:
    """What was got wrong, one number each."""

    place: Tensor
    """Mean squared error of where columns are, in waves of all ``CYCLES``: 0.5 for one who knows nothing."""
    beat: Tensor
    """The same of the clip's own beat."""
    tempo: Tensor
    """Cross-entropy of the tempo that the prompt is taken to ask for: 1.39 for one who knows nothing."""
    swing: Tensor
    """Cross-entropy of whether the clip swings, in features and prompt: 0.69 for one who knows nothing."""


class PlaceInTime(nn.Module):
    """Linear heads on the upward blocks of ``unet`` but the last, and on its pooled prompt; they listen from now on."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        blocks = unet.up_blocks[:-1]
        self.heads = nn.ModuleList(
            nn.Conv2d(block.resnets[-1].out_channels, 2 * (len(CYCLES) + 1) + 1, 1) for block in blocks
        )
        pooled = unet.add_embedding
        self.tempo = nn.Linear(pooled.norm2.normalized_shape[0], len(BEATS_PER_CLIP))
        self.swing = nn.Linear(pooled.norm2.normalized_shape[0], 1)
        self._heard: list[Tensor] = []
        for block in (pooled, *blocks):
            block.register_forward_hook(lambda block, inputs, features: self._heard.append(features))

    def lessons(self, beats: Tensor, swings: Tensor) -> Lessons:
        """What the last forward pass got wrong about its clips.

        ``beats`` (n,) are theirs; ``swings`` (n,) is 1 for one that swings, 0 for a straight one, NaN for neither.
        """
        (prompts, *heard), self._heard = self._heard, []
        places: list[Tensor] = []
        owns: list[Tensor] = []
        swung = [self.swing(prompts)[:, 0].float()]
        for head, features in zip(self.heads, heard, strict=True):
            read, columns = head(features).float(), features.shape[-1]
            everyones, own, swing = read.split([2 * len(CYCLES), 2, 1], dim=1)
            swung.append(swing.mean(dim=(1, 2, 3)))
            places.append((everyones - waves(torch.tensor(CYCLES), columns).T[:, None]).square().mean())
            owns.append((own - waves(beats[:, None], columns).mT[:, :, None]).square().mean())
        asked = torch.searchsorted(torch.tensor(BEATS_PER_CLIP), beats)
        tempo = nn.functional.cross_entropy(self.tempo(prompts).float(), asked)
        tuned = ~swings.isnan()
        asked_swings = swings[tuned].expand(len(swung), -1)
        missed = nn.functional.binary_cross_entropy_with_logits(
            torch.stack(swung)[:, tuned], asked_swings, reduction="sum"
        )
        return Lessons(
            torch.stack(places).mean(),
            torch.stack(owns).mean(),
            tempo,
            missed / max(asked_swings.numel(), 1),
        )


def waves(cycles: Tensor, columns: int) -> Tensor:
    """Sines and cosines of ``cycles`` (…, k) in a clip at the middle of each column, (…, columns, 2 × k)."""
    turns = 2 * math.pi * (torch.arange(columns) + 0.5) / columns
    angles = cycles[..., None, :] * turns[:, None]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
