"""The embedded model's noise schedule is Stable Diffusion's, drawn on until no clip shows through."""

from __future__ import annotations

import numpy as np

from riffusion_rt.noise_schedule import NoiseSchedule
from riffusion_train.denoiser import NOISE_SCHEDULE

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_it_begins_as_stable_diffusions() -> None:
    ours, theirs = (NoiseSchedule.from_config(each) for each in (NOISE_SCHEDULE, STABLE_DIFFUSION))
    assert (theirs.train_timesteps, ours.train_timesteps) == (1000, 1200)
    np.testing.assert_allclose(ours.alphas_cumprod[:1000], theirs.alphas_cumprod, rtol=1e-3)


def test_it_ends_with_sixteen_times_less_of_the_clip() -> None:
    ours, theirs = (NoiseSchedule.from_config(each) for each in (NOISE_SCHEDULE, STABLE_DIFFUSION))
    assert ours.alphas_cumprod[-1] < theirs.alphas_cumprod[-1] / 16
    assert ours.alphas_cumprod[-1] > 1e-4  # what is predicted is noise, which says nothing of a clip at 0
