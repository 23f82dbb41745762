"""A seed in, a random checkpoint of Stable Diffusion v1.5's size out, laid out as the published ones are.

860 M weights of UNet, 84 M of autoencoder, 123 M of text encoder: what a full-size export, engine or benchmark needs
where the real weights cannot be had. It draws noise, not music.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.checkpoint import TEXT_PREFIX, TEXT_WEIGHTS
from riffusion_export.clip_tokenizer import write_clip_tokenizer
from riffusion_export.companions import write_index
from riffusion_export.facts import FACTS_FILES, V1_DEFAULTS, CheckpointFacts, facts_json
from riffusion_export.published_v1 import (
    SCHEDULER_CONFIG,
    TEXT_ENCODER_CONFIG,
    UNET_CONFIG,
    VAE_CONFIG,
    VOCABULARY,
)
from riffusion_export.silence import quiet

if TYPE_CHECKING:
    from torch import nn

_SPREAD = 0.1
"""Standard deviation given to what initializers leave constant (norms' scales and shifts, biases)."""


def write_full_size_checkpoint(folder: Path, seed: int = 0) -> None:
    """Write a random Stable Diffusion v1.5 checkpoint, 4.3 GB of float32; the same seed gives the same weights.

    Weights have the variance torch's initializers give them, so that activations stay in float16's range; biases
    and norms are drawn too, so that no two tensors are alike. The vocabulary has CLIP's size, not its words.

    Args:
        folder: the diffusers folder to write.
        seed: seeds the weights.
    """
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    write_clip_tokenizer(folder / "tokenizer", _pseudo_words(), VOCABULARY)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # One after the other, so that only one is in memory.
        _save(CLIPTextModel(CLIPTextConfig(**TEXT_ENCODER_CONFIG)), folder / "text_encoder")
        _name_as_published(folder / "text_encoder" / TEXT_WEIGHTS)
        _save(AutoencoderKL(**VAE_CONFIG), folder / "vae")
        _save(UNet2DConditionModel(**UNET_CONFIG), folder / "unet")
        PNDMScheduler(**SCHEDULER_CONFIG).save_pretrained(folder / "scheduler")
    write_index(folder)
    facts = CheckpointFacts(
        name=f"full-size-{seed}",
        licence="CC0-1.0",
        description="Random weights of Stable Diffusion v1.5's size, for tests and benchmarks",
        spectrogram=SpectrogramParams(),
        defaults=V1_DEFAULTS,
    )
    (folder / FACTS_FILES[-1]).write_text(facts_json(facts), encoding="utf-8")
    (folder / "LICENSE").write_text("Random numbers: CC0-1.0.\n", encoding="utf-8")


def _save(network: Any, folder: Path) -> None:
    _vary(network)
    network.save_pretrained(folder)


def _name_as_published(weights: Path) -> None:
    """Give a text encoder's weights the prefix that transformers 5 dropped and every published checkpoint has."""
    from safetensors.torch import load_file, save_file

    state = load_file(weights)
    save_file(
        {f"{TEXT_PREFIX}{key.removeprefix(TEXT_PREFIX)}": value for key, value in state.items()},
        weights,
        {"format": "pt"},
    )


def _vary(network: nn.Module) -> None:
    import torch

    with torch.no_grad():
        for values in network.parameters():
            if values.ndim == 1:
                values.add_(torch.randn(values.shape), alpha=_SPREAD)


def _pseudo_words() -> Iterator[str]:
    """Enough different words for a vocabulary of CLIP's size: real ones are in CLIP's, which is not ours to ship."""
    draw = random.Random(0)
    syllables = [
        "".join(parts) for parts in itertools.product("bcdfghjklmnprstvwz", "aeiou", ["", "n", "r", "s"])
    ]
    for _ in range(6000):
        yield " ".join("".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(12))
    yield from ("funky piano", "church bells", "electronic beats", "jazz saxophone", "typewriter taps") * 100
