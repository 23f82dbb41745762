"""A finished model in, a run that trains on from its weights out."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from riffusion_engine.errors import OutputError
from riffusion_export.checkpoint import checkpoint_from_bundle
from riffusion_train.pooled_text import unet_with_pooled_text
from riffusion_train.run_fact import RunFact

PARTS = ("vae", "unet", "text_encoder", "tokenizer")


@dataclass(frozen=True)
class Begun(RunFact):
    """What a run began with instead of nothing: a model's name, and the batches that it had learned from by then."""

    FILE: ClassVar = "begun.json"

    model: str
    autoencoder_batches: int
    denoiser_batches: int
    decoder_batches: int = 0


def begin_with(
    bundle: Path, run: Path, autoencoder_batches: int, denoiser_batches: int, decoder_batches: int = 0
) -> Begun:
    """Put the networks and the tokenizer of ``bundle`` into ``run``, whose denoiser then trains on from them.

    Raises:
        OutputError: the run has networks already.
        ExportError: it is no bundle.
    """
    if there := [part for part in PARTS if (run / part).exists()]:
        raise OutputError(f"{run} has a {there[0]} already", hint="Name another folder with --run")
    run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=run) as scratch:
        checkpoint_from_bundle(bundle, Path(scratch) / "checkpoint")
        for part in PARTS:
            shutil.move(Path(scratch) / "checkpoint" / part, run / part)
    begun = Begun(bundle.name, autoencoder_batches, denoiser_batches, decoder_batches)
    begun.leave_in(run)
    return begun


def begun_networks(run: Path) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """The UNet and the text encoder that a run begins with, float32."""
    unet = unet_with_pooled_text(run / "unet")
    text_encoder = CLIPTextModel.from_pretrained(run / "text_encoder", dtype=torch.float32)
    return unet, text_encoder
