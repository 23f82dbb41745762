"""A finished clip is as loud as Riffusion's, and silence stays silence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_rt.loudness import finish_clip, gain_to_rms, normalize_peak, rms_dbfs

HEADROOM_PEAK = 10 ** (-0.1 / 20)


def tone(level: float, samples: int = 4_410) -> NDArray[np.float32]:
    return (level * np.sin(2 * np.pi * 100 * np.arange(samples) / 44_100)).astype(np.float32)[None]


def clicks() -> NDArray[np.float32]:
    samples = tone(0.01)
    samples[0, ::441] = 0.5
    return samples


def test_level_of_a_full_scale_sine_is_three_decibels_below_a_square() -> None:
    assert rms_dbfs(tone(1.0)) == pytest.approx(-3.0103, abs=1e-3)
    assert rms_dbfs(np.ones((2, 10), np.float32)) == pytest.approx(0.0)
    assert rms_dbfs(np.zeros((1, 10), np.float32)) == -math.inf


def test_gain_reaches_the_level_over_all_channels() -> None:
    stereo = np.concatenate([tone(0.9), tone(0.001)])
    loud = gain_to_rms(stereo)
    assert rms_dbfs(loud) == pytest.approx(-12.0, abs=1e-4)
    np.testing.assert_allclose(loud[0] * stereo[1], loud[1] * stereo[0], atol=1e-9)


def test_peak_is_a_tenth_of_a_decibel_below_full_scale() -> None:
    assert np.abs(normalize_peak(tone(0.003))).max() == pytest.approx(HEADROOM_PEAK, rel=1e-6)
    assert np.abs(normalize_peak(tone(7.0), headroom_db=6.0)).max() == pytest.approx(0.501, abs=1e-3)


def test_a_finished_clip_does_not_depend_on_the_level_it_came_at() -> None:
    for samples in (tone(1.0), clicks()):
        np.testing.assert_allclose(finish_clip(samples), finish_clip(samples * 1e-3), atol=1e-5)
        assert np.abs(finish_clip(samples)).max() == pytest.approx(HEADROOM_PEAK, rel=1e-6)


def test_sharp_attacks_are_cut_at_full_scale_unless_told_otherwise() -> None:
    cut, kept = finish_clip(clicks()), finish_clip(clicks(), clip_peaks=False)
    assert rms_dbfs(cut) > rms_dbfs(kept) + 3
    np.testing.assert_allclose(kept, normalize_peak(clicks()), atol=1e-6)


def test_silence_stays_silence() -> None:
    silence = np.zeros((2, 100), np.float32)
    for stage in (gain_to_rms, normalize_peak, finish_clip):
        result = stage(silence)
        assert result.shape == silence.shape
        assert result.dtype == np.float32
        assert not result.any()


def test_samples_given_are_left_as_they_were() -> None:
    samples = tone(0.4)
    before = samples.copy()
    finish_clip(samples)
    np.testing.assert_array_equal(samples, before)
