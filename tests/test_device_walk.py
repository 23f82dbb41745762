"""A walk on the device is the walk from the host, to rounding, for every sampler and every setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.denoising_session import DenoisingSession
from riffusion_engine.devices import probe_devices
from riffusion_engine.errors import DeviceError, NumericsError, RequestError
from riffusion_engine.manifest import Manifest
from riffusion_engine.onnxruntime_session import CudaSettings, OnnxRuntimeSession
from riffusion_engine.session import open_session
from riffusion_rt.denoise import Guidance, Repaint, denoise
from riffusion_rt.noise import TorchNoise
from riffusion_rt.noise_schedule import NoiseSchedule
from riffusion_rt.samplers import SAMPLERS, sampler_table

SCHEDULE = NoiseSchedule.from_config(
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
)
SHAPE = (2, 4, 8, 8)
DRAW = np.random.default_rng(0)
GUIDANCE = Guidance(
    DRAW.standard_normal((2, 77, 32), np.float32),
    DRAW.standard_normal((2, 77, 32), np.float32),
    np.array([3.0, 7.0], np.float32),
)


@pytest.fixture(scope="module")
def unet(toy_bundle: Path) -> Iterator[OnnxRuntimeSession]:
    graph = Manifest.read(toy_bundle).graph("unet")
    with open_session(toy_bundle, graph, device="cpu", threads=1) as session:
        yield cast(OnnxRuntimeSession, session)


def _walk(
    unet: OnnxRuntimeSession,
    on_device: bool,
    sampler: str = "dpm++2m",
    guidance: Guidance = GUIDANCE,
    repaint: Repaint | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Latents and previews of all steps."""
    table = sampler_table(sampler, SCHEDULE, 5)
    streams = [TorchNoise(1), TorchNoise(2)]
    latents = np.concatenate([stream.normal((1, *SHAPE[1:])) for stream in streams])
    latents *= np.float32(table.init_noise_sigma)
    walk = denoise(unet, table, latents, guidance, streams, repaint, on_device=on_device)
    both = [(done.latents, done.preview()) for done in walk]
    assert len(both) == len(table)
    return np.stack([latents for latents, _ in both]), np.stack([preview for _, preview in both])


def _assert_same(unet: OnnxRuntimeSession, **settings: object) -> None:
    host, device = (_walk(unet, on_device, **settings) for on_device in (False, True))  # type: ignore[arg-type]
    for expected, found in zip(host, device, strict=True):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_walks_the_same_way_on_the_device(sampler: str, unet: OnnxRuntimeSession) -> None:
    _assert_same(unet, sampler=sampler)


@pytest.mark.parametrize(
    "change", [{"scale": 1.0}, {"interval": (0.3, 0.7)}, {"scale": 4.0, "interval": (0.0, 0.5)}]
)
def test_guidance_may_be_off_or_come_and_go(change: dict[str, object], unet: OnnxRuntimeSession) -> None:
    _assert_same(unet, guidance=dataclasses.replace(GUIDANCE, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["dpm++2m", "euler-a"])
def test_a_mask_keeps_the_picture_on_the_device_too(sampler: str, unet: OnnxRuntimeSession) -> None:
    keep = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
    original, noise = (DRAW.standard_normal(SHAPE, np.float32) for _ in range(2))
    _assert_same(unet, sampler=sampler, repaint=Repaint(original, noise, keep))


def test_a_picture_may_count_for_less_after_some_steps(unet: OnnxRuntimeSession) -> None:
    original, noise = (DRAW.standard_normal(SHAPE, np.float32) for _ in range(2))
    counted = np.array([1, 1, 0.25, 0, 0], np.float32)
    mixed = Repaint(original, noise, np.full((1, 1, 1, 1), 0.4, np.float32), counted)
    _assert_same(unet, repaint=mixed)
    plain, less = (_walk(unet, True, repaint=each)[0] for each in (None, mixed))
    assert np.abs(plain - less).max() > 1e-2


def test_the_buffers_of_one_walk_serve_the_next(unet: OnnxRuntimeSession) -> None:
    first, _ = _walk(unet, True)
    _walk(unet, True, "euler-a")
    again, _ = _walk(unet, True)
    np.testing.assert_array_equal(first, again)


def test_a_step_that_was_overwritten_is_not_passed_off_as_another(unet: OnnxRuntimeSession) -> None:
    walk = denoise(
        unet, sampler_table("ddim", SCHEDULE, 3), np.ones(SHAPE, np.float32), GUIDANCE, [], on_device=True
    )
    first = next(walk)
    next(walk)
    with pytest.raises(RequestError, match="overwritten"):
        _ = first.latents


def test_nan_never_leaves_the_device_as_a_result(unet: OnnxRuntimeSession) -> None:
    poisoned = np.full(SHAPE, np.nan, np.float32)
    with pytest.raises(NumericsError):
        for _ in denoise(unet, sampler_table("ddim", SCHEDULE, 2), poisoned, GUIDANCE, [], on_device=True):
            pass


def test_latents_of_another_size_are_refused_before_native_code_sees_them(unet: OnnxRuntimeSession) -> None:
    table = sampler_table("ddim", SCHEDULE, 2)
    with pytest.raises(RequestError, match="shape"):
        next(denoise(unet, table, np.ones((2, 4, 8, 9), np.float32), GUIDANCE, [], on_device=True))


def test_a_closed_session_walks_no_more(toy_bundle: Path) -> None:
    session = open_session(toy_bundle, Manifest.read(toy_bundle).graph("unet"), device="cpu", threads=1)
    session.close()
    table = sampler_table("ddim", SCHEDULE, 2)
    with pytest.raises(DeviceError, match="closed"):
        next(denoise(session, table, np.ones(SHAPE, np.float32), GUIDANCE, [], on_device=True))


def test_on_a_cpu_the_host_walks_unless_told_otherwise(unet: OnnxRuntimeSession) -> None:
    assert isinstance(unet, DenoisingSession)
    assert not unet.walks_on_device


CUDA = next(report for report in probe_devices() if report.name == "cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA.available, reason=f"needs ONNX Runtime on CUDA: {CUDA.reason}")
@pytest.mark.parametrize(
    "settings", [CudaSettings(), CudaSettings(replay=True), CudaSettings(channels_last=True)]
)
@pytest.mark.parametrize("fused", [False, True])
def test_a_gpu_walks_as_the_host_does(
    settings: CudaSettings, fused: bool, toy_bundle: Path, unet: OnnxRuntimeSession
) -> None:
    expected, _ = _walk(unet, False)
    graph = Manifest.read(toy_bundle).graph("unet")
    with OnnxRuntimeSession(toy_bundle, graph, device="cuda", fused=fused, cuda=settings) as session:
        assert session.walks_on_device
        for _ in range(3):  # A captured walk is captured in the first and replayed in the others.
            found, _ = _walk(session, True)
            assert np.linalg.norm(found - expected) <= 1e-3 * np.linalg.norm(expected)
