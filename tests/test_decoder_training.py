"""A decoder learns on beside a critic, and what encodes stays to the bit."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from riffusion_train.autoencoder import build_autoencoder, encode_pictures, onset_loss
from riffusion_train.clip_draws import cached_latents
from riffusion_train.decoder import DecoderRecipe, build_critic, train_decoder
from riffusion_train.drawn_latents import FILE as DRAWN
from riffusion_train.drawn_latents import REDRAWN_FILE
from riffusion_train.rendered_clips import ClipFacts, open_pictures

RECIPE = DecoderRecipe(steps=6, batch=4, alone=2)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two striped clips and an autoencoder that knows nothing."""
    torch.manual_seed(0)
    (tmp_path / "clips").mkdir()
    pictures = open_pictures(tmp_path / "clips", 2)
    pictures[:] = (128 + 100 * np.sin(np.arange(512) / np.array([[3], [9]])))[:, :, None]
    fact = asdict(ClipFacts("piano", ("piano",), 8, "minor", ("chords",), ("",)))
    (tmp_path / "clips" / "clips.jsonl").write_text((json.dumps(fact) + "\n") * 2)
    build_autoencoder((8, 8, 8, 8, 16), latent_channels=4).save_pretrained(tmp_path / "vae")
    return tmp_path


def test_only_the_decoder_learns(run: Path) -> None:
    before = AutoencoderKL.from_pretrained(run / "vae").eval()
    latents = cached_latents(run)
    progress = list(train_decoder(run, replace(RECIPE, steps=20, learning_rate=5e-3)))
    assert progress[-1].step == 20
    after = AutoencoderKL.from_pretrained(run / "vae").eval()
    pictures = np.array(open_pictures(run / "clips"))
    np.testing.assert_array_equal(encode_pictures(before, pictures), encode_pictures(after, pictures))
    with torch.no_grad():
        decoded = [each.decode(torch.from_numpy(latents).float()).sample for each in (before, after)]
    real = torch.from_numpy(pictures)[:, None] / 127.5 - 1
    errors = [float((each - real).square().mean()) for each in decoded]
    assert errors[1] < 0.9 * errors[0]


def test_a_stopped_training_goes_on_where_it_was(run: Path) -> None:
    list(train_decoder(run, RECIPE))
    state = torch.load(run / "decoder.pt", weights_only=True)
    assert state["step"] == 6
    list(train_decoder(run, replace(RECIPE, steps=7)))
    after = torch.load(run / "decoder.pt", weights_only=True)
    assert after["step"] == 7
    moved = [k for k, v in state["model"].items() if not torch.equal(v, after["model"][k])]
    assert moved
    assert any(not torch.equal(v, after["critic"][k]) for k, v in state["critic"].items())


def test_a_smeared_attack_and_texture_between_attacks_are_both_wrong_onsets() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.ones(1, 3, 64, 64)
    real[..., 20:40] = -1
    smeared, grainy, early = real.clone(), real.clone(), real.roll(-8, dims=-1)
    smeared[..., 16:20] = torch.linspace(0.8, -0.8, 4)
    grainy[..., 40:] = 1 - 0.5 * torch.rand(1, 1, 64, 24, generator=generator)
    assert float(onset_loss(real, real, 8)) == 0
    assert float(onset_loss(real - 0.1, real, 8)) == pytest.approx(0, abs=1e-6)
    for wrong in (smeared, grainy, early):
        assert float(onset_loss(wrong, real, 8)) > 0.01


def test_the_critic_looks_at_patches() -> None:
    assert build_critic()(torch.zeros(2, 1, 64, 32)).shape == (2, 1, 8, 4)


def test_drawn_latents_have_no_picture_to_become_and_are_learned_from_all_the_same(run: Path) -> None:
    list(train_decoder(run, RECIPE))
    with_real_ones_alone = AutoencoderKL.from_pretrained(run / "vae")
    (run / "decoder.pt").unlink()
    np.save(run / DRAWN, np.random.default_rng(0).normal(0, 2, (3, 4, 32, 32)).astype(np.float16))
    list(train_decoder(run, RECIPE))
    with_drawn_ones = AutoencoderKL.from_pretrained(run / "vae")
    assert all(bool(torch.isfinite(each).all()) for each in with_drawn_ones.parameters())
    pairs = zip(with_real_ones_alone.decoder.parameters(), with_drawn_ones.decoder.parameters(), strict=True)
    assert any(not torch.equal(one, other) for one, other in pairs)


def test_redrawn_latents_become_their_clips_pictures(run: Path) -> None:
    drawn = np.random.default_rng(1).normal(0, 2, (1, 4, 32, 32)).astype(np.float16)
    np.savez(run / REDRAWN_FILE, latents=drawn, folders=np.array(["clips"]), indices=np.array([1]))
    pictures = open_pictures(run / "clips", 2)
    pictures[1] = 255 - pictures[0]

    def error() -> float:
        model = AutoencoderKL.from_pretrained(run / "vae").eval()
        with torch.no_grad():
            decoded = model.decode(torch.from_numpy(drawn).float()).sample
        return float((decoded - (torch.from_numpy(np.array(pictures[1])) / 127.5 - 1)).square().mean())

    before = error()
    list(train_decoder(run, replace(RECIPE, steps=20, learning_rate=5e-3)))
    assert error() < 0.9 * before
