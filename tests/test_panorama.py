"""What a mono model draws of a recording stands where the recording has it, between its channels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_rt.panorama import FRAMES_AT_ONCE, placed_as

RATE = 44_100
Sound = NDArray[np.float32]


def _tone(hertz: float, seconds: float, rate: int = RATE) -> Sound:
    return (0.2 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def _db(one: Sound, other: Sound) -> float:
    powers = [float(np.mean(np.square(each, dtype=np.float64))) + 1e-20 for each in (one, other)]
    return 10 * float(np.log10(powers[0] / powers[1]))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_left_stays_left_and_right_stays_right(rate: int) -> None:
    low, high = _tone(200, 2, rate), _tone(2_000, 2, rate)
    left, right = placed_as((low + high)[None], np.stack([low, high]), rate)
    middle = slice(rate // 2, -rate // 2)
    spectra = [np.abs(np.fft.rfft(each[middle])) for each in (left, right)]
    at = [round(hertz * len(left[middle]) / rate) for hertz in (200, 2_000)]
    assert 20 * np.log10(spectra[0][at[0]] / spectra[1][at[0]]) > 20
    assert 20 * np.log10(spectra[1][at[1]] / spectra[0][at[1]]) > 20


def test_what_moves_is_followed() -> None:
    tone = _tone(440, 2)
    recording = np.stack(
        [np.where(np.arange(len(tone)) < RATE, tone, 0), np.where(np.arange(len(tone)) < RATE, 0, tone)]
    )
    left, right = placed_as(tone[None], recording.astype(np.float32), RATE)
    early, late = slice(0, RATE * 3 // 4), slice(RATE * 5 // 4, None)
    assert _db(left[early], right[early]) > 20
    assert _db(right[late], left[late]) > 20


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_what_is_in_the_middle_stays_as_it_is(channels: int) -> None:
    # Longer than one block, so that blocks must meet.
    sound = (
        np.random.default_rng(0).standard_normal((1, (FRAMES_AT_ONCE + 9) * 2048 + 7)).astype(np.float32) / 8
    )
    placed = placed_as(sound, np.repeat(sound, channels, axis=0), RATE)
    assert placed.shape == (channels, sound.shape[1])
    np.testing.assert_allclose(placed, np.repeat(sound, channels, axis=0), atol=1e-5)


def test_power_is_kept() -> None:
    noise = np.random.default_rng(1).standard_normal((2, 2 * RATE)).astype(np.float32) / 8
    recording = noise * np.array([[1.0], [0.25]], np.float32)
    sound = noise.mean(axis=0, keepdims=True)
    placed = placed_as(sound, recording, RATE)
    assert abs(_db(placed, sound)) < 0.1
    assert _db(placed[0], placed[1]) == pytest.approx(12.04, abs=0.5)


def test_after_the_recording_places_stay_what_they_were() -> None:
    tone = _tone(440, 3)
    placed = placed_as(tone[None], np.stack([tone[:RATE], 0.1 * tone[:RATE]]), RATE)
    assert placed.shape == (2, 3 * RATE)
    assert _db(placed[0, 2 * RATE :], placed[1, 2 * RATE :]) == pytest.approx(20, abs=1)


def test_silence_and_very_short_sounds_have_the_middle() -> None:
    tone = _tone(440, 0.5)
    np.testing.assert_allclose(
        placed_as(tone[None], np.zeros((2, len(tone)), np.float32), RATE), [tone] * 2, atol=1e-5
    )
    assert placed_as(tone[None, :1], np.stack([tone[:1]] * 2), RATE).shape == (2, 1)
    assert placed_as(tone[None, :0], np.zeros((2, 0), np.float32), RATE).shape == (2, 0)
