"""A folder in, a data set of stripes in it out: the smallest thing that a toy can learn, and how it learns it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.spectrogram_image import save_png
from riffusion_train.finetune_recipe import FinetuneRecipe

TOY = FinetuneRecipe(
    rank=4,
    layers="all",
    text_encoder=True,
    steps=6,
    batch=2,
    learning_rate=2e-3,
    sample_every=0,
    save_seconds=3600,
)
PARAMS = SpectrogramParams(bands=64)


def write_dataset(
    folder: Path, *, size: tuple[int, int] = (64, 64), params: SpectrogramParams = PARAMS, held_out: int = 2
) -> Path:
    """Stripes that lie and stripes that stand, with captions that say so."""
    for split, count in (("train", 6), ("test", held_out)):
        rows = []
        for index in range(count):
            wave = 127 + 120 * np.sin(np.arange(max(size)) * (0.3 + 0.1 * index))
            lying = index % 2 == 0
            pixels = np.broadcast_to(wave[: size[1], None] if lying else wave[None, : size[0]], size[::-1])
            image = Image.fromarray(np.repeat(pixels[:, :, None], 3, axis=2).astype(np.uint8))
            save_png(image, folder / split / f"{index}.png", params)
            rows.append(
                {
                    "file_name": f"{index}.png",
                    "text": "church bells" if lying else "funky piano",
                    "loop": lying,
                }
            )
        if rows:
            (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder
