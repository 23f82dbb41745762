"""A toy model for every test: random weights, made once for the whole run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores: threads of one that wait for each other while another computes cost minutes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def toy_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Stable Diffusion class checkpoint: 4x8x8 latents, 64x64 pictures. Copy it before changing it."""
    from riffusion_export.toy import write_toy_checkpoint

    return _made_once(tmp_path_factory, "toy-checkpoint", write_toy_checkpoint)


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory, toy_checkpoint: Path) -> Path:
    """The bundle of ``toy_checkpoint``. Copy it before changing it."""
    from riffusion_export.bundle import export_bundle

    def make(folder: Path) -> None:
        for _ in export_bundle(toy_checkpoint, folder):
            pass

    return _made_once(tmp_path_factory, "toy-bundle", make)


@pytest.fixture
def trained_run(tmp_path: Path) -> Path:
    """A run of the recipe with random weights: four clips of 4x8x8 latents, a tokenizer, a text encoder, a UNet."""
    import json

    import numpy as np
    import torch
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTokenizer

    from riffusion_export.clip_tokenizer import write_clip_tokenizer
    from riffusion_train.denoiser import build_text_encoder

    captions = ["slow church bells", "fast piano", "drums", "sad strings"]
    torch.manual_seed(0)
    (tmp_path / "clips").mkdir()
    rows = [
        {
            "index": i,
            "caption": caption,
            "labels": ["piano"],
            "beats": 8,
            "mode": "major",
            "patterns": ["chords"],
            "manners": [""],
        }
        for i, caption in enumerate(captions)
    ]
    (tmp_path / "clips" / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(
        tmp_path / "latents.npy", np.random.default_rng(0).standard_normal((len(rows), 4, 8, 8), np.float32)
    )
    write_clip_tokenizer(tmp_path / "tokenizer", captions, 514)
    build_text_encoder(CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")).save_pretrained(
        tmp_path / "text_encoder"
    )
    UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=8,
        norm_num_groups=8,
    ).save_pretrained(tmp_path / "unet")
    return tmp_path


def _made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Make a folder once, though several test processes ask for it at the same time."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    with (shared / f"{name}.lock").open("w") as lock:
        _lock(lock.fileno())
        if not folder.exists():
            draft = shared / f"{name}.draft"
            make(draft)
            draft.rename(folder)
    return folder


def _lock(descriptor: int) -> None:
    try:
        import fcntl
    except ImportError:  # Not on Windows, where the tests run in one process.
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
