"""A walk starts in noise, in a noised picture, or in noise that a picture is mixed into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt import Riffusion
from riffusion_rt.denoise import Guidance, denoise
from riffusion_rt.walk_start import WalkStart, start_from_noise, start_mixed

SAMPLER, STEPS = "dpm++2m", 12


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Riffusion:
    return Riffusion(toy_bundle, device="cpu", threads=1)


def _drawn(toy: Riffusion, start: WalkStart) -> NDArray[np.float32]:
    told = toy.model.embed(["bells"])
    walk = denoise(
        toy.model.session("unet"), start.table, start.latents, Guidance(told, told, 1.0), [], start.repaint
    )
    *_, done = walk
    return done.latents


def _pair(toy: Riffusion) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    spec, draw = toy.manifest.latent, np.random.default_rng(3)
    shape = (1, spec.channels, spec.height, spec.width)
    return draw.standard_normal(shape, np.float32), draw.standard_normal(shape, np.float32)


def test_the_stronger_the_less_of_the_original_is_left(toy: Riffusion) -> None:
    original, noise = _pair(toy)

    def distance(strength: float) -> float:
        drawn = _drawn(toy, start_mixed(toy.model.schedule, SAMPLER, STEPS, strength, original, noise))
        return float(np.linalg.norm(drawn - original) / np.linalg.norm(original))

    distances = [distance(strength) for strength in (1e-4, 0.25, 0.5, 0.75, 1.0)]
    assert distances == sorted(distances)
    assert distances[0] < 1e-2


def test_at_full_strength_nothing_of_it_is_mixed_in(toy: Riffusion) -> None:
    original, noise = _pair(toy)
    schedule = toy.model.schedule
    mixed = _drawn(toy, start_mixed(schedule, SAMPLER, STEPS, 1.0, original, noise))
    free = _drawn(toy, start_from_noise(schedule, SAMPLER, STEPS, noise))
    # The first noise level still lets a trace of the original through, in the walk's first latents alone.
    assert np.linalg.norm(mixed - free) < 0.2 * np.linalg.norm(free)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, float("nan")])
def test_a_strength_out_of_range_is_refused(toy: Riffusion, strength: float) -> None:
    with pytest.raises(RequestError, match="between 0 and 1"):
        start_mixed(toy.model.schedule, SAMPLER, STEPS, strength, *_pair(toy))
