"""A remix keeps a recording's length, rate, channels and loudness, whatever the recording is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import AudioFileError, RequestError
from riffusion_rt import Clip, Riffusion, StepProgress
from riffusion_rt.audio_file import write_audio
from riffusion_rt.loudness import rms_dbfs
from riffusion_rt.remix import RemixRequest


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Iterator[Riffusion]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        yield riffusion


def pulses(
    seconds: float, rate: int = 44_100, channels: int = 1, hertz: float = 440.0
) -> NDArray[np.float32]:
    """A tone that is struck four times a second."""
    time = np.arange(round(seconds * rate)) / rate
    struck = 0.2 * np.sin(2 * np.pi * hertz * time) * np.exp(-20 * (time % 0.25))
    return np.repeat(struck[None], channels, axis=0).astype(np.float32)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    write_audio(tmp_path / "pulses.wav", pulses(1.3), 44_100)
    return tmp_path / "pulses.wav"


def remixed(riffusion: Riffusion, request: RemixRequest) -> Clip:
    *_, clip = riffusion.remix(request)
    assert isinstance(clip, Clip)
    return clip


@pytest.mark.parametrize(
    ("rate", "channels", "seconds"),
    [(8_000, 1, 1.0), (48_000, 2, 1.111), (44_100, 1, 0.3), (22_050, 2, 0.05), (96_000, 1, 0.7)],
)
def test_length_rate_and_channels_are_the_recordings(
    toy: Riffusion, tmp_path: Path, rate: int, channels: int, seconds: float
) -> None:
    samples = pulses(seconds, rate, channels)
    write_audio(tmp_path / "a.wav", samples, rate)
    clip = remixed(toy, RemixRequest(tmp_path / "a.wav", "bells", steps=2))
    assert clip.samples.shape == samples.shape
    assert clip.sample_rate == rate
    assert np.isfinite(clip.samples).all()
    assert rms_dbfs(clip.samples) == pytest.approx(rms_dbfs(samples), abs=0.5)
    audio, _ = clip.save(tmp_path / "b.wav")
    from riffusion_rt.audio_file import read_audio

    assert read_audio(audio)[0].shape == samples.shape


def balance_db(samples: NDArray[np.float32]) -> float:
    """How much louder the first channel is than the second."""
    left, right = (float(np.mean(np.square(channel, dtype=np.float64))) for channel in samples)
    return 10 * float(np.log10(left / right))


@pytest.mark.parametrize("crossing", [False, True])
def test_what_stands_left_and_right_stays_there(toy: Riffusion, tmp_path: Path, crossing: bool) -> None:
    """The model draws in mono. With a second recording places cross over, as all else does."""
    sound = pulses(4.0)
    left, right = np.concatenate([sound, sound / 10]), np.concatenate([sound / 10, sound])
    half = sound.shape[1] // 2
    moving = np.concatenate([left[:, :half], right[:, half:]], axis=1)
    write_audio(tmp_path / "a.wav", left if crossing else moving, 44_100)
    write_audio(tmp_path / "b.wav", right[:, :half], 44_100)
    other = tmp_path / "b.wav" if crossing else None
    clip = remixed(toy, RemixRequest(tmp_path / "a.wav", "bells", steps=2, with_audio=other))
    eighth = half // 4
    assert balance_db(clip.samples[:, :eighth]) > 10
    assert balance_db(clip.samples[:, -eighth:]) < -10


def test_dynamics_of_a_long_recording_are_kept(toy: Riffusion, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.concatenate([pulses(4) / 10, pulses(4)], axis=1), 44_100)
    clip = remixed(toy, RemixRequest(tmp_path / "a.wav", "bells", steps=2, strength=0.5))
    quiet, loud = (
        rms_dbfs(clip.samples[:, part]) for part in (slice(0, 3 * 44_100), slice(5 * 44_100, None))
    )
    assert loud - quiet == pytest.approx(20, abs=3)


def test_silence_stays_silence(toy: Riffusion, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros((1, 8_000), np.float32), 8_000)
    assert not remixed(toy, RemixRequest(tmp_path / "a.wav", "bells", steps=2)).samples.any()


def test_an_unknown_method_is_refused(recording: Path) -> None:
    with pytest.raises(RequestError, match="no method 'paint'"):
        RemixRequest(recording, "bells", method="paint")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "drums"},
        {"to_prompt": "typewriter taps"},
        {"seed": 5},
        {"strength": 0.25},
        {"negative_prompt": "piano"},
        {"guidance": 9.0},
        {"method": "redraw"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_is_heard(toy: Riffusion, recording: Path, change: dict[str, Any]) -> None:
    base = RemixRequest(recording, "bells", steps=4)
    assert _latents_apart(toy, base, dataclasses.replace(base, **change)) > 1e-4


def test_a_second_recording_is_crossed_into_from_the_first(
    toy: Riffusion, recording: Path, tmp_path: Path
) -> None:
    write_audio(tmp_path / "low.wav", pulses(0.4, hertz=110), 44_100)
    gentle = {"steps": 10, "strength": 0.1}
    first, second, crossed = (
        _latents(toy, request)
        for request in (
            RemixRequest(recording, "bells", **gentle),
            RemixRequest(tmp_path / "low.wav", "bells", **gentle),
            RemixRequest(recording, "bells", with_audio=tmp_path / "low.wav", **gentle),
        )
    )
    begin, end = slice(0, 2), slice(-6, -4)
    assert np.abs(crossed - first)[..., begin].mean() < np.abs(crossed - first)[..., end].mean()
    assert second.shape[-1] == 8


def test_a_remix_is_made_again_from_what_it_says(toy: Riffusion, recording: Path) -> None:
    clip = remixed(toy, RemixRequest(recording, "bells", to_prompt="drums", seed=4, steps=3))
    settings = clip.request.settings()
    assert settings.pop("verb") == "remix"
    np.testing.assert_array_equal(remixed(toy, RemixRequest(**settings)).samples, clip.samples)


def test_what_cannot_be_remixed_is_refused(toy: Riffusion, tmp_path: Path, recording: Path) -> None:
    with pytest.raises(RequestError, match="prompt"):
        RemixRequest(recording)
    with pytest.raises(RequestError, match="strength"):
        RemixRequest(recording, "bells", strength=2.0)
    with pytest.raises(AudioFileError, match="absent"):
        remixed(toy, RemixRequest(tmp_path / "absent.wav", "bells"))


def _latents(riffusion: Riffusion, request: RemixRequest) -> NDArray[np.float32]:
    steps = [event for event in riffusion.remix(request) if isinstance(event, StepProgress)]
    return steps[-1].latents


def _latents_apart(riffusion: Riffusion, *requests: RemixRequest) -> float:
    a, b = (_latents(riffusion, request) for request in requests)
    return float(np.abs(a - b).max())
