"""Pictures of any width to latents and back, through the bundle's VAE graphs; masks at the latents' resolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.session import require_finite
from riffusion_rt.tiling import crossfaded, tile_starts

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.manifest import LatentSpec
    from riffusion_engine.session import Session
    from riffusion_rt.noise import TorchNoise

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Where diffusers' DiagonalGaussianDistribution clips the encoder's log-variance."""

OVERLAP_SHARE = 4
"""Neighbouring tiles share a quarter of their width: wider than the reach of the VAE's convolutions."""


def image_size(spec: LatentSpec) -> tuple[int, int]:
    """(width, height) in pixels of the picture that a latent of ``spec`` stands for."""
    return spec.width * spec.vae_factor, spec.height * spec.vae_factor


def encode_image(
    session: Session, image: Image.Image, spec: LatentSpec, noise: TorchNoise
) -> NDArray[np.float32]:
    """Sample the VAE's posterior for a picture: float32 (1, channels, height, width), scaled as the UNet wants it.

    The picture is resized (Lanczos) where its size is not the model's. ``noise`` is drawn from as
    ``torch.Generator`` would be by diffusers' image-to-image pipeline: the posterior's sample comes first.
    """
    from PIL import Image as Pictures

    fitted = image.convert("RGB")
    if fitted.size != image_size(spec):
        fitted = fitted.resize(image_size(spec), Pictures.Resampling.LANCZOS)
    return encode_pixels(session, np.asarray(fitted), spec, noise)


def encode_pixels(
    session: Session,
    pixels: NDArray[np.uint8],
    spec: LatentSpec,
    noise: TorchNoise,
    *,
    circular: bool = False,
) -> NDArray[np.float32]:
    """Sample the VAE's posterior for a picture of any width from the model's own, in overlapping tiles.

    Args:
        session: the bundle's ``vae_encoder``.
        pixels: (rows, columns) grey or (rows, columns, 3); rows are the model's, columns a multiple of its VAE factor.
        spec: the model's canvas.
        noise: drawn from once, in the shape of the result.
        circular: the last column is followed by the first.

    Returns:
        float32 (1, channels, height, columns / VAE factor), scaled as the UNet wants it.
    """
    factor = spec.vae_factor
    cells = pixels.shape[1] // factor
    margin = spec.width // OVERLAP_SHARE if circular else 0
    span = max(cells + 2 * margin, spec.width)
    starts = tile_starts(span, spec.width, spec.width // OVERLAP_SHARE)
    tiles = (
        _encoded_tile(
            session, pixels, np.arange(start * factor, (start + spec.width) * factor) - margin * factor
        )
        for start in starts
    )
    moments = np.concatenate(list(crossfaded(tiles, starts)), axis=-1)[..., margin : margin + cells]
    mean, log_variance = np.split(moments, 2, axis=1)
    deviation = np.exp(0.5 * np.clip(log_variance, *LOG_VARIANCE_RANGE))
    sample = mean + deviation * noise.normal(mean.shape)
    return np.asarray((sample - spec.shift) * spec.scale, np.float32)


def decode_latents(session: Session, latents: NDArray[np.float32], spec: LatentSpec) -> NDArray[np.uint8]:
    """Latents (n, channels, height, width) to pictures, uint8 (n, rows, columns, 3).

    Raises:
        NumericsError: the decoder returned NaN or infinity.
    """
    return _levels(_decoded_tile(session, latents, spec)).transpose(0, 2, 3, 1)


def decode_wide(
    session: Session, latents: NDArray[np.float32], spec: LatentSpec, *, circular: bool = False
) -> Iterator[NDArray[np.uint8]]:
    """Latents (1, channels, height, any width) to a picture, piece after piece from the left, in overlapping tiles.

    Yields:
        uint8 (rows, columns, 3); together ``width * VAE factor`` columns. A piece is no wider than a tile.

    Raises:
        NumericsError: the decoder returned NaN or infinity.
    """
    width = latents.shape[-1]
    margin = spec.width // OVERLAP_SHARE if circular else 0
    span = max(width + 2 * margin, spec.width)
    starts = tile_starts(span, spec.width, spec.width // OVERLAP_SHARE)
    tiles = (
        _decoded_tile(
            session,
            np.take(latents, np.arange(start, start + spec.width) - margin, axis=-1, mode="wrap"),
            spec,
        )
        for start in starts
    )
    skip, left = margin * spec.vae_factor, width * spec.vae_factor
    for piece in crossfaded(tiles, starts, spec.vae_factor):
        wanted = piece[..., skip : skip + left]
        skip, left = max(skip - piece.shape[-1], 0), left - wanted.shape[-1]
        if wanted.shape[-1]:
            yield _levels(wanted)[0].transpose(1, 2, 0)


def keep_mask(mask: Image.Image, spec: LatentSpec, width: int | None = None) -> NDArray[np.float32]:
    """A mask at the latents' size, float32 (1, 1, height, width): 1 keeps the seed image, 0 repaints it.

    White repaints, so the mask is the picture's negative. ``width`` in cells is the model's own if None.
    """
    from PIL import Image as Pictures

    small = mask.convert("L").resize((width or spec.width, spec.height), Pictures.Resampling.BOX)
    return 1 - np.asarray(small, np.float32)[None, None] / np.float32(255)


def _encoded_tile(
    session: Session, pixels: NDArray[np.uint8], columns: NDArray[np.intp]
) -> NDArray[np.float32]:
    tile = np.take(pixels, columns, axis=1, mode="wrap")
    planes = np.stack([tile] * 3) if tile.ndim == 2 else tile.transpose(2, 0, 1)
    scaled = planes[None].astype(np.float32) / np.float32(255)
    moments: NDArray[np.float32] = session.run({"sample": 2 * scaled - 1})["latent_parameters"]
    return moments


def _decoded_tile(session: Session, latents: NDArray[np.float32], spec: LatentSpec) -> NDArray[np.float32]:
    """(n, 3, rows, columns), 0 to 1 where the decoder stays within its range."""
    unscaled = latents / np.float32(spec.scale) + np.float32(spec.shift)
    decoded: NDArray[np.float32] = session.run({"latent_sample": unscaled})["sample"]
    require_finite(decoded, "The decoded picture")
    return np.asarray(decoded / 2 + np.float32(0.5), np.float32)


def _levels(shares: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(shares, 0, 1) * 255), np.uint8)
