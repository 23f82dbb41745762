"""Pictures to latents and back, through the bundle's VAE graphs; masks at the latents' resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.session import require_finite

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_engine.manifest import LatentSpec
    from riffusion_engine.session import Session
    from riffusion_rt.noise import TorchNoise

LOG_VARIANCE_RANGE = (-30.0, 20.0)
"""Where diffusers' DiagonalGaussianDistribution clips the encoder's log-variance."""


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
    pixels = np.asarray(fitted, np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    moments = session.run({"sample": 2 * pixels - 1})["latent_parameters"]
    mean, log_variance = np.split(moments, 2, axis=1)
    deviation = np.exp(0.5 * np.clip(log_variance, *LOG_VARIANCE_RANGE))
    sample = mean + deviation * noise.normal(mean.shape)
    return np.asarray((sample - spec.shift) * spec.scale, np.float32)


def decode_latents(session: Session, latents: NDArray[np.float32], spec: LatentSpec) -> NDArray[np.uint8]:
    """Latents (n, channels, height, width) to pictures, uint8 (n, rows, columns, 3).

    Raises:
        NumericsError: the decoder returned NaN or infinity.
    """
    decoded = session.run({"latent_sample": latents / np.float32(spec.scale) + np.float32(spec.shift)})[
        "sample"
    ]
    require_finite(decoded, "The decoded picture")
    pixels = np.clip(decoded / 2 + 0.5, 0, 1).transpose(0, 2, 3, 1)
    return np.asarray(np.rint(pixels * 255), np.uint8)


def keep_mask(mask: Image.Image, spec: LatentSpec) -> NDArray[np.float32]:
    """A mask at the latents' size, float32 (1, 1, height, width): 1 keeps the seed image, 0 repaints it.

    White repaints, so the mask is the picture's negative.
    """
    from PIL import Image as Pictures

    small = mask.convert("L").resize((spec.width, spec.height), Pictures.Resampling.BOX)
    return 1 - np.asarray(small, np.float32)[None, None] / np.float32(255)
