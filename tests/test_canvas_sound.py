"""Sound takes on a recording's level, rate and length exactly."""

from __future__ import annotations

import numpy as np
import pytest

from riffusion_rt.canvas_sound import as_recorded, at_loudness_of
from riffusion_rt.loudness import rms_dbfs

NOISE = np.random.default_rng(0).standard_normal((1, 44_100)).astype(np.float32)


@pytest.mark.parametrize("level", [1e-4, 0.05, 0.4])
def test_the_level_is_the_recordings_and_stays_within_full_scale(level: float) -> None:
    recording = np.clip(level * NOISE[:, ::-1], -1, 1)
    matched = at_loudness_of(300 * NOISE, recording)
    assert rms_dbfs(matched) == pytest.approx(rms_dbfs(recording), abs=0.1)
    assert np.abs(matched).max() < 1


def test_silence_of_either_is_silence() -> None:
    assert not at_loudness_of(NOISE.copy(), np.zeros((1, 5), np.float32)).any()
    assert not at_loudness_of(np.zeros((1, 5), np.float32), NOISE).any()


@pytest.mark.parametrize(
    ("rate", "length", "channels"), [(8_000, 8_003, 2), (48_000, 47_990, 1), (44_100, 50_000, 3)]
)
def test_rate_length_and_channels_are_exact(rate: int, length: int, channels: int) -> None:
    fitted = as_recorded(NOISE, 44_100, np.zeros((channels, 1), np.float32), rate, length)
    assert fitted.shape == (channels, length)
    assert (fitted == fitted[:1]).all()
