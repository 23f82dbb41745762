"""The recipe of riffusion-mini: music that loops, true captions, models that diffusers reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from riffusion_engine.errors import RiffusionError
from riffusion_train.autoencoder import (
    AutoencoderRecipe,
    build_autoencoder,
    encode_pictures,
    normalize_latents,
    train_autoencoder,
)
from riffusion_train.captions import Part, caption
from riffusion_train.catalogue import BEATS_PER_CLIP, INSTRUMENTS, by_label
from riffusion_train.checkpointing import load_state, save_state
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.listener import LABELS, Listener, pooled, probabilities
from riffusion_train.mini import assemble_checkpoint, model_card
from riffusion_train.phrases import compose, draw_setting
from riffusion_train.rendering import typewriter

SAMPLES = 225_792


def _pitched() -> list[str]:
    return [i.label for i in INSTRUMENTS if i.programs]


@pytest.mark.parametrize("label", [i.label for i in INSTRUMENTS if i.feel != "typewriter"])
def test_every_instrument_plays_within_the_clip_and_its_range(label: str) -> None:
    instrument = by_label(label)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        setting = draw_setting(rng, BEATS_PER_CLIP[seed % 4])
        notes = compose(rng, instrument, setting, instrument.patterns[seed % len(instrument.patterns)])
        assert notes
        assert all(-0.1 <= n.start < setting.beats for n in notes)
        assert all(1 <= n.velocity <= 127 and n.length > 0 for n in notes)
        if label in _pitched():
            # Jazz and funk put a left hand below the instrument's own range.
            low = min(instrument.low, 36 if instrument.feel in {"jazz", "funk"} else instrument.low)
            assert all(low - 1 <= n.pitch <= instrument.high + 12 for n in notes)


def test_a_seed_always_composes_the_same() -> None:
    def once() -> list[object]:
        rng = np.random.default_rng(5)
        return [
            compose(rng, i, draw_setting(rng, 8), i.patterns[0])
            for i in INSTRUMENTS
            if i.feel != "typewriter"
        ]

    assert once() == once()


def test_captions_name_every_player() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        pair = tuple(INSTRUMENTS[int(k)] for k in rng.choice(len(INSTRUMENTS), 2, replace=False))
        parts = tuple(Part(i, i.patterns[0]) for i in pair)
        text = caption(rng, parts, 8, "minor")
        assert all(any(name in text for name in part.instrument.names) for part in parts), text
        assert len(text.split()) <= 16


def test_the_typewriter_loops_without_a_seam() -> None:
    for seed in range(5):
        sound = typewriter(np.random.default_rng(seed), 8, SAMPLES)
        assert sound.shape == (SAMPLES,)
        assert 0.5 < np.abs(sound).max() <= 1
        inside = np.abs(np.diff(sound)).max()
        assert abs(float(sound[0] - sound[-1])) <= inside


def test_normalized_latents_have_unit_variance_and_decode_to_the_same_picture() -> None:
    torch.manual_seed(0)
    model = build_autoencoder((8, 8, 16), latent_channels=4).eval()
    pictures = np.random.default_rng(0).integers(0, 256, (6, 32, 32), dtype=np.uint8)
    with torch.no_grad():
        before = model.decode(torch.from_numpy(encode_pictures(model, pictures))).sample
    normalize_latents(model, pictures)
    latents = encode_pictures(model, pictures)
    np.testing.assert_allclose(latents.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std(axis=(0, 2, 3)), 1, atol=1e-2)
    with torch.no_grad():
        after = model.decode(torch.from_numpy(latents)).sample
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-3)


def test_quick_group_norms_compute_what_slow_ones_do() -> None:
    torch.manual_seed(0)
    model = build_autoencoder((8, 8, 16), latent_channels=4).eval()
    picture = torch.rand(2, 3, 32, 32)
    expected = model(picture).sample
    quicken_group_norms(model)
    torch.testing.assert_close(model(picture).sample, expected, atol=1e-5, rtol=1e-4)


def test_an_autoencoder_learns_resumes_and_is_left_as_a_diffusers_model(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    rows = np.linspace(0, 6, 64)[:, None] + np.arange(4)[:, None, None]
    pictures = np.repeat((128 + 100 * np.sin(rows)).astype(np.uint8), 64, axis=2)
    recipe = AutoencoderRecipe(steps=120, batch=2, strip_columns=32)
    reports = list(train_autoencoder(pictures, tmp_path, recipe))
    assert reports
    assert reports[-1].measure > reports[0].measure
    model = AutoencoderKL.from_pretrained(tmp_path / "vae")
    assert model.config.latent_channels == 16


def test_training_state_survives_and_is_whole(tmp_path: Path) -> None:
    model, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    save_state(tmp_path / "state.pt", model=model, step=7)
    assert load_state(tmp_path / "state.pt", model=other) == {"step": 7}
    torch.testing.assert_close(other.weight, model.weight)
    assert load_state(tmp_path / "absent.pt", model=other) == {}
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_the_listener_gives_probabilities_whenever_a_thing_is_played() -> None:
    torch.manual_seed(0)
    listener = Listener().eval()
    pictures = np.random.default_rng(0).integers(0, 256, (2, 512, 512), dtype=np.uint8)
    assert pooled(pictures).shape == (2, 64, 64)
    believed = probabilities(listener, pictures)
    assert believed.shape == (2, len(LABELS))
    np.testing.assert_allclose(believed.sum(axis=1), 1, atol=1e-5)


def test_assembling_an_unfinished_run_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(RiffusionError, match="vae") as refusal:
        assemble_checkpoint(tmp_path, tmp_path / "checkpoint")
    assert "riffusion_train" in refusal.value.hint


def test_the_card_says_what_the_last_judgement_found(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    fact = {
        "caption": "drums",
        "labels": ["drums"],
        "beats": 8,
        "mode": "minor",
        "patterns": ["riff"],
        "manners": [""],
    }
    (tmp_path / "clips" / "clips.jsonl").write_text(json.dumps(fact) + "\n")
    results = Path(__file__).parents[1] / "benchmarks" / "results" / "mini_evaluation.jsonl"
    row = json.loads(results.read_text().splitlines()[-1])
    assert "Judge it with" in model_card(tmp_path)
    card = model_card(tmp_path, figures=row)
    assert f"{row['top_1']:.1%} of {row['prompts']} prompts" in card
    assert f"{row['frechet']:.0f}" in card
    assert "1 rendered clips (1 solos, 0 duos)" in card
