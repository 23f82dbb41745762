"""Consistency distillation: its formulas are the sampler's, and a student learns, stops and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, LCMScheduler, UNet2DConditionModel

from riffusion_engine.errors import RiffusionError
from riffusion_train.denoiser import NOISE_SCHEDULE
from riffusion_train.few_steps import (
    FOLDER,
    Consistency,
    FewStepsRecipe,
    teacher_timesteps,
    train_few_steps,
)


@pytest.fixture
def consistency() -> Consistency:
    return Consistency(DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod)


def test_the_teachers_timesteps_are_the_samplers() -> None:
    scheduler = LCMScheduler(**NOISE_SCHEDULE)
    scheduler.set_timesteps(50, original_inference_steps=50)
    assert teacher_timesteps().flip(0).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize("place", [0, 20, 49])
def test_the_student_is_trained_as_the_sampler_runs_it(consistency: Consistency, place: int) -> None:
    scheduler = LCMScheduler(**NOISE_SCHEDULE)
    scheduler.set_timesteps(50, original_inference_steps=50)
    timestep = teacher_timesteps()[place]
    noisy, prediction = torch.randn(2, 1, 4, 8, 8, dtype=torch.float32)
    expected = scheduler.step(prediction, timestep, noisy).denoised
    torch.testing.assert_close(consistency(noisy, prediction, timestep[None]), expected, rtol=1e-4, atol=1e-4)


def test_without_noise_it_is_the_identity(consistency: Consistency) -> None:
    noisy, prediction = torch.randn(2, 3, 4, 8, 8)
    torch.testing.assert_close(consistency(noisy, prediction, torch.zeros(3, dtype=torch.long)), noisy)


def test_a_true_prediction_leads_to_the_clean_latent_from_anywhere(consistency: Consistency) -> None:
    clean, noise = torch.randn(2, 3, 4, 8, 8)
    timesteps = torch.tensor([19, 499, 999])
    noisy = consistency.ddim(clean, noise, timesteps)
    torch.testing.assert_close(consistency.clean(noisy, noise, timesteps), clean, rtol=1e-3, atol=1e-3)


def test_a_student_learns_and_goes_on_where_it_stopped(trained_run: Path) -> None:
    recipe = FewStepsRecipe(steps=60, batch=4)
    losses = [report.measure for report in train_few_steps(trained_run, recipe)]
    assert losses[-1] < losses[0]
    student = UNet2DConditionModel.from_pretrained(trained_run / FOLDER / "unet")
    teacher = UNet2DConditionModel.from_pretrained(trained_run / "unet")
    assert any(
        not torch.equal(one, other)
        for one, other in zip(student.parameters(), teacher.parameters(), strict=True)
    )
    more = list(train_few_steps(trained_run, FewStepsRecipe(steps=80, batch=4)))
    assert [report.step for report in more] == [80]


def test_without_a_teacher_the_next_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(RiffusionError, match="no UNet") as caught:
        next(train_few_steps(tmp_path))
    assert "denoiser" in caught.value.hint
