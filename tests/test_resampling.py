"""Recordings of any rate and any channels become what a spectrogram wants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt.resampling import HIGHEST_RATE, LOWEST_RATE, resample, with_channels


def sine(frequency: float, rate: int, samples: int) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * frequency * np.arange(samples) / rate).astype(np.float32)[None]


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 48_000, 96_000, 44_099])
def test_a_sine_keeps_its_pitch_level_and_time(rate: int) -> None:
    samples = rate // 2
    resampled = resample(sine(1_000, rate, samples), rate)
    expected = sine(1_000, 44_100, resampled.shape[1])
    middle = slice(2_000, -2_000)
    assert resampled.shape == (1, -(-samples * 44_100 // rate))
    assert np.abs(resampled - expected)[:, middle].max() < 2e-3


def test_what_lies_above_the_new_range_is_removed_not_folded_down() -> None:
    resampled = resample(sine(30_000, 96_000, 48_000), 96_000)
    assert np.abs(resampled[:, 1_000:-1_000]).max() < 1e-4


def test_the_passband_stays_flat() -> None:
    resampled = resample(sine(19_000, 48_000, 24_000), 48_000)
    assert np.abs(resampled[:, 1_000:-1_000]).max() == pytest.approx(1.0, abs=0.01)


def test_samples_at_the_right_rate_are_returned_as_they_are() -> None:
    samples = sine(440, 44_100, 1_000)
    np.testing.assert_array_equal(resample(samples, 44_100), samples)


@settings(max_examples=6, deadline=None)
@given(rate=st.integers(LOWEST_RATE, 200_000), samples=st.integers(1, 500), channels=st.integers(1, 2))
def test_any_rate_gives_the_promised_count(rate: int, samples: int, channels: int) -> None:
    resampled = resample(np.ones((channels, samples), np.float32), rate)
    assert resampled.shape == (channels, -(-samples * 44_100 // rate))
    assert resampled.dtype == np.float32
    assert np.isfinite(resampled).all()


@pytest.mark.parametrize("rate", [0, -44_100, LOWEST_RATE - 1, HIGHEST_RATE + 1])
def test_absurd_rates_are_refused(rate: int) -> None:
    with pytest.raises(RequestError):
        resample(np.ones((1, 10), np.float32), rate)
    with pytest.raises(RequestError):
        resample(np.ones((1, 10), np.float32), 44_100, rate)


def test_mono_is_the_mean_and_one_channel_becomes_two_equal_ones() -> None:
    stereo = np.array([[1.0, 0.0], [0.0, 0.5]], np.float32)
    np.testing.assert_array_equal(with_channels(stereo, 1), [[0.5, 0.25]])
    np.testing.assert_array_equal(with_channels(stereo[:1], 2), [[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(with_channels(stereo, 2), stereo)


def test_surround_sound_keeps_left_and_right_apart() -> None:
    surround = np.array([[1.0], [0.0], [0.5], [0.5], [0.5], [0.5]], np.float32)
    np.testing.assert_allclose(with_channels(surround, 2), [[0.75], [0.25]])
    np.testing.assert_allclose(with_channels(surround, 1), [[0.5]])


@pytest.mark.parametrize("channels", [0, 3, -1])
def test_other_channel_counts_are_refused(channels: int) -> None:
    with pytest.raises(RequestError):
        with_channels(np.ones((2, 4), np.float32), channels)
