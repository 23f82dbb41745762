"""The configurations that Stable Diffusion v1 and Riffusion v1 were published with: facts, no input."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

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

CONFIGS: MappingProxyType[str, MappingProxyType[str, Any]] = MappingProxyType(
    {"text_encoder": TEXT_ENCODER_CONFIG, "unet": UNET_CONFIG, "vae": VAE_CONFIG}
)
"""By the folder that each network has in a diffusers checkpoint."""
