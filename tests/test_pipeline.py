"""Prompt in, clip out: exact lengths, repeatable, and honest about what does not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from riffusion_engine.errors import BundleError, DeviceError, ImageFileError, ModelNotFoundError, RequestError
from riffusion_rt import Clip, ClipRequest, Riffusion, StepProgress


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Iterator[Riffusion]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        yield riffusion


@pytest.fixture
def picture(toy: Riffusion) -> Image.Image:
    spec = toy.manifest.latent
    size = (spec.height * spec.vae_factor, spec.width * spec.vae_factor)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))


def test_a_clip_is_columns_times_hop_samples_within_full_scale(toy: Riffusion) -> None:
    clip = toy.generate("funky piano")
    assert clip.samples.shape == (1, clip.image.width * clip.params.hop_length)
    assert clip.samples.dtype == np.float32
    assert np.isfinite(clip.samples).all()
    assert 0.1 < np.abs(clip.samples).max() <= 1
    assert set(clip.timings) >= {"text", "denoise", "decode", "phase"}


def test_the_same_request_gives_the_same_clip_and_another_seed_another(toy: Riffusion) -> None:
    first, again, other = (toy.generate("church bells", seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.samples, again.samples)
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "jazz piano"},
        {"prompt": "(church:1.8) bells"},
        {"negative_prompt": "drums"},
        {"guidance": 6.0},
        {"steps": 5},
        {"sampler": "euler-a"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_is_heard(toy: Riffusion, change: dict[str, object]) -> None:
    base: dict[str, object] = {"prompt": "church bells", "seed": 3}
    plain, changed = (_latents(toy, ClipRequest(**settings)) for settings in (base, {**base, **change}))  # type: ignore[arg-type]
    assert np.abs(plain - changed).max() > 1e-4


def _latents(riffusion: Riffusion, request: ClipRequest) -> np.ndarray:
    *_, last, _ = riffusion.iterate(request)
    assert isinstance(last, StepProgress)
    return last.latents


def test_progress_comes_after_every_step_and_the_clip_last(toy: Riffusion) -> None:
    events = list(toy.iterate(ClipRequest("bells", steps=3)))
    assert [(e.step, e.steps) for e in events if isinstance(e, StepProgress)] == [(1, 3), (2, 3), (3, 3)]
    clip = events[-1]
    assert isinstance(clip, Clip)
    assert clip.request == ClipRequest("bells", steps=3).resolved(toy.manifest.defaults)


def test_a_walk_can_be_abandoned_and_the_next_one_is_unharmed(toy: Riffusion) -> None:
    expected = toy.generate("bells", seed=9)
    walk = toy.iterate(ClipRequest("piano", seed=1))
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(toy.generate("bells", seed=9).samples, expected.samples)


def test_a_prompt_beyond_the_text_encoders_length_plays_to_its_last_word(toy: Riffusion) -> None:
    long = "piano " * 300
    plain, changed = (_latents(toy, ClipRequest(text)) for text in (long + "bells", long + "drums"))
    assert np.abs(plain - changed).max() > 1e-6


def test_strength_decides_how_much_of_the_seed_image_remains(toy: Riffusion, picture: Image.Image) -> None:
    near, far = (
        _latents(toy, ClipRequest("bells", seed=1, steps=10, seed_image=picture, strength=s))
        for s in (0.1, 1.0)
    )
    original = _latents(toy, ClipRequest("bells", seed=2, steps=10, seed_image=picture, strength=0.1))
    assert np.linalg.norm(near - original) < np.linalg.norm(far - original)


def test_a_black_mask_keeps_what_a_white_one_repaints(toy: Riffusion, picture: Image.Image) -> None:
    half = np.zeros((picture.height, picture.width), np.uint8)
    half[:, picture.width // 2 :] = 255
    walks = {
        name: _latents(
            toy,
            ClipRequest(
                prompt, seed=4, steps=8, seed_image=picture, strength=1.0, mask=Image.fromarray(half)
            ),
        )
        for name, prompt in (("a", "bells"), ("b", "typewriter taps"))
    }
    width = walks["a"].shape[-1] // 2
    np.testing.assert_allclose(walks["a"][..., :width], walks["b"][..., :width], atol=1e-5)
    assert np.abs(walks["a"][..., width:] - walks["b"][..., width:]).max() > 1e-4


def test_pictures_come_from_files_too(toy: Riffusion, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "seed.png")
    from_file = toy.generate("bells", seed_image=tmp_path / "seed.png", strength=0.5)
    from_memory = toy.generate("bells", seed_image=picture, strength=0.5)
    np.testing.assert_array_equal(from_file.samples, from_memory.samples)


def test_unreadable_pictures_are_refused_before_anything_runs(toy: Riffusion, tmp_path: Path) -> None:
    (tmp_path / "seed.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    for path in (tmp_path / "seed.png", tmp_path / "absent.png"):
        with pytest.raises(ImageFileError, match=path.name):
            toy.generate("bells", seed_image=path)


def test_strength_zero_has_nothing_to_draw(toy: Riffusion, picture: Image.Image) -> None:
    with pytest.raises(RequestError):
        toy.generate("bells", seed_image=picture, strength=0.0)


def test_unknown_models_and_devices_are_named(toy_bundle: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="rifusion-mini") as refusal:
        Riffusion("rifusion-mini")
    assert "riffusion-mini" in str(refusal.value)
    with pytest.raises(DeviceError):
        Riffusion(toy_bundle, device="abacus")


def test_an_altered_bundle_is_not_played(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    weights = bundle / "unet" / "diffusion_pytorch_model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(BundleError, match="unet"):
        Riffusion(bundle)


def test_a_bundle_without_a_graph_says_which(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    manifest = json.loads((bundle / "riffusion.json").read_text())
    del manifest["graphs"]["unet"]
    (bundle / "riffusion.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="unet"):
        Riffusion(bundle).generate("bells")


def test_the_request_in_a_clip_makes_the_clip_again(toy: Riffusion) -> None:
    clip = toy.generate("bells", seed=12, steps=3, guidance=4.0, sampler="unipc")
    *_, again = toy.iterate(dataclasses.replace(clip.request))
    assert isinstance(again, Clip)
    np.testing.assert_array_equal(again.samples, clip.samples)
