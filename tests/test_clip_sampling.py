"""Clips come from random places, reproducibly, and hold what the recording holds there."""

from __future__ import annotations

import numpy as np
import pytest

from riffusion_engine.errors import RequestError
from riffusion_rt.clip_sampling import sample_clips

RATE = 1_000
RECORDING = np.stack([np.arange(10_000), -np.arange(10_000)]).astype(np.float32)


def test_each_clip_holds_what_the_recording_holds_at_its_start() -> None:
    clips = list(sample_clips(RECORDING, RATE, count=5, duration_s=2.0, seed=1))
    assert [clip.index for clip in clips] == [0, 1, 2, 3, 4]
    for clip in clips:
        assert clip.samples.shape == (2, 2_000)
        np.testing.assert_array_equal(clip.samples, RECORDING[:, clip.start : clip.start + 2_000])


def test_the_same_seed_gives_the_same_places_and_another_gives_others() -> None:
    def starts(seed: int, count: int = 8) -> list[int]:
        return [clip.start for clip in sample_clips(RECORDING, RATE, count=count, duration_s=1.0, seed=seed)]

    assert starts(4) == starts(4)
    assert starts(4) != starts(5)
    assert starts(4, count=20)[:8] == starts(4)


def test_places_reach_both_ends_of_the_recording() -> None:
    short = RECORDING[:, :1_003]
    starts = {clip.start for clip in sample_clips(short, RATE, count=200, duration_s=1.0, seed=0)}
    assert starts == {0, 1, 2, 3}


def test_a_recording_as_long_as_a_clip_is_one_clip() -> None:
    (clip,) = sample_clips(RECORDING, RATE, count=1, duration_s=10.0)
    np.testing.assert_array_equal(clip.samples, RECORDING)


def test_mono_mixes_the_channels() -> None:
    (clip,) = sample_clips(RECORDING, RATE, count=1, duration_s=1.0, mono=True, seed=0)
    assert clip.samples.shape == (1, 1_000)
    assert not clip.samples.any()


@pytest.mark.parametrize(
    ("count", "duration_s", "seed"),
    [(0, 1.0, 0), (1, 0.0, 0), (1, -1.0, 0), (1, float("nan"), 0), (1, 10.01, 0), (1, 1.0, -1)],
)
def test_impossible_wishes_are_refused_before_the_first_clip(
    count: int, duration_s: float, seed: int
) -> None:
    with pytest.raises(RequestError):
        sample_clips(RECORDING, RATE, count=count, duration_s=duration_s, seed=seed)
