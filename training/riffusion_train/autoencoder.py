"""Pictures in, AutoencoderKL out: trained on strips, its latents normalized per channel by its own 1×1 convolutions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.training_loop import TrainingLoop, TrainingProgress, set_rate, warm_cosine


@dataclass(frozen=True)
class AutoencoderRecipe:
    """How long and how fast. The learning rate falls over ``steps``, or over ``minutes`` of wall time without them."""

    minutes: float = 25.0
    steps: int | None = None
    batch: int = 8
    strip_columns: int = 128
    learning_rate: float = 2e-3
    kl_weight: float = 1e-6
    seed: int = 0


def build_autoencoder(
    channels: tuple[int, ...] = (8, 16, 32, 64, 128), latent_channels: int = 16
) -> AutoencoderKL:
    """An AutoencoderKL whose factor is 2**(len(channels)-1): 512×512 pictures become 16×32×32 latents."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        sample_size=512,
        scaling_factor=1.0,
    )


def train_autoencoder(
    pictures: NDArray[np.uint8], folder: Path, recipe: AutoencoderRecipe = AutoencoderRecipe()
) -> Iterator[TrainingProgress]:
    """Train on random strips, rolled in time; resume from ``folder``; leave a diffusers model in ``folder/vae``."""
    torch.manual_seed(recipe.seed)
    model = build_autoencoder().to(memory_format=torch.channels_last)
    quicken_group_norms(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=1e-4
    )
    loop = TrainingLoop(
        folder / "autoencoder.pt",
        minutes=recipe.minutes,
        steps=recipe.steps,
        model=model,
        optimizer=optimizer,
    )
    rng = np.random.default_rng([recipe.seed, loop.step])

    def batch(done: float) -> tuple[float, float]:
        set_rate(optimizer, recipe.learning_rate * warm_cosine(loop.step, done))
        strips = to_model_range(_strips(rng, pictures, recipe))
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(strips).latent_dist
            restored = model.decode(posterior.sample()).sample
        loss = restoring_loss(restored.float(), strips) + recipe.kl_weight * posterior.kl().float().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach()), decibels(restored.detach().float(), strips)

    yield from loop.run(batch)
    model = model.float().eval()
    normalize_latents(model, pictures[: min(256, len(pictures))])
    model.save_pretrained(folder / "vae")


def restoring_loss(restored: Tensor, real: Tensor) -> Tensor:
    """How far decoded pictures (n, 3, bands, columns) in ±1 are from real ones, their edges included."""
    error, edges = restored - real, _edges(restored) - _edges(real)
    return error.abs().mean() + 4 * error.square().mean() + 0.5 * edges.abs().mean()


def onset_loss(restored: Tensor, real: Tensor, groups: int = 32) -> Tensor:
    """How far spectral flux (rises of loudness, the mean over each of ``groups`` bands) is from that of real pictures.

    Flux is where listeners and beat trackers find onsets; a soft attack is a small error of a picture, but all of it.
    """
    return (_flux(restored, groups) - _flux(real, groups)).abs().mean()


def decibels(restored: Tensor, real: Tensor) -> float:
    """Peak signal-to-noise ratio of decoded pictures in ±1, in dB."""
    return 10 * math.log10(4 / float((restored - real).square().mean()))


def to_model_range(pictures: NDArray[np.uint8]) -> Tensor:
    """uint8 (n, bands, columns) → float32 (n, 3, bands, columns) in ±1."""
    grey = torch.from_numpy(np.ascontiguousarray(pictures)).float() / 127.5 - 1
    return grey[:, None].expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def encode_pictures(model: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 8) -> NDArray[np.float32]:
    """Posterior means, float32 (n, channels, height, width), of uint8 pictures (n, bands, columns)."""
    parts = [
        model.encode(to_model_range(pictures[i : i + batch])).latent_dist.mean
        for i in range(0, len(pictures), batch)
    ]
    return torch.cat(parts).float().numpy()


@torch.no_grad()
def normalize_latents(model: AutoencoderKL, pictures: NDArray[np.uint8]) -> None:
    """Fold zero mean and unit variance per latent channel into ``quant_conv`` and ``post_quant_conv``.

    A diffusers AutoencoderKL only knows one scale for all channels; its 1×1 convolutions can carry one for each.
    """
    latents = torch.from_numpy(encode_pictures(model, pictures))
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    quant, post = model.quant_conv, model.post_quant_conv
    channels = len(mean)
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()
    post.bias += (post.weight[:, :, 0, 0] * mean).sum(dim=1)
    post.weight *= std[None, :, None, None]


def _strips(
    rng: np.random.Generator, pictures: NDArray[np.uint8], recipe: AutoencoderRecipe
) -> NDArray[np.uint8]:
    chosen = rng.integers(len(pictures), size=recipe.batch)
    starts = rng.integers(pictures.shape[2], size=recipe.batch)
    columns = (starts[:, None] + np.arange(recipe.strip_columns)) % pictures.shape[2]
    return np.stack([pictures[c][:, k] for c, k in zip(chosen, columns, strict=True)])


def _flux(pictures: Tensor, groups: int) -> Tensor:
    """Rises of loudness (dark is loud) from column to column (n, groups, columns - 1) of pictures in ±1."""
    grey = pictures.mean(dim=1)
    rises = (grey[..., :-1] - grey[..., 1:]).clamp(min=0)
    return rises.reshape(len(rises), groups, -1, rises.shape[-1]).mean(dim=2)


def _edges(picture: Tensor) -> Tensor:
    return picture[:, :, 1:, 1:] - picture[:, :, :-1, :-1]
