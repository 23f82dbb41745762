"""An extension keeps the recording and goes on from its end, at its level and without a jump."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_rt import Clip, Riffusion
from riffusion_rt.audio_file import read_audio, write_audio
from riffusion_rt.extend import JOINT_S, ExtendRequest, continued

RATE = 44_100


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Iterator[Riffusion]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        yield riffusion


def tone(seconds: float, rate: int = RATE, phase: float = 0.0, channels: int = 1) -> NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.3 * np.sin(2 * np.pi * 220 * time + phase)[None], channels, axis=0).astype(np.float32)


def extended(riffusion: Riffusion, request: ExtendRequest) -> Clip:
    *_, clip = riffusion.extend(request)
    assert isinstance(clip, Clip)
    return clip


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 1), (48_000, 2), (8_000, 1)])
def test_the_recording_is_kept_and_so_many_seconds_follow(
    toy: Riffusion, tmp_path: Path, rate: int, channels: int
) -> None:
    write_audio(tmp_path / "a.wav", tone(1.7, rate, channels=channels), rate)
    recording, _ = read_audio(tmp_path / "a.wav")
    clip = extended(toy, ExtendRequest(tmp_path / "a.wav", "bells", duration_s=1.5, steps=2))
    assert clip.sample_rate == rate
    assert clip.samples.shape == (channels, recording.shape[1] + round(1.5 * rate))
    kept = recording.shape[1] - round(JOINT_S * rate)
    np.testing.assert_array_equal(clip.samples[:, :kept], recording[:, :kept])
    assert clip.samples[:, recording.shape[1] :].std() > 1e-4


def test_what_follows_stands_where_the_recording_stood(toy: Riffusion, tmp_path: Path) -> None:
    """The model draws in mono."""
    sides = np.concatenate([tone(1.7), tone(1.7) / 10])
    write_audio(tmp_path / "a.wav", sides, RATE)
    clip = extended(toy, ExtendRequest(tmp_path / "a.wav", "bells", duration_s=1.5, steps=2))
    left, right = clip.samples[:, sides.shape[1] :].std(axis=1)
    assert left > 3 * right


def test_a_continuation_of_other_phase_and_level_joins_without_a_jump() -> None:
    recording = tone(1.0)
    follows = 4 * tone(1.0 + 0.05, phase=1.0)
    whole = continued(recording, follows, shared=RATE // 2, added=RATE // 2, rate=RATE)
    assert whole.shape == (1, RATE + RATE // 2)
    joint = slice(RATE - round(JOINT_S * RATE) - 100, RATE + 100)
    steepest = np.abs(np.diff(recording)).max()
    assert np.abs(np.diff(whole[:, joint])).max() < 1.2 * steepest
    blocks = whole[0, : RATE + RATE // 2].reshape(-1, RATE // 50)
    levels = np.sqrt((blocks**2).mean(axis=1))
    assert levels.max() / levels.min() < 1.3


def test_unlike_waves_keep_the_level_through_the_joint() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 3 * RATE)).astype(np.float32) / 10
    whole = continued(noise[:, :RATE], noise[:, RATE:], shared=RATE // 2, added=RATE, rate=RATE)
    blocks = whole[0, RATE - 8820 : RATE + 8820].reshape(-1, 1764)
    levels = np.sqrt((blocks**2).mean(axis=1))
    assert levels.max() / levels.min() < 1.25


def test_what_is_known_stays_in_the_picture(toy: Riffusion, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(2.0), RATE)
    one, other = (
        np.asarray(
            extended(toy, ExtendRequest(tmp_path / "a.wav", prompt, duration_s=1.0, steps=3)).image, np.int16
        )
        for prompt in ("bells", "drums")
    )
    # The VAE looks around: what is new colours a few columns before it.
    assert np.abs(one - other)[:, :8].mean() < np.abs(one - other)[:, 40:].mean() / 2


def test_an_extension_is_made_again_from_what_it_says(toy: Riffusion, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(1.0), RATE)
    clip = extended(toy, ExtendRequest(tmp_path / "a.wav", duration_s=0.5, seed=4, steps=2))
    settings = clip.request.settings()
    assert settings.pop("verb") == "extend"
    np.testing.assert_array_equal(extended(toy, ExtendRequest(**settings)).samples, clip.samples)


def test_what_cannot_be_extended_is_refused(toy: Riffusion, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(0.05), RATE)
    with pytest.raises(RequestError, match="too short"):
        extended(toy, ExtendRequest(tmp_path / "a.wav", "bells"))
    for duration in (0.0, float("nan"), 1e9):
        with pytest.raises(RequestError, match="duration"):
            ExtendRequest(tmp_path / "a.wav", duration_s=duration)
