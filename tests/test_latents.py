"""Pictures of any width pass through the VAE in tiles, and come back without a seam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from riffusion_engine.manifest import LatentSpec
from riffusion_rt.latents import decode_wide, encode_pixels, keep_mask
from riffusion_rt.noise import TorchNoise

SPEC = LatentSpec(channels=1, height=2, width=8, scale=2.0, shift=0.5, vae_factor=4)


class LocalVAE:
    """Encodes by averaging cells and decodes by repeating them; variance nought."""

    graph: Any = None
    provider = "fake"

    def __init__(self) -> None:
        self.widths: set[int] = set()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        (array,) = feeds.values()
        self.widths.add(array.shape[-1])
        if "sample" in feeds:
            n, _, rows, columns = array.shape
            cells = array[:, :1].reshape(n, 1, rows // 4, 4, columns // 4, 4).mean(axis=(3, 5))
            return {"latent_parameters": np.concatenate([cells, np.full_like(cells, -100)], axis=1)}
        return {"sample": np.repeat(array.repeat(4, axis=2).repeat(4, axis=3), 3, axis=1)}

    def close(self) -> None: ...


def blocks(cells: int) -> NDArray[np.uint8]:
    """A picture (rows, columns, 3) that is even within every cell."""
    small = np.random.default_rng(cells).integers(0, 256, (2, cells), dtype=np.uint8)
    return np.repeat(small.repeat(4, axis=0).repeat(4, axis=1)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("cells", [8, 9, 14, 15, 61])
def test_a_picture_comes_back_as_it_was(cells: int, circular: bool) -> None:
    vae, pixels = LocalVAE(), blocks(cells)
    latents = encode_pixels(vae, pixels, SPEC, TorchNoise(0), circular=circular)
    assert latents.shape == (1, 1, 2, cells)
    pieces = list(decode_wide(vae, latents, SPEC, circular=circular))
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), pixels)
    assert vae.widths == {SPEC.width, SPEC.width * SPEC.vae_factor}
    assert max(piece.shape[1] for piece in pieces) <= SPEC.width * SPEC.vae_factor


def test_a_circle_smaller_than_a_tile_comes_back_too() -> None:
    vae, pixels = LocalVAE(), blocks(3)
    latents = encode_pixels(vae, pixels, SPEC, TorchNoise(0), circular=True)
    back = np.concatenate(list(decode_wide(vae, latents, SPEC, circular=True)), axis=1)
    np.testing.assert_array_equal(back, pixels)


def test_grey_pictures_encode_as_their_colour_ones() -> None:
    pixels = blocks(11)
    grey, colour = (encode_pixels(LocalVAE(), p, SPEC, TorchNoise(0)) for p in (pixels[:, :, 0], pixels))
    np.testing.assert_array_equal(grey, colour)


def test_a_mask_is_as_wide_as_it_is_told() -> None:
    mask = Image.fromarray(np.uint8([[255, 255, 0, 0]]))
    np.testing.assert_array_equal(keep_mask(mask, SPEC, 4)[0, 0], [[0, 0, 1, 1]] * 2)
    assert keep_mask(mask, SPEC).shape == (1, 1, 2, 8)
