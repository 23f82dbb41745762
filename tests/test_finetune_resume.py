"""A fine-tuning that is killed costs what it did since its last save, and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("peft", reason="needs the extra train")
pytest.importorskip("tensorboard", reason="needs the extra train")

from striped_pictures import TOY, write_dataset

from riffusion_export.checkpoint import open_checkpoint
from riffusion_train.adapters import LORA_FILE
from riffusion_train.checkpointing import load_state
from riffusion_train.finetune import STATE, finetune
from riffusion_train.picture_folder import read_picture_folder


def test_a_killed_run_ends_as_if_it_had_not_been(toy_checkpoint: Path, tmp_path: Path) -> None:
    recipe, source = replace(TOY, steps=40), open_checkpoint(toy_checkpoint)
    dataset = write_dataset(tmp_path / "data")
    pictures = read_picture_folder(dataset)
    options = ["--steps", "40", "--batch", "2", "--rank", "4", "--layers", "all", "--text-encoder", "--quiet"]
    options += ["--learning-rate", "2e-3", "--sample-every", "0", "--save-seconds", "0"]
    command = [sys.executable, "-m", "riffusion_rt", "finetune", str(dataset), "-o", str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # On a busy machine the run must wait for this test rather than end before it is looked at.
    patient = ["nice", "-n", "19"] if shutil.which("nice") else []
    running = subprocess.Popen(
        [*patient, *command, "--model", str(toy_checkpoint), *options], env=environment
    )
    deadline = time.monotonic() + 300
    while not _saved_step(tmp_path / "killed") >= 3:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    running.wait()
    saved = _saved_step(tmp_path / "killed")
    assert saved < 40
    *_, last = finetune(pictures, source, tmp_path / "killed", recipe)
    assert last.resumed_at == saved
    *_, whole = finetune(pictures, source, tmp_path / "whole", recipe)
    assert whole.resumed_at == 0
    ours, theirs = (load_file(tmp_path / name / LORA_FILE) for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-4)


def _saved_step(run: Path) -> int:
    try:
        return int(load_state(run / STATE).get("step", 0))
    except (OSError, RuntimeError):
        return 0
