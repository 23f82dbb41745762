"""Recordings and pictures become what a walk starts from, at any length and level."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from riffusion_engine.manifest import LatentSpec
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt import seed_picture
from riffusion_rt.seed_picture import draw_recording, pixels_of_picture
from riffusion_rt.spectrogram import mel_spectrogram
from riffusion_rt.spectrogram_image import image_from_mel

PARAMS = SpectrogramParams()
SPEC = LatentSpec(channels=4, height=8, width=8, scale=1.0, shift=0.0, vae_factor=8)


def tone(seconds: float, level: float = 0.3) -> NDArray[np.float32]:
    time = np.arange(round(seconds * 44_100)) / 44_100
    return (level * np.sin(2 * np.pi * 440 * time) * (time % 0.25 < 0.1))[None].astype(np.float32)


def levels_apart(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean difference. Where nothing sounds, the rounding of a transform may change single levels by a few."""
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_a_short_recording_is_drawn_as_encode_draws_it() -> None:
    samples = tone(2.0)
    drawn = draw_recording(samples, PARAMS, 200)
    expected = np.asarray(image_from_mel(mel_spectrogram(samples, PARAMS), PARAMS))[:, :, 0]
    # Its last columns look at what repeats there.
    assert levels_apart(drawn.pixels[:, :190], expected[:, :190]) < 0.1


def test_pieces_of_a_long_recording_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = tone(3.0)
    whole = draw_recording(samples, PARAMS, 300)
    monkeypatch.setattr(seed_picture, "COLUMNS_AT_ONCE", 64)
    assert levels_apart(draw_recording(samples, PARAMS, 300).pixels, whole.pixels) < 0.1


def test_a_quiet_passage_is_a_picture_too_and_its_level_is_kept_aside() -> None:
    quiet_then_loud = np.concatenate([tone(8, 0.02), tone(8, 0.4)], axis=1)
    drawn = draw_recording(quiet_then_loud, PARAMS, 1600)
    darkest = drawn.pixels.min(axis=0)
    assert abs(int(darkest[:400].min()) - int(darkest[1200:].min())) < 30
    assert drawn.loudness[1400] / drawn.loudness[10] == pytest.approx(20, rel=0.1)


def test_a_recording_shorter_than_the_canvas_is_repeated() -> None:
    drawn = draw_recording(tone(0.5), PARAMS, 150).pixels
    assert levels_apart(drawn[:, 60:90], drawn[:, 110:140]) < 0.1
    assert levels_apart(drawn[:, 60:90], drawn[:, 70:100]) > 1


def test_silence_is_white_and_has_no_level() -> None:
    drawn = draw_recording(np.zeros((1, 4410), np.float32), PARAMS, 64)
    assert drawn.pixels.min() == 255
    assert np.isfinite(drawn.loudness).all()


def test_a_picture_is_resized_to_one_window_and_repeated_or_cut_on_wider_canvases() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 3), dtype=np.uint8))
    assert pixels_of_picture(picture, SPEC, 8).shape == (64, 64, 3)
    wide = pixels_of_picture(picture, SPEC, 20)
    assert wide.shape == (64, 160, 3)
    np.testing.assert_array_equal(wide[:, :40], wide[:, 40:80])
