"""A prompt's way into every layer of a UNet: pooled to one vector, it joins the timestep's.

Cross-attention alone tells nothing to layers that have none, and those at the top resolution of a small UNet have
none. A vector that shifts every residual block does (arXiv 2105.05233, section 3), and learns faster for words that
concern a whole clip: its tempo, its instrument. diffusers builds it into UNet2DConditionModel, so that nothing else
needs to know of it: the graph's inputs stay the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from diffusers import UNet2DConditionModel
from torch import nn

POOLED_TEXT: Mapping[str, str | int] = MappingProxyType(
    {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}
)
"""What a UNet's configuration says of it."""


def silence(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Let the pooled path of ``unet`` say nothing until it has learned something; returns the same."""
    last = unet.add_embedding.norm2
    assert isinstance(last, nn.LayerNorm)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return unet


def unet_with_pooled_text(folder: Path) -> UNet2DConditionModel:
    """The UNet saved in ``folder``, float32; one without the pooled path gets one that is silent."""
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    if unet.config.addition_embed_type == POOLED_TEXT["addition_embed_type"]:
        return unet
    with_path = UNet2DConditionModel.from_config({**unet.config, **POOLED_TEXT})
    with_path.load_state_dict(unet.state_dict(), strict=False)
    return silence(with_path)
