"""A seed in, a random checkpoint of Stable Diffusion v1.5's size out, laid out as the published ones are.

860 M weights of UNet, 84 M of autoencoder, 123 M of text encoder: what a full-size export, engine or benchmark needs
where the real weights cannot be had. It draws noise, not music.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from riffusion_export.checkpoint import FACTS_FILES, V1_DEFAULTS, CheckpointFacts, facts_json, quiet
from riffusion_export.clip_tokenizer import write_clip_tokenizer

if TYPE_CHECKING:
    from torch import nn

VOCABULARY = 49_408
"""CLIP's number of tokens: its start token is 49406, its end token 49407."""

TEXT_ENCODER_CONFIG: MappingProxyType[str, Any] = MappingProxyType(
    {
        "vocab_size": VOCABULARY,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,  # As published: a relic that transformers reads as "the highest id ends the text".
        "pad_token_id": 1,
    }
)
"""The text half of CLIP ViT-L/14."""

UNET_CONFIG: MappingProxyType[str, Any] = MappingProxyType(
    {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    }
)
"""Stable Diffusion v1's UNet; what is not named has diffusers' default."""

VAE_CONFIG: MappingProxyType[str, Any] = MappingProxyType(
    {
        "sample_size": 512,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "scaling_factor": 0.18215,
    }
)
"""Stable Diffusion v1's autoencoder."""

SCHEDULER_CONFIG: MappingProxyType[str, Any] = MappingProxyType(
    {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "skip_prk_steps": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
)
"""Stable Diffusion v1's noise schedule, under PNDM."""

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
        _save(AutoencoderKL(**VAE_CONFIG), folder / "vae")
        _save(UNet2DConditionModel(**UNET_CONFIG), folder / "unet")
        PNDMScheduler(**SCHEDULER_CONFIG).save_pretrained(folder / "scheduler")
    _write_index(folder)
    facts = CheckpointFacts(
        name=f"full-size-{seed}",
        licence="CC0-1.0",
        description="Random weights of Stable Diffusion v1.5's size, for tests and benchmarks",
        spectrogram=_v1_spectrogram(),
        defaults=V1_DEFAULTS,
    )
    (folder / FACTS_FILES[-1]).write_text(facts_json(facts), encoding="utf-8")
    (folder / "LICENSE").write_text("Random numbers: CC0-1.0.\n", encoding="utf-8")


def _save(network: Any, folder: Path) -> None:
    _vary(network)
    network.save_pretrained(folder)


def _vary(network: nn.Module) -> None:
    import torch

    with torch.no_grad():
        for values in network.parameters():
            if values.ndim == 1:
                values.add_(torch.randn(values.shape), alpha=_SPREAD)


def _v1_spectrogram() -> Any:
    from riffusion_engine.spectrogram_params import SpectrogramParams

    return SpectrogramParams()


def _write_index(folder: Path) -> None:
    import json
    from importlib import metadata

    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": metadata.version("diffusers"),
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _pseudo_words() -> Iterator[str]:
    """Enough different words for a vocabulary of CLIP's size: real ones are in CLIP's, which is not ours to ship."""
    draw = random.Random(0)
    syllables = ["".join(parts) for parts in itertools.product("bcdfghjklmnprstvwz", "aeiou", ["", "n", "r", "s"])]
    for _ in range(6000):
        yield " ".join("".join(draw.choices(syllables, k=draw.randint(2, 4))) for _ in range(12))
    yield from ("funky piano", "church bells", "electronic beats", "jazz saxophone", "typewriter taps") * 100
