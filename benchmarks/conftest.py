"""Options of the benchmark suites, and the two sides of every comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from recording import RESULTS, record

from riffusion_rt import Riffusion
from riffusion_rt.models import DEFAULT_MODEL, locate_model


def pytest_addoption(parser: pytest.Parser) -> None:
    """What to measure, and beside whom."""
    group = parser.getgroup("riffusion-rt")
    group.addoption("--model", default=DEFAULT_MODEL, help="A bundle: short name, folder or hub id.")
    group.addoption("--device", default="cpu", help="cpu, openvino or cuda.")
    group.addoption("--peer", default="eager", choices=("eager", "compile"), help="Torch, eager or compiled.")
    group.addoption(
        "--peer-dtype", default=None, help="float32 or float16; by default as the bundle computes."
    )
    group.addoption(
        "--session",
        default="",
        help="Switches of walks, comma-separated: fused, channels_last, replay, untuned, from_host.",
    )
    group.addoption("--rounds", type=int, default=5, help="Rounds of each comparison.")
    group.addoption("--batches", default="1", help="Latents in a batch, comma-separated.")
    group.addoption("--steps", default="20", help="Denoising steps of whole clips, comma-separated.")
    group.addoption("--suite", default="suite", help="Name of the file of rows.")
    group.addoption("--results", type=Path, default=RESULTS, help="Folder of the rows.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One benchmark for each batch and number of steps asked for."""
    for name, option in (("batch", "--batches"), ("steps", "--steps")):
        if name in metafunc.fixturenames:
            values = [int(value) for value in metafunc.config.getoption(option).split(",")]
            metafunc.parametrize(name, values)


@pytest.fixture(scope="session")
def options(request: pytest.FixtureRequest) -> Any:
    """The options, by name."""
    return request.config.option


@pytest.fixture(scope="session")
def riffusion(options: Any) -> Iterator[Riffusion]:
    """Our side. Skips where the device is absent, with the reason."""
    from riffusion_engine.errors import DeviceError

    try:
        opened = Riffusion(options.model, device=options.device)
    except DeviceError as error:
        pytest.skip(f"{error.message}. {error.hint}")
    with opened:
        yield opened


@pytest.fixture(scope="session")
def peer(options: Any, riffusion: Riffusion) -> Any:
    """Torch's side, on the same weights and the same number of cores."""
    import torch
    from torch_peer import TorchPeer

    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    dtype = options.peer_dtype or riffusion.manifest.graphs["unet"].compute_dtype
    model = Path(locate_model(options.model))
    on = "cuda" if options.device in {"cuda", "trt", "trt-rtx"} else "cpu"
    return TorchPeer(model, device=on, dtype=dtype, compiled=options.peer == "compile")


@pytest.fixture
def row(options: Any, riffusion: Riffusion, peer: Any) -> Callable[..., None]:
    """Writes one row: the figures, and whom they compare."""

    def write(part: str, **figures: Any) -> None:
        arithmetic = riffusion.manifest.graphs["unet"].compute_dtype
        if options.device == "openvino":
            arithmetic = riffusion.model.session("unet").provider.rpartition(" ")[2]
        record(
            options.suite,
            folder=options.results,
            model=riffusion.manifest.name,
            part=part,
            device=options.device,
            ours=f"riffusion-rt {arithmetic}",
            peer=f"diffusers {options.peer} {str(peer.dtype).removeprefix('torch.')}",
            **figures,
        )

    return write
