"""Pictures and an autoencoder in, their latents out: encoded once, and kept from run to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from riffusion_engine.whole_file import whole_file
from riffusion_train.picture_folder import CaptionedPicture

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

PICTURES_A_FILE = 16
"""What an interrupted encoding loses at most."""
_EDGE_LATENTS = 2
"""Columns of latents that are wrapped round a loop: as far as an encoder looks, within its last digits."""


def encode_all(
    pictures: Sequence[CaptionedPicture],
    folder: Path,
    name: str,
    autoencoder: AutoencoderKL,
    device: torch.device,
) -> Iterator[tuple[int, int]]:
    """Encode what ``folder`` does not hold yet; yields how many pictures of how many are done."""
    model: Any = None
    for start in range(0, len(pictures), PICTURES_A_FILE):
        part = pictures[start : start + PICTURES_A_FILE]
        path = _file_of(part, folder, name)
        if not path.is_file():
            model = model if model is not None else autoencoder.to(device)
            latents = np.concatenate([encode_picture(model, picture, device) for picture in part])
            with whole_file(path) as file:
                np.save(file, latents)
        yield start + len(part), len(pictures)


def read_all(pictures: Sequence[CaptionedPicture], folder: Path, name: str) -> torch.Tensor:
    """The latents that ``encode_all`` left, float16 (n, channels, height, width), on the CPU."""
    parts = [
        np.load(_file_of(pictures[start : start + PICTURES_A_FILE], folder, name))
        for start in range(0, len(pictures), PICTURES_A_FILE)
    ]
    return torch.from_numpy(np.concatenate(parts))


@torch.no_grad()
def encode_picture(model: Any, picture: CaptionedPicture, device: torch.device) -> NDArray[np.float16]:
    """The posterior mean of one picture, scaled as the UNet sees it: float16 (1, channels, height, width).

    A loop is encoded as if the encoder's padding were circular: it is wrapped, and the edges are cut off again.
    """
    from PIL import Image

    with Image.open(picture.path) as image:
        pixels = np.array(image.convert("RGB"))
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    edge = _EDGE_LATENTS * factor if picture.loop and pixels.shape[1] > 2 * _EDGE_LATENTS * factor else 0
    if edge:
        pixels = np.concatenate([pixels[:, -edge:], pixels, pixels[:, :edge]], axis=1)
    seen = (
        torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
    )
    mean = model.encode(seen.to(model.dtype)).latent_dist.mean.float()
    latents = (mean - (model.config.shift_factor or 0.0)) * model.config.scaling_factor
    if edge:
        latents = latents[..., _EDGE_LATENTS:-_EDGE_LATENTS]
    return np.asarray(latents.cpu().numpy(), np.float16)


def _file_of(part: Sequence[CaptionedPicture], folder: Path, name: str) -> Path:
    """A file named after what is in it: other pictures, or another autoencoder, never pass for these."""
    facts = [name, [(p.path.name, p.path.stat().st_size, p.loop) for p in part]]
    return folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]}.npy"
