"""Latents are drawn as diffusers would draw them, guidance and all, and kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from riffusion_engine.errors import RiffusionError
from riffusion_train.clip_draws import ClipDraws, cached_latents
from riffusion_train.denoiser import NOISE_SCHEDULE
from riffusion_train.drawn_latents import (
    FILE,
    STRENGTHS,
    DrawSettings,
    RedrawnLatents,
    draw_latents,
    redraw_latents,
)
from riffusion_train.token_ids import token_ids


def test_they_are_what_diffusers_draws(trained_run: Path) -> None:
    *_, done = draw_latents(trained_run, 3, DrawSettings("dpm++2m-karras", 4, 3.0), seed=5)
    drawn = np.load(trained_run / FILE)
    assert done == len(drawn) == 3
    captions = ClipDraws.of_run(trained_run).draw(np.random.default_rng(5), 3).captions
    latents = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(5))
    tokenizer = CLIPTokenizer.from_pretrained(trained_run / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(trained_run / "text_encoder")
    unet = UNet2DConditionModel.from_pretrained(trained_run / "unet")
    scheduler = DPMSolverMultistepScheduler.from_config(NOISE_SCHEDULE, use_karras_sigmas=True)
    scheduler.set_timesteps(4)
    with torch.no_grad():
        told, empty = (
            encoder(token_ids(tokenizer, words)).last_hidden_state for words in (captions, [""] * 3)
        )
        for timestep in scheduler.timesteps:
            asked, plain = (unet(latents, timestep, states).sample for states in (told, empty))
            latents = scheduler.step(plain + 3.0 * (asked - plain), timestep, latents).prev_sample
    assert np.linalg.norm(drawn - latents.numpy()) <= 0.1 * np.linalg.norm(latents.numpy())


def test_the_seed_draws_them(trained_run: Path) -> None:
    def drawn(seed: int, guidance: float) -> np.ndarray:
        list(draw_latents(trained_run, 9, DrawSettings("dpm++2m-karras-restart", 2, guidance), seed=seed))
        return np.load(trained_run / FILE)

    first = drawn(1, 2.0)
    assert first.shape == (9, 4, 8, 8)
    np.testing.assert_array_equal(first, drawn(1, 2.0))
    assert not np.array_equal(first, drawn(2, 2.0))
    assert not np.array_equal(first, drawn(1, 1.0))


def test_without_a_unet_the_next_command_is_named(tmp_path: Path) -> None:
    for draw in (draw_latents, redraw_latents):
        with pytest.raises(RiffusionError, match="no UNet") as refusal:
            list(draw(tmp_path, 1, DrawSettings("ddim", 1, 1.0)))
        assert "denoiser" in refusal.value.hint


def test_redrawn_ones_are_nearer_to_their_clips_than_to_others_the_more_the_less_was_drawn(
    trained_run: Path,
) -> None:
    assert RedrawnLatents.of_run(trained_run) is None
    *_, done = redraw_latents(trained_run, 24, DrawSettings("dpm++2m-karras", 8, 1.0), seed=3)
    redrawn = RedrawnLatents.of_run(trained_run)
    assert redrawn is not None
    assert done == len(redrawn.latents) == len(redrawn.folders) == len(redrawn.indices) == 24
    real = np.stack(
        [
            cached_latents(trained_run, name)[i]
            for name, i in zip(redrawn.folders, redrawn.indices, strict=True)
        ]
    ).astype(np.float32)
    errors = np.square(redrawn.latents - real).mean(axis=(1, 2, 3)).reshape(len(STRENGTHS), 8).mean(axis=1)
    assert (np.diff(errors) > 0).all()
    assert errors[0] < np.square(redrawn.latents - real[::-1]).mean()
