"""Walks by coefficient table end where diffusers' schedulers end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline

from riffusion_engine.errors import RequestError
from riffusion_rt.noise import TorchNoise
from riffusion_rt.samplers import SAMPLERS, NoiseSchedule, SamplerTable, image_start, sampler_table

# diffusers' own hand-over from torch to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (1, 4, 8, 8)
STABLE_DIFFUSION: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
}
SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (diffusers.DDIMScheduler, {}),
    "pndm": (diffusers.PNDMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler-a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpm++2m-karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
    "lcm": (diffusers.LCMScheduler, {}),
}
OF_DIFFUSERS = tuple(SCHEDULERS)
NOISY = ("euler-a", "lcm")
PAIRS = [
    (name, prediction)
    for name in SCHEDULERS
    for prediction in ("epsilon", "v_prediction", "sample")
    # diffusers refuses these two pairs itself.
    if (name, prediction) not in {("pndm", "sample"), ("euler-a", "sample")}
]
MIXING = np.random.default_rng(0).standard_normal((4, 4)) / 2
ORIGINAL = TorchNoise(2).normal(SHAPE) * np.float32(0.8)


def network(latents: np.ndarray, timestep: float) -> np.ndarray:
    """A fixed nonlinear stand-in: channels mix, neighbours leak in, time matters."""
    exact = latents.astype(np.float64)
    mixed = np.einsum("ij,bjhw->bihw", MIXING, exact)
    return np.tanh(0.9 * exact + 0.4 * np.roll(mixed, 1, -1) + 0.1 * np.cos(timestep / 100)).astype(
        np.float32
    )


def scheduler_for(name: str, config: dict[str, Any]) -> Any:
    kind, extra = SCHEDULERS[name]
    return kind.from_config(config, **extra)


def diffusers_walk(
    name: str, config: dict[str, Any], steps: int, start: int | None, seed: int = 7
) -> np.ndarray:
    """What a diffusers pipeline does: noise, then the scheduler's own steps, all from one generator."""
    scheduler = scheduler_for(name, config)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(SHAPE, generator=generator)
    if start is None:
        latents = noise * scheduler.init_noise_sigma
    else:
        timesteps = timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        latents = scheduler.add_noise(torch.from_numpy(ORIGINAL), noise, timesteps[:1])
    extra = {"generator": generator} if name in NOISY else {}
    for timestep in timesteps:
        seen = scheduler.scale_model_input(latents, timestep).numpy()
        output = torch.from_numpy(network(seen, float(timestep)))
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents.numpy()


def table_walk(name: str, config: dict[str, Any], steps: int, start: int | None, seed: int = 7) -> np.ndarray:
    table = sampler_table(name, NoiseSchedule.from_config(config), steps, start=start or 0)
    stream = TorchNoise(seed)
    noise = stream.normal(SHAPE)
    latents = np.float32(table.init_noise_sigma) * noise if start is None else table.noised(ORIGINAL, noise)
    state = table.begin(latents)
    for step, timestep in enumerate(table.timesteps):
        output = network(state.model_input(step), timestep)
        state = state.advance(step, output, stream.normal(SHAPE) if table.takes_noise(step) else None)
    return state.latents


def assert_same_walk(name: str, config: dict[str, Any], steps: int, start: int | None = None) -> None:
    expected = diffusers_walk(name, config, steps, start)
    difference = np.linalg.norm(table_walk(name, config, steps, start) - expected) / np.linalg.norm(expected)
    assert difference <= 1e-4, f"{name}, {steps} steps from {start}: {difference:.2g}"


def table_of(name: str, steps: int = 20, **changes: Any) -> SamplerTable:
    return sampler_table(name, NoiseSchedule.from_config(STABLE_DIFFUSION | changes), steps)


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 50])
@pytest.mark.parametrize(("name", "prediction"), PAIRS)
def test_text_to_image_walks_end_where_diffusers_ends(name: str, prediction: str, steps: int) -> None:
    assert_same_walk(name, STABLE_DIFFUSION | {"prediction_type": prediction}, steps)


@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
@pytest.mark.parametrize("steps", [4, 20, 50])
@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_image_to_image_walks_end_where_diffusers_ends(name: str, steps: int, strength: float) -> None:
    assert_same_walk(name, STABLE_DIFFUSION, steps, image_start(steps, strength))


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_the_spacing_a_checkpoint_states_is_kept(name: str, spacing: str) -> None:
    config = STABLE_DIFFUSION | {"timestep_spacing": spacing, "prediction_type": "v_prediction"}
    assert_same_walk(name, config, 7)
    assert_same_walk(name, config, 24, image_start(24, 0.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(0.001, 0.03, 400).tolist(), "num_train_timesteps": 400},
        {"set_alpha_to_one": True, "steps_offset": 0},
        {"final_sigmas_type": "sigma_min"},
    ],
    ids=["linear", "cosine", "trained", "to-one", "sigma-min"],
)
@pytest.mark.parametrize("name", [name for name in OF_DIFFUSERS if name != "dpm++2m-karras"])
def test_other_noise_schedules_walk_alike(name: str, changes: dict[str, Any]) -> None:
    assert_same_walk(name, STABLE_DIFFUSION | changes, 20)
    assert_same_walk(name, STABLE_DIFFUSION | changes, 10, image_start(10, 0.6))


@pytest.mark.parametrize("name", [name for name in OF_DIFFUSERS if name not in ("pndm", "dpm++2m-karras")])
def test_schedules_that_end_in_pure_noise_walk_alike(name: str) -> None:
    changes = {
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }
    assert_same_walk(name, STABLE_DIFFUSION | changes, 12)


def test_a_consistency_models_boundary_condition_is_kept() -> None:
    # At the usual scaling the boundary is too sharp to leave a trace in single precision.
    assert_same_walk("lcm", STABLE_DIFFUSION | {"timestep_scaling": 0.002}, 4)


def test_pure_noise_divides_nothing_by_zero() -> None:
    changes = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    for name in SAMPLERS:
        if name != "pndm":
            table = table_of(name, 12, **changes)
            assert np.isfinite(table.transition).all()
            assert np.isfinite(table.denoised).all()
            assert np.isfinite(table.init_noise_sigma)


def test_settings_that_no_file_stated_fall_to_each_samplers_own_habit() -> None:
    stated = {
        key: STABLE_DIFFUSION[key] for key in ("beta_start", "beta_end", "beta_schedule", "steps_offset")
    }
    loaded = dict(diffusers.PNDMScheduler.from_config(stated | {"skip_prk_steps": True}).config)
    assert loaded["timestep_spacing"] == "leading"
    np.testing.assert_array_equal(
        sampler_table("dpm++2m", NoiseSchedule.from_config(loaded), 20).timesteps,
        sampler_table("dpm++2m", NoiseSchedule.from_config(stated), 20).timesteps,
    )
    assert_same_walk("dpm++2m", loaded, 20)


@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_timesteps_and_first_noise_level_are_those_of_diffusers(name: str) -> None:
    scheduler = scheduler_for(name, STABLE_DIFFUSION)
    scheduler.set_timesteps(25)
    table = table_of(name, 25)
    np.testing.assert_allclose(table.timesteps, scheduler.timesteps.numpy(), rtol=1e-7)
    assert table.init_noise_sigma == pytest.approx(float(scheduler.init_noise_sigma), rel=1e-5)


@pytest.mark.parametrize("name", OF_DIFFUSERS)
@pytest.mark.parametrize(("steps", "strength"), [(50, 0.75), (50, 0.3), (20, 0.999), (7, 0.5), (3, 1.0)])
def test_strength_leaves_out_the_timesteps_that_diffusers_leaves_out(
    name: str, steps: int, strength: float
) -> None:
    scheduler = scheduler_for(name, STABLE_DIFFUSION)
    scheduler.set_timesteps(steps)
    holder = SimpleNamespace(scheduler=scheduler)
    kept, _ = StableDiffusionImg2ImgPipeline.get_timesteps(holder, steps, strength, "cpu")
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    table = sampler_table(name, schedule, steps, start=image_start(steps, strength))
    np.testing.assert_allclose(table.timesteps, kept.numpy(), rtol=1e-7)


