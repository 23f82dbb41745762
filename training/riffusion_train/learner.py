"""A checkpoint's networks in, what learns of them out: all weights and their running average, or LoRA layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from riffusion_export.checkpoint import Source
from riffusion_export.silence import quiet
from riffusion_train.adapters import add_lora
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.denoiser import PromptedUNet
from riffusion_train.finetune_recipe import FinetuneRecipe


class Averaged:
    """While this is entered, the networks have their averaged weights."""

    def __init__(self, average: Any, trained: list[nn.Parameter]) -> None:
        self._average, self._trained = average, trained

    def __enter__(self) -> None:
        self._average.store(self._trained)
        self._average.copy_to(self._trained)

    def __exit__(self, *_: object) -> None:
        self._average.restore(self._trained)


def build_learner(source: Source, recipe: FinetuneRecipe, accelerator: Any) -> PromptedUNet:
    """Load the networks, and let only what the recipe names learn, in float32; the rest has the arithmetic's digits."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    with quiet():
        networks: dict[str, Any] = {}
        for part in ("unet", "text_encoder"):
            network: Any = source.load(part).requires_grad_(False)
            learns = recipe.full and (part == "unet" or recipe.text_encoder)
            networks[part] = network.requires_grad_(True) if learns else network.to(dtype)
        unet, text_encoder = networks["unet"], networks["text_encoder"]
        if not recipe.full:
            add_lora(unet, text_encoder if recipe.text_encoder else None, recipe.rank, recipe.layers)
        for network in (unet, text_encoder):
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        if recipe.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
            if recipe.text_encoder:
                text_encoder.gradient_checkpointing_enable()
    if accelerator.device.type == "cpu" and dtype == torch.bfloat16:
        unet.to(memory_format=torch.channels_last)
        quicken_group_norms(unet)
    return PromptedUNet(unet, text_encoder)


def build_average(trained: dict[str, nn.Parameter], recipe: FinetuneRecipe) -> Any | None:
    """diffusers' running average of what learns, for a full fine-tune; None if there is to be none."""
    if not (recipe.full and recipe.ema_decay):
        return None
    from diffusers.training_utils import EMAModel

    return EMAModel(trained.values(), decay=recipe.ema_decay)
