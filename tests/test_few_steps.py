"""Consistency distillation: its formulas are the sampler's, and a student learns, stops and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, LCMScheduler, UNet2DConditionModel

from riffusion_engine.errors import RiffusionError
from riffusion_export.clip_tokenizer import write_clip_tokenizer
from riffusion_train.denoiser import NOISE_SCHEDULE, build_text_encoder
from riffusion_train.few_steps import (
    FOLDER,
    Consistency,
    FewStepsRecipe,
    teacher_timesteps,
    train_few_steps,
)

CAPTIONS = ("slow church bells", "fast piano", "drums", "sad strings")


@pytest.fixture
def consistency() -> Consistency:
    return Consistency(DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with everything but a trained model: a tiny random one."""
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
        for i, caption in enumerate(CAPTIONS)
    ]
    (tmp_path / "clips" / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(
        tmp_path / "latents.npy", np.random.default_rng(0).standard_normal((len(rows), 4, 8, 8), np.float32)
    )
    write_clip_tokenizer(tmp_path / "tokenizer", list(CAPTIONS), 514)
    from transformers import CLIPTokenizer

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


def test_a_student_learns_and_goes_on_where_it_stopped(run: Path) -> None:
    recipe = FewStepsRecipe(steps=60, batch=4)
    losses = [report.measure for report in train_few_steps(run, recipe)]
    assert losses[-1] < losses[0]
    student = UNet2DConditionModel.from_pretrained(run / FOLDER / "unet")
    teacher = UNet2DConditionModel.from_pretrained(run / "unet")
    assert any(
        not torch.equal(one, other)
        for one, other in zip(student.parameters(), teacher.parameters(), strict=True)
    )
    more = list(train_few_steps(run, FewStepsRecipe(steps=80, batch=4)))
    assert [report.step for report in more] == [80]


def test_without_a_teacher_the_next_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(RiffusionError, match="no UNet") as caught:
        next(train_few_steps(tmp_path))
    assert "denoiser" in caught.value.hint