def test_three_quarters_of_fifty_steps_run_the_network_as_often_as_the_reference() -> None:
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    start = image_start(50, 0.75)
    assert len(sampler_table("pndm", schedule, 50, start=start)) == 38
    assert len(sampler_table("ddim", schedule, 50, start=start)) == 37


@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_a_mask_can_renoise_the_original_to_every_level_of_the_walk(name: str) -> None:
    scheduler = scheduler_for(name, STABLE_DIFFUSION)
    scheduler.set_timesteps(12)
    table = table_of(name, 12)
    noise = TorchNoise(5).normal(SHAPE)
    for step, timestep in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(step)
        expected = scheduler.add_noise(torch.from_numpy(ORIGINAL), torch.from_numpy(noise), timestep[None])
        np.testing.assert_allclose(
            table.noised(ORIGINAL, noise, step), expected.numpy(), rtol=2e-4, atol=1e-5
        )
    np.testing.assert_array_equal(table.noised(ORIGINAL, noise, len(table)), ORIGINAL)


@pytest.mark.parametrize(
    ("name", "field"),
    [("ddim", "pred_original_sample"), ("euler", "pred_original_sample"), ("lcm", "denoised")],
)
def test_previews_are_the_clean_latents_that_diffusers_predicts(name: str, field: str) -> None:
    scheduler = scheduler_for(name, STABLE_DIFFUSION)
    scheduler.set_timesteps(10)
    table = table_of(name, 10)
    latents = np.float32(table.init_noise_sigma) * TorchNoise(1).normal(SHAPE)
    timestep = scheduler.timesteps[0]
    output = network(
        scheduler.scale_model_input(torch.from_numpy(latents), timestep).numpy(), float(timestep)
    )
    expected = scheduler.step(torch.from_numpy(output), timestep, torch.from_numpy(latents))[field].numpy()
    preview = table.begin(latents).denoised(0, output)
    assert np.linalg.norm(preview - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_network_that_knows_the_answer_is_previewed_and_reached_exactly(name: str) -> None:
    table = table_of(name, 6, prediction_type="sample", set_alpha_to_one=True)
    stream = TorchNoise(3)
    state = table.begin(np.float32(table.init_noise_sigma) * stream.normal(SHAPE))
    for step in range(len(table)):
        np.testing.assert_allclose(state.denoised(step, ORIGINAL), ORIGINAL, atol=2e-3)
        state = state.advance(step, ORIGINAL, stream.normal(SHAPE))
    np.testing.assert_allclose(state.latents, ORIGINAL, atol=2e-3)


def test_only_ancestral_and_consistency_samplers_draw_noise_and_not_at_the_end() -> None:
    for name in SAMPLERS:
        table = table_of(name, 5)
        drawn = [table.takes_noise(step) for step in range(len(table))]
        assert drawn == ([True] * 4 + [False] if name in NOISY else [False] * len(table))


@pytest.mark.parametrize("name", SAMPLERS)
def test_states_are_values_that_can_be_walked_on_from_twice(name: str) -> None:
    table = table_of(name, 6)
    latents = TorchNoise(1).normal(SHAPE)
    kept = latents.copy()
    state = table.begin(latents)
    fresh = TorchNoise(4).normal(SHAPE)
    for step in range(3):
        state = state.advance(step, network(state.model_input(step), 1.0), fresh)
    output = network(state.model_input(3), 1.0)
    once, again = state.advance(3, output, fresh), state.advance(3, output, fresh)
    np.testing.assert_array_equal(once.latents, again.latents)
    np.testing.assert_array_equal(latents, kept)
    assert once.latents.dtype == np.float32
    assert {array.dtype for array in (table.transition, table.denoised, table.timesteps)} == {
        np.dtype(np.float64)
    }


def test_mixed_in_latents_leave_the_samplers_memory_alone() -> None:
    state = table_of("unipc", 6).begin(TorchNoise(1).normal(SHAPE))
    state = state.advance(0, network(state.latents, 1.0))
    mixed = state.with_latents(ORIGINAL)
    assert mixed.latents is ORIGINAL
    assert mixed.registers[1:] == state.registers[1:]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [0, -3, 1001, 10**9, 2.5, "20", None])
