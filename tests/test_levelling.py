"""Loudness is measured as broadcasters do, and every clip comes out as loud as the one before it."""

from __future__ import annotations

import numpy as np
import pytest

from riffusion_rt.levelling import (
    CEILING,
    EVEN_LU,
    KNEE,
    MOST_EVENED_DB,
    TARGET_LUFS,
    ClipLeveller,
    bent,
    loudness_lufs,
)

RATE = 44_100


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal((1, round(seconds * RATE)))


def test_a_full_scale_sine_has_the_standards_loudness() -> None:
    # BS.1770-4: 997 Hz at 0 dBFS in one channel reads -3.01 LUFS.
    for rate in (44_100, 48_000):
        sine = np.sin(2 * np.pi * 997 * np.arange(rate * 3) / rate)[None]
        assert loudness_lufs(sine, rate) == pytest.approx(-3.01, abs=0.05)


def test_loudness_agrees_with_pyloudnorm() -> None:
    meter = pytest.importorskip("pyloudnorm").Meter(RATE, filter_class="DeMan")
    for sound in (
        noise(5),
        np.concatenate([noise(3), noise(3, 1e-3)], axis=1),
        np.repeat(noise(2), 2, axis=0),
    ):
        assert loudness_lufs(sound, RATE) == pytest.approx(meter.integrated_loudness(sound.T), abs=0.01)


def test_silence_before_music_does_not_count() -> None:
    music = noise(4)
    assert loudness_lufs(np.pad(music, ((0, 0), (4 * RATE, 0))), RATE) == pytest.approx(
        loudness_lufs(music, RATE), abs=0.2
    )
    assert loudness_lufs(np.zeros((1, RATE)), RATE) == -np.inf


def test_clips_of_any_level_become_equally_loud() -> None:
    leveller, levels = ClipLeveller(RATE), []
    for seed, level in enumerate((3e6, 1e6, 2e6, 4e6)):
        clip = noise(5, level, seed)
        levels.append(loudness_lufs(leveller.apply(clip, leveller.gain_db(clip), 0), RATE))
    assert levels == pytest.approx([TARGET_LUFS] * 4, abs=0.3)


def test_a_break_stays_quieter_than_the_music_around_it() -> None:
    leveller = ClipLeveller(RATE)
    music, rest = noise(5, 0.1), noise(5, 1e-4)
    leveller.gain_db(music)
    leveller.apply(music, leveller.gain_db(music), 0)
    quiet = leveller.apply(rest, leveller.gain_db(rest), 0)
    assert loudness_lufs(quiet, RATE) < TARGET_LUFS - 20
    assert leveller.gain_db(np.zeros((1, RATE))) == pytest.approx(leveller._usual_db)


def test_the_gain_has_changed_when_the_clip_begins_and_never_steps() -> None:
    leveller, flat = ClipLeveller(RATE), np.full((1, 4000), 0.01)
    leveller.apply(flat, 0.0, 0)
    sound = leveller.apply(flat, 6.0, 2000)[0]
    assert np.abs(np.diff(sound)).max() < 1e-4
    np.testing.assert_allclose(sound[2000:], 0.01 * 10 ** (6 / 20), rtol=1e-5)


def test_peaks_are_bent_into_full_scale_and_all_else_is_left_alone() -> None:
    sound = np.linspace(-5, 5, 10_001)[None]
    out = bent(sound)
    assert np.abs(out).max() <= CEILING
    inside = np.abs(sound) <= KNEE
    np.testing.assert_allclose(out[inside], sound[inside], rtol=1e-6)
    assert (np.diff(out[0]) >= 0).all()


def test_bars_are_brought_within_reach_of_their_clip_and_breaks_stay_breaks() -> None:
    near, far, rest = (noise(2.56, level, seed) for seed, level in enumerate((0.1, 0.05, 1e-3)))
    even = ClipLeveller(RATE).bar_gains_db([near, near])
    assert even[0] == even[1]
    levels = [
        loudness_lufs(bar * 10 ** (gain / 20), RATE)
        for bar, gain in zip((near, far), ClipLeveller(RATE).bar_gains_db([near, far]), strict=True)
    ]
    assert 0 < levels[0] - levels[1] < 2.5 * EVEN_LU
    loud, quiet = ClipLeveller(RATE).bar_gains_db([near, rest])
    assert quiet - loud == pytest.approx(MOST_EVENED_DB, abs=EVEN_LU)
    silent = ClipLeveller(RATE).bar_gains_db([near, 0 * near])
    assert all(np.isfinite(silent))
