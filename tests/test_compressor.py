"""The compressor: gentle, and exact to the sample."""

import numpy as np
import pytest

from riffusion_engine.errors import RequestError
from riffusion_rt.compressor import compress

RATE = 44_100


def tone(level: float, seconds: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 441 * time))[None].astype(np.float32)


def rms_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def test_a_quiet_sound_passes_unchanged() -> None:
    quiet = tone(0.01)
    np.testing.assert_allclose(compress(quiet, RATE), quiet, atol=1e-7)


def test_above_the_threshold_two_decibels_in_give_one_out() -> None:
    loud, louder = compress(tone(0.4), RATE), compress(tone(0.8), RATE)
    assert rms_db(louder) - rms_db(loud) == pytest.approx(10 * np.log10(4) / 2, abs=0.05)


def test_nothing_is_made_louder() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (2, RATE)).astype(np.float32)
    assert np.all(np.abs(compress(noise, RATE)) <= np.abs(noise) + 1e-7)


def test_a_click_stays_at_its_sample() -> None:
    click = np.zeros((1, 4001), np.float32)
    click[0, 2000] = 1
    assert np.flatnonzero(compress(click, RATE)[0]).tolist() == [2000]


def test_both_channels_share_one_gain() -> None:
    left = tone(0.9)
    both = compress(np.concatenate([left, left / 10]), RATE)
    np.testing.assert_allclose(both[1], both[0] / 10, atol=1e-6)


def test_a_ratio_of_one_changes_nothing() -> None:
    loud = tone(0.9)
    np.testing.assert_array_equal(compress(loud, RATE, ratio=1), loud)


@pytest.mark.parametrize("setting", [{"ratio": 0.5}, {"knee_db": -1}, {"window_s": -0.1}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        compress(tone(0.1), RATE, **setting)


def test_empty_and_silent_sounds_stay_so() -> None:
    assert compress(np.zeros((1, 0), np.float32), RATE).shape == (1, 0)
    assert not compress(np.zeros((2, 100), np.float32), RATE).any()
