"""Two trained states of one model in, their weighted mean out: a model soup (arXiv 2203.05482).

Trained on, a small model gains one thing and loses another: seeds differ in what they hear of it. The mean of weights
from before and after keeps most of both, at no cost in speed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_export.checkpoint import checkpoint_from_bundle
from riffusion_train.run_fact import RunFact

PARTS = ("unet", "text_encoder")


@dataclass(frozen=True)
class Soup(RunFact):
    """What was mixed into a run's networks: a model's name, its share, and the batches that it had learned from."""

    FILE: ClassVar = "soup.json"

    model: str
    share: float
    denoiser_batches: int


def mix_in(bundle: Path, run: Path, share: float, denoiser_batches: int) -> Soup:
    """Have ``share`` of the UNet's and the text encoder's weights in ``run`` be those of ``bundle``.

    ``denoiser.pt`` keeps the state in training; a denoiser that trains on leaves its own weights again.

    Raises:
        RequestError: the share is not between 0 and 1.
        RiffusionError: the run has no such networks, of another shape, or something mixed in already.
        ExportError: it is no bundle.
    """
    if not 0 < share < 1:
        raise RequestError(f"The share {share} is not between 0 and 1", hint="Give --share 0.5")
    if Soup.of_run(run):
        raise RiffusionError(
            f"{run} has something mixed in already", hint="Train it on: riffusion_train denoiser"
        )
    with tempfile.TemporaryDirectory(dir=run) as scratch:
        checkpoint = Path(scratch) / "checkpoint"
        checkpoint_from_bundle(bundle, checkpoint)
        for part in PARTS:
            _mix(run / part, checkpoint / part, share)
        # All is computed before anything is replaced.
        for part in PARTS:
            for path in (checkpoint / part).glob("*.safetensors"):
                shutil.move(path, run / part / path.name)
    soup = Soup(bundle.name, share, denoiser_batches)
    soup.leave_in(run)
    return soup


def _mix(own: Path, other: Path, share: float) -> None:
    """Replace the weights in ``other`` by the mean."""
    from safetensors.torch import load_file, save_file

    path = next(other.glob("*.safetensors"))
    if not (own / path.name).is_file():
        raise RiffusionError(f"{own} has no {path.name}", hint="Train it: python -m riffusion_train denoiser")
    mine, theirs = load_file(own / path.name), load_file(path)
    if _shapes(mine) != _shapes(theirs):
        raise RiffusionError(f"{own} and {other.name} are of other shapes", hint="Mix states of one model")
    mixed = {name: (1 - share) * mine[name].float() + share * theirs[name].float() for name in mine}
    save_file(mixed, path, metadata={"format": "pt"})


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in weights.items()}
