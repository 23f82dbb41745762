"""A data set, a checkpoint and a recipe in, a folder claimed for their run out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from riffusion_engine.errors import OutputError, RequestError
from riffusion_engine.whole_file import whole_file
from riffusion_export.checkpoint import Source
from riffusion_export.geometry import read_config
from riffusion_train.finetune_recipe import FinetuneRecipe
from riffusion_train.picture_folder import PictureFolder

SETTINGS = "run.json"


def check_fit(pictures: PictureFolder, source: Source, recipe: FinetuneRecipe) -> None:
    """Find out now what would fail after minutes, or end as a model that decodes wrongly.

    Raises:
        RequestError: the pictures are of a size that the networks cannot halve, or hear otherwise than a LoRA's base.
    """
    config = source.folder / "unet" / "config.json"
    halvings = len(read_config(config).get("block_out_channels", range(4))) - 1 if config.is_file() else 3
    multiple = source.geometry.latent.vae_factor * 2**halvings
    if pictures.height % multiple or pictures.width % multiple:
        raise RequestError(
            f"The pictures are {pictures.width}x{pictures.height}, but {source.name} draws in multiples of {multiple}",
            hint="Make the data set with riffusion-rt dataset --columns and --bands in such multiples",
        )
    stated = source.facts.spectrogram
    if not recipe.full and pictures.params is not None and pictures.params != stated:
        theirs, ours = asdict(pictures.params), asdict(stated)
        differing = ", ".join(f"{k} {theirs[k]} instead of {ours[k]}" for k in ours if ours[k] != theirs[k])
        raise RequestError(
            f"The pictures hear otherwise than {source.name} ({differing}), which a LoRA cannot carry with it",
            hint="Make the data set as the checkpoint hears, or train it wholly with --full",
        )


def claim_run(run: Path, pictures: PictureFolder, source: Source, recipe: FinetuneRecipe) -> None:
    """Take a folder that is new, or holds the same run.

    Raises:
        OutputError: it holds another one.
    """
    settings = {"checkpoint": source.name, "dataset": pictures.digest, **recipe.identity()}
    path = run / SETTINGS
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in settings if before.get(name) != settings[name]]
        if differing:
            raise OutputError(
                f"{run} holds a run with another {', '.join(differing)}",
                hint="Name another folder with -o, or give the same settings to go on",
            )
    with whole_file(path) as file:
        file.write(json.dumps(settings, indent=2).encode())
