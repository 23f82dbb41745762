"""A checkpoint's scheduler settings are read as diffusers reads them, or refused in one line."""

from __future__ import annotations

import json
import math
from typing import Any

import diffusers
import numpy as np
import pytest

from riffusion_engine.errors import BundleError
from riffusion_rt.noise_schedule import NoiseSchedule

SETTINGS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("count", [1000, 250])
def test_alphas_are_those_of_diffusers(kind: str, zero_snr: bool, count: int) -> None:
    settings = SETTINGS | {
        "beta_schedule": kind,
        "rescale_betas_zero_snr": zero_snr,
        "num_train_timesteps": count,
    }
    expected = diffusers.DDIMScheduler.from_config(settings).alphas_cumprod.numpy()
    schedule = NoiseSchedule.from_config(settings)
    assert schedule.train_timesteps == count
    np.testing.assert_allclose(schedule.alphas_cumprod, expected, atol=2e-6)
    assert schedule.zero_terminal_snr is zero_snr
    assert np.isfinite(schedule.sigmas).all()


def test_trained_betas_go_before_a_named_schedule() -> None:
    betas = [0.1, 0.2, 0.3]
    schedule = NoiseSchedule.from_config(SETTINGS | {"trained_betas": betas, "num_train_timesteps": 3})
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-7)
    assert schedule.original_inference_steps == 3


@pytest.mark.parametrize(
    "kind",
    [
        diffusers.DDIMScheduler,
        diffusers.PNDMScheduler,
        diffusers.EulerDiscreteScheduler,
        diffusers.DPMSolverMultistepScheduler,
        diffusers.UniPCMultistepScheduler,
        diffusers.LCMScheduler,
        diffusers.DDPMScheduler,
    ],
)
def test_the_file_that_any_scheduler_writes_is_read(kind: Any, tmp_path: Any) -> None:
    kind(**SETTINGS, prediction_type="v_prediction", steps_offset=1).save_pretrained(tmp_path)
    schedule = NoiseSchedule.from_config(json.loads((tmp_path / "scheduler_config.json").read_text()))
    assert schedule.prediction_type == "v_prediction"
    assert schedule.steps_offset == 1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_clean_sample_and_noise_are_recovered_from_a_perfect_prediction(prediction: str) -> None:
    clean, noise = np.array([0.3, -1.2]), np.array([0.7, 0.1])
    alpha, sigma = 0.6, 0.8
    output = {"epsilon": noise, "v_prediction": alpha * noise - sigma * clean, "sample": clean}[prediction]
    schedule = NoiseSchedule.from_config(SETTINGS | {"prediction_type": prediction})
    for found, expected in zip(
        schedule.split(alpha, sigma, alpha * clean + sigma * noise, output), (clean, noise), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule"),
        ({"beta_schedule": None}, "beta_schedule"),
        ({"beta_start": None}, "beta_start"),
        ({"beta_start": math.nan}, "beta_start"),
        ({"beta_end": 1.5}, "beta_end"),
        ({"beta_end": "high"}, "beta_end"),
        ({"trained_betas": [0.1, 2.0]}, "trained_betas"),
        ({"trained_betas": []}, "trained_betas"),
        ({"trained_betas": "many"}, "trained_betas"),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 3}, "2 betas for 3"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"num_train_timesteps": 99.5}, "num_train_timesteps"),
        ({"prediction_type": "flow_prediction"}, "prediction_type"),
        ({"prediction_type": ["epsilon"]}, "prediction_type"),
        ({"timestep_spacing": "random"}, "timestep_spacing"),
        ({"steps_offset": -1}, "steps_offset"),
        ({"steps_offset": 1000}, "steps_offset"),
        ({"set_alpha_to_one": "yes"}, "set_alpha_to_one"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type"),
        ({"rescale_betas_zero_snr": 1}, "rescale_betas_zero_snr"),
        ({"thresholding": True}, "thresholding"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas"),
        ({"variance_type": "learned_range"}, "variance_type"),
        ({"original_inference_steps": 0}, "original_inference_steps"),
        ({"timestep_scaling": 0}, "timestep_scaling"),
    ],
)
def test_settings_no_sampler_here_can_honour_are_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BundleError, match=said) as refusal:
        NoiseSchedule.from_config(SETTINGS | changes)
    assert "scheduler_config.json" in refusal.value.hint
    assert "\n" not in str(refusal.value)


def test_a_flow_matching_checkpoint_is_refused() -> None:
    config = dict(diffusers.FlowMatchEulerDiscreteScheduler().config)
    with pytest.raises(BundleError, match="no noise schedule"):
        NoiseSchedule.from_config(config)


def test_settings_that_are_no_object_are_refused() -> None:
    with pytest.raises(BundleError, match="no JSON object"):
        NoiseSchedule.from_config([1, 2])  # type: ignore[arg-type]
