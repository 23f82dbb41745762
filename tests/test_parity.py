"""The same seed and settings give what diffusers' own pipelines give from the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)
from numpy.typing import NDArray
from PIL import Image

from riffusion_export.checkpoint import checkpoint_from_bundle
from riffusion_rt import Clip, ClipRequest, Riffusion, StepProgress
from riffusion_rt.models import locate_model

SCHEDULERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "pndm": (PNDMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++2m": (DPMSolverMultistepScheduler, {}),
    "dpm++2m-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "unipc": (UniPCMultistepScheduler, {}),
}
LATENTS_TOLERANCE = 1e-3
"""Relative L2 distance of final latents."""
PICTURE_DB = 45.0
"""Least peak signal-to-noise ratio of the decoded pictures."""


def _checkpoint(bundle: Path, folder: Path) -> Path:
    checkpoint_from_bundle(bundle, folder)
    return folder


@pytest.fixture(scope="module")
def toy(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return toy_bundle, _checkpoint(toy_bundle, tmp_path_factory.mktemp("toy") / "checkpoint")


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    bundle = locate_model("riffusion-mini")
    return bundle, _checkpoint(bundle, tmp_path_factory.mktemp("mini") / "checkpoint")


def _seed_image(riffusion: Riffusion) -> Image.Image:
    spec = riffusion.manifest.latent
    size = (spec.height * spec.vae_factor, spec.width * spec.vae_factor)
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = 128 + 90 * np.sin(rows / 7.0) * np.cos(columns / 11.0)
    return Image.fromarray(np.repeat(waves.astype(np.uint8)[:, :, None], 3, axis=2))


@contextmanager
def _silent(pipeline: Any) -> Iterator[Any]:
    pipeline.set_progress_bar_config(disable=True)
    yield pipeline


def _reference(checkpoint: Path, request: ClipRequest) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Final latents and picture of diffusers' pipeline, torch float32."""
    kind: Any = StableDiffusionPipeline if request.seed_image is None else StableDiffusionImg2ImgPipeline
    pipeline = kind.from_pretrained(checkpoint, torch_dtype=torch.float32, safety_checker=None)
    scheduler, options = SCHEDULERS[str(request.sampler)]
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **options)
    settings: dict[str, Any] = {
        "negative_prompt": request.negative_prompt,
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "generator": torch.Generator("cpu").manual_seed(request.seed),
        "output_type": "latent",
    }
    if request.seed_image is not None:
        settings |= {"image": request.seed_image, "strength": request.strength}
    with _silent(pipeline), torch.no_grad():
        latents = pipeline(request.prompt, **settings).images
        decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        picture = pipeline.image_processor.postprocess(decoded, output_type="pil")[0]
    return latents.numpy(), np.asarray(picture)


def _ours(riffusion: Riffusion, request: ClipRequest) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    *_, last, clip = riffusion.iterate(request)
    assert isinstance(last, StepProgress)
    assert isinstance(clip, Clip)
    return last.latents, np.asarray(clip.image)


def _assert_same(bundle: Path, checkpoint: Path, request: dict[str, Any], *, from_image: bool) -> None:
    with Riffusion(bundle, device="cpu") as riffusion:
        if from_image:
            request = {**request, "seed_image": _seed_image(riffusion), "strength": 0.75}
        asked = ClipRequest(**request)
        latents, picture = _ours(riffusion, asked)
    expected_latents, expected_picture = _reference(checkpoint, asked)
    distance = np.linalg.norm(latents - expected_latents) / np.linalg.norm(expected_latents)
    error = np.mean((picture.astype(float) - expected_picture.astype(float)) ** 2)
    decibels = np.inf if error == 0 else 10 * np.log10(255**2 / error)
    print(f"latents {distance:.1e} apart (relative L2), pictures {decibels:.1f} dB")
    assert distance <= LATENTS_TOLERANCE
    assert decibels >= PICTURE_DB


@pytest.mark.parametrize("from_image", [False, True], ids=["text", "image"])
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_the_toy_walks_as_diffusers_does(
    toy: tuple[Path, Path], sampler: str, steps: int, from_image: bool
) -> None:
    request = {
        "prompt": "church bells",
        "negative_prompt": "drums",
        "seed": 7,
        "steps": steps,
        "guidance": 5.0,
    }
    _assert_same(*toy, {**request, "sampler": sampler}, from_image=from_image)


@pytest.mark.parametrize(("sampler", "from_image"), [("dpm++2m", False), ("unipc", False), ("ddim", True)])
def test_mini_walks_as_diffusers_does(mini: tuple[Path, Path], sampler: str, from_image: bool) -> None:
    request = {"prompt": "funky piano", "negative_prompt": "drums", "seed": 3, "steps": 20, "guidance": 5.0}
    _assert_same(*mini, {**request, "sampler": sampler}, from_image=from_image)


@pytest.mark.thorough
@pytest.mark.parametrize("from_image", [False, True], ids=["text", "image"])
@pytest.mark.parametrize("steps", [20, 50])
@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_mini_walks_as_diffusers_does_with_every_sampler(
    mini: tuple[Path, Path], sampler: str, steps: int, from_image: bool
) -> None:
    request = {"prompt": "church bells", "negative_prompt": "drums", "seed": 7, "guidance": 5.0}
    _assert_same(*mini, {**request, "steps": steps, "sampler": sampler}, from_image=from_image)