def test_absurd_numbers_of_steps_are_refused_with_a_hint(name: str, steps: Any) -> None:
    with pytest.raises(RequestError, match="steps") as refusal:
        table_of(name, steps)
    assert "--steps" in refusal.value.hint


@pytest.mark.parametrize("steps", [998, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_most_steps_give_a_finite_table_or_a_refusal(name: str, spacing: str, steps: int) -> None:
    try:
        table = table_of(name, steps, timestep_spacing=spacing)
    except RequestError as refusal:
        assert "--steps" in refusal.hint
    else:
        assert np.isfinite(table.transition).all()
        assert table.timesteps.min() >= 0
        assert table.timesteps.max() < 1000


def test_consistency_models_take_no_more_steps_than_they_were_distilled_on() -> None:
    assert len(table_of("lcm", 50)) == 50
    with pytest.raises(RequestError, match="51 steps"):
        table_of("lcm", 51)
    assert len(table_of("lcm", 51, original_inference_steps=100)) == 51


def test_a_restart_lays_what_the_network_says_of_noise_under_the_same_noise() -> None:
    plain, twice = table_of("dpm++2m-karras", 6), table_of("dpm++2m-karras-restart", 6)
    noise = TorchNoise(1).normal(SHAPE)
    first = twice.begin(noise)
    said = network(first.model_input(0), twice.timesteps[0])
    began = first.advance(0, said)
    np.testing.assert_allclose(
        began.latents, noise + plain.original_scale[0] * first.denoised(0, said), rtol=1e-5, atol=1e-6
    )
    state = plain.begin(began.latents)
    for step in range(6):
        output = network(state.model_input(step), plain.timesteps[step])
        state, began = state.advance(step, output), began.advance(step + 1, output)
    np.testing.assert_array_equal(began.latents, state.latents)


def test_a_restart_is_for_walks_that_begin_with_noise_alone() -> None:
    plain, twice = (table_of(name, 6) for name in ("dpm++2m-karras", "dpm++2m-karras-restart"))
    assert len(twice) == len(plain) + 1
    noise = TorchNoise(5).normal(SHAPE)
    np.testing.assert_array_equal(twice.noised(ORIGINAL, noise), np.float32(twice.noise_scale[0]) * noise)
    schedule = NoiseSchedule.from_config(STABLE_DIFFUSION)
    for start in range(1, 6):
        same, other = (
            sampler_table(name, schedule, 6, start=start)
            for name in ("dpm++2m-karras", "dpm++2m-karras-restart")
        )
        np.testing.assert_array_equal(same.transition, other.transition)
        np.testing.assert_array_equal(same.timesteps, other.timesteps)


def test_an_unknown_sampler_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match="heun") as refusal:
        table_of("heun")
    assert all(name in refusal.value.hint for name in SAMPLERS)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan"), float("inf"), 0.01])
def test_absurd_strengths_are_refused_with_a_hint(strength: float) -> None:
    with pytest.raises(RequestError, match="Strength") as refusal:
        image_start(20, strength)
    assert "--strength" in refusal.value.hint


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [-1, 40])
def test_a_start_outside_the_walk_is_refused(name: str, start: int) -> None:
    with pytest.raises(RequestError, match="Start"):
        sampler_table(name, NoiseSchedule.from_config(STABLE_DIFFUSION), 20, start=start)


def test_pndm_refuses_to_start_from_pure_noise() -> None:
    with pytest.raises(RequestError, match="pure noise"):
        table_of("pndm", rescale_betas_zero_snr=True, prediction_type="v_prediction")


def test_outputs_and_noise_of_another_shape_are_refused() -> None:
    state = table_of("euler-a").begin(ORIGINAL)
    with pytest.raises(RequestError, match="shape"):
        state.advance(0, ORIGINAL[:, :2], ORIGINAL)
    with pytest.raises(RequestError, match="shape"):
        state.advance(0, ORIGINAL, ORIGINAL[0])
    with pytest.raises(RequestError, match="needs noise"):
        state.advance(0, ORIGINAL)
    with pytest.raises(RequestError, match="shape"):
        state.with_latents(ORIGINAL[..., :4])
