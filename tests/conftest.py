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
