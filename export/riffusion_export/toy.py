"""A seed in, a tiny random checkpoint out: it goes through export, engine and runtime in seconds."""

from __future__ import annotations

from pathlib import Path

from riffusion_engine.manifest import SamplingDefaults
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.clip_tokenizer import MAX_LENGTH, write_clip_tokenizer
from riffusion_export.facts import FACTS_FILES, CheckpointFacts, facts_json
from riffusion_export.silence import quiet

_VAE_FACTOR = 8
_VOCABULARY = 640
_PROMPTS = (
    "funky piano",
    "jazz piano",
    "church bells",
    "electronic beats",
    "typewriter taps",
    "blues guitar",
)


def write_toy_checkpoint(
    folder: Path,
    seed: int = 0,
    *,
    latent_channels: int = 4,
    latent_size: int = 8,
    latent_width: int | None = None,
    text_width: int = 32,
    prediction_type: str = "epsilon",
) -> None:
    """Write a random Stable Diffusion class checkpoint of under 2 MB; the same seed gives the same weights.

    Pictures are ``8 * latent_size`` rows by ``8 * latent_width`` columns (by default square), and the spectrogram
    has as many bands as there are rows.

    Args:
        folder: the diffusers folder to write.
        seed: seeds the weights.
        latent_channels, latent_size, latent_width: the canvas; sizes are multiples of 2.
        text_width: width of the text encoder, and of the UNet's cross-attention.
        prediction_type: what the UNet is said to predict, "epsilon" or "v_prediction".
    """
    import torch

    width = latent_size if latent_width is None else latent_width
    vocabulary = write_clip_tokenizer(folder / "tokenizer", _PROMPTS, _VOCABULARY)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write_networks(
            folder, latent_channels, (latent_size, width), text_width, vocabulary, prediction_type
        )
    facts = CheckpointFacts(
        name=f"toy-{seed}",
        licence="CC0-1.0",
        description="Random weights for tests",
        spectrogram=SpectrogramParams(bands=latent_size * _VAE_FACTOR),
        defaults=SamplingDefaults(sampler="dpm++2m", steps=4, guidance=2.0, strength=0.75),
    )
    (folder / FACTS_FILES[-1]).write_text(facts_json(facts), encoding="utf-8")
    (folder / "LICENSE").write_text("Random numbers: CC0-1.0.\n", encoding="utf-8")


def _write_networks(
    folder: Path,
    channels: int,
    canvas: tuple[int, int],
    text_width: int,
    vocabulary: int,
    prediction_type: str,
) -> None:
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=text_width,
            intermediate_size=2 * text_width,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )
    unet = UNet2DConditionModel(
        # One number for a square, as published checkpoints have it; diffusers' image-to-image pipeline needs that.
        sample_size=canvas[0] if canvas[0] == canvas[1] else canvas,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    autoencoder = AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=canvas[0] * _VAE_FACTOR,
        scaling_factor=0.18215,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
