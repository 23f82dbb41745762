"""Latents are drawn as diffusers would draw them, guidance and all, and kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from riffusion_engine.errors import RiffusionError
from riffusion_train.clip_draws import ClipDraws
from riffusion_train.denoiser import NOISE_SCHEDULE, token_ids
from riffusion_train.drawn_latents import FILE, draw_latents


def test_they_are_what_diffusers_draws(trained_run: Path) -> None:
    *_, done = draw_latents(trained_run, 3, sampler="dpm++2m-karras", steps=4, guidance=3.0, seed=5)
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
        list(
            draw_latents(
                trained_run, 9, sampler="dpm++2m-karras-restart", steps=2, guidance=guidance, seed=seed
            )
        )
        return np.load(trained_run / FILE)

    first = drawn(1, 2.0)
    assert first.shape == (9, 4, 8, 8)
    np.testing.assert_array_equal(first, drawn(1, 2.0))
    assert not np.array_equal(first, drawn(2, 2.0))
    assert not np.array_equal(first, drawn(1, 1.0))


def test_without_a_unet_the_next_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(RiffusionError, match="no UNet") as refusal:
        list(draw_latents(tmp_path, 1, sampler="ddim", steps=1, guidance=1.0))
    assert "denoiser" in refusal.value.hint
