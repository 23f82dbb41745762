"""What fine-tuning leaves goes through the export into what is heard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("peft", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")

from striped_pictures import TOY, write_dataset

from riffusion_export.bundle import export_bundle
from riffusion_export.checkpoint import open_checkpoint
from riffusion_export.lora import LoraRequest
from riffusion_rt import ClipRequest, Riffusion
from riffusion_rt.cli import main
from riffusion_train.adapters import LORA_FILE
from riffusion_train.finetune import finetune
from riffusion_train.picture_folder import read_picture_folder


def test_an_exported_lora_changes_the_picture(toy_checkpoint: Path, toy_bundle: Path, tmp_path: Path) -> None:
    recipe = replace(TOY, steps=12, learning_rate=2e-2)
    pictures = read_picture_folder(write_dataset(tmp_path / "data"))
    *_, last = finetune(pictures, open_checkpoint(toy_checkpoint), tmp_path / "run", recipe)
    assert last.result is not None
    for _ in export_bundle(toy_checkpoint, tmp_path / "bundle", loras=[LoraRequest(last.result)]):
        pass
    drawn = []
    for bundle in (toy_bundle, tmp_path / "bundle"):
        with Riffusion(bundle) as riffusion:
            *_, clip = riffusion.iterate(ClipRequest("funky piano", seed=1))
            drawn.append(np.asarray(clip.image).astype(int))  # type: ignore[union-attr]
    assert np.abs(drawn[0] - drawn[1]).mean() > 1


def test_the_verb_takes_a_bundle_and_says_what_comes_next(toy_bundle: Path, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    options = ["--steps", "1", "--batch", "1", "--sample-every", "0", "--model", str(toy_bundle)]
    run = CliRunner().invoke(main, ["finetune", str(dataset), "-o", str(tmp_path / "run"), *options])
    assert run.exit_code == 0, run.output
    assert f"riffusion-rt export {toy_bundle} -o BUNDLE --lora {tmp_path / 'run' / LORA_FILE}" in run.stdout
