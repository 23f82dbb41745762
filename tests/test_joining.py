"""Joints and loops cannot be told from the inside of a clip; butt-joined clips can."""

import numpy as np
import pytest

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.joining import ClipJoiner, RunningLoudness, join_clips
from riffusion_rt.phase import waveform_from_mel
from riffusion_rt.phase_stft import result_grid

PARAMS = SpectrogramParams()
HOP = PARAMS.hop_length
COLUMNS = 96


def mel_of(samples: np.ndarray, columns: int) -> np.ndarray:
    """Mel amplitudes of frames centred on the columns; (1, bands, columns)."""
    frequencies = np.arange(PARAMS.n_fft // 2 + 1) * PARAMS.sample_rate / PARAMS.n_fft
    mels = np.linspace(0, 2595 * np.log10(1 + PARAMS.f_max / 700), PARAMS.bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    bank = np.stack(
        [np.interp(frequencies, edges[b : b + 3], [0, 1, 0], left=0, right=0) for b in range(PARAMS.bands)]
    )
    padded = np.pad(samples, PARAMS.win_length // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, PARAMS.win_length)[::HOP][:columns]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(PARAMS.win_length + 1)[:-1], PARAMS.n_fft))
    return (bank @ magnitudes.T).astype(np.float32)[None]


def chords(columns: int) -> np.ndarray:
    """A held chord with a slow swell: nothing in it could hide a seam."""
    time = np.arange(columns * HOP) / PARAMS.sample_rate
    partials = [(f * h, 1 / h) for f in (220.3, 277.9, 331.1) for h in range(1, 7)]
    sound = sum(level * np.sin(2 * np.pi * f * time + f) for f, level in partials)
    return 3000 * sound * (1 + 0.3 * np.sin(2 * np.pi * time))


def curvature(samples: np.ndarray) -> np.ndarray:
    """How far each sample lies off the line of its neighbours: what a step or a kink makes large."""
    return np.abs(np.diff(samples, 2))


def flux(samples: np.ndarray) -> np.ndarray:
    """Spectral flux at 256-sample steps: change of 1,024-point magnitudes from a frame to the next."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256]
    magnitudes = np.abs(np.fft.rfft(frames * np.hanning(1024)))
    return np.linalg.norm(np.diff(magnitudes, axis=0), axis=1)


def joint_stands_out(samples: np.ndarray, joint: int) -> bool:
    """Whether the step or the flux at a joint exceeds all that the sound does elsewhere."""
    bends = curvature(samples)
    near = slice(joint - 4, joint + 4)
    step = bends[near].max() > np.delete(bends, np.r_[near]).max()
    changes = flux(samples)
    around = slice((joint - 1024) // 256 - 1, joint // 256 + 1)
    edge = 20
    inner = np.delete(changes, np.r_[around])[edge:-edge]
    return bool(step or changes[around].max() > inner.max())


def steps(samples: np.ndarray) -> np.ndarray:
    """What sounds above 12 kHz: steps alone, in a sound whose picture ends at 10 kHz."""
    spectrum = np.fft.rfft(samples)
    spectrum[: 12_000 * len(samples) // PARAMS.sample_rate] = 0
    return np.abs(np.fft.irfft(spectrum, len(samples)))


def plucked(columns: int) -> np.ndarray:
    """Plucked strings in a quick rhythm over noise: the inside of a clip is full of onsets."""
    time = np.arange(columns * HOP) / PARAMS.sample_rate
    sound = np.random.default_rng(2).standard_normal(len(time)) * 0.01
    for number in range(int(time[-1] / 0.15)):
        since = np.maximum(time - 0.15 * number - 0.04, 0)
        pitch = 110 * 2 ** ((0, 7, 12, 3, 10, 15)[number % 6] / 12)
        pluck = np.exp(-6 * since) * (1 - np.exp(-300 * since))
        sound += pluck * sum(np.sin(2 * np.pi * pitch * h * since) / h for h in range(1, 12))
    return 3000 * sound


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    mel = mel_of(chords(3 * COLUMNS), 3 * COLUMNS)
    return [mel[:, :, start : start + COLUMNS] for start in range(0, 3 * COLUMNS, COLUMNS)]


@pytest.fixture(scope="module")
def joined(pictures: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(join_clips(pictures, PARAMS, preset="fast")), axis=1)[0]


def test_a_joint_is_like_the_inside_of_a_clip(joined: np.ndarray) -> None:
    clip = COLUMNS * HOP
    assert not joint_stands_out(joined[: 2 * clip], clip)
    assert not joint_stands_out(joined[clip:], clip)


def test_butt_joined_clips_fail_the_same_test(pictures: list[np.ndarray]) -> None:
    alone = [waveform_from_mel(picture, PARAMS, preset="fast")[0] for picture in pictures]
    for pair in (alone[:2], alone[1:]):
        assert joint_stands_out(np.concatenate(pair), COLUMNS * HOP)


def test_the_end_of_a_loop_flows_into_its_beginning(pictures: list[np.ndarray]) -> None:
    loop = waveform_from_mel(pictures[1], PARAMS, preset="fast", loop=True)[0]
    assert not joint_stands_out(np.tile(loop, 2), len(loop))


def test_an_open_clip_played_twice_fails_the_same_test(pictures: list[np.ndarray]) -> None:
    clip = waveform_from_mel(pictures[1], PARAMS, preset="fast")[0]
    assert joint_stands_out(np.tile(clip, 2), len(clip))


def test_among_onsets_a_joint_has_no_step_and_a_butt_joint_has() -> None:
    mel = mel_of(plucked(2 * COLUMNS), 2 * COLUMNS)
    halves = (mel[:, :, :COLUMNS], mel[:, :, COLUMNS:])
    joined = np.concatenate(list(join_clips(halves, PARAMS, preset="fast")), axis=1)[0]
    butted = np.concatenate([waveform_from_mel(half, PARAMS, preset="fast")[0] for half in halves])

    def stands_out(sound: np.ndarray) -> bool:
        found, joint = steps(sound), COLUMNS * HOP
        edge = 10 * HOP
        inside = np.r_[found[edge : joint - HOP], found[joint + HOP : -edge]]
        return bool(found[joint - HOP : joint + HOP].max() > inside.max())

    assert not stands_out(joined)
    assert stands_out(butted)


def test_joined_pictures_last_as_long_as_their_columns(joined: np.ndarray) -> None:
    assert joined.shape == (3 * COLUMNS * HOP,)


@pytest.mark.parametrize("widths", [(1,), (3, 1, 2), (40, 1, 7, 30), (4, 4, 4, 4, 4, 4)])
def test_pictures_of_any_width_are_joined_in_full(widths: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    stereo = SpectrogramParams(stereo=True)
    mels = [rng.random((2, 512, width), np.float32) for width in widths]
    samples = np.concatenate(list(join_clips(mels, stereo, preset="fast")), axis=1)
    assert samples.shape == (2, sum(widths) * HOP)
    assert np.isfinite(samples).all()


def test_columns_keep_their_place_in_time() -> None:
    mel = np.full((1, 512, 60), 1e-3, np.float32)
    mel[:, 40:200, 45] = 1000
    samples = np.concatenate(
        list(join_clips([mel[:, :, :30], mel[:, :, 30:]], PARAMS, preset="fast")), axis=1
    )[0]
    centre = np.average(np.arange(len(samples)), weights=samples**2)
    assert centre == pytest.approx(45 * HOP, abs=2 * HOP)


def test_a_joiner_remembers_no_more_than_its_last_frames(pictures: list[np.ndarray]) -> None:
    joiner = ClipJoiner(PARAMS, preset="fast")
    sizes = []
    for picture in pictures:
        joiner.push(picture)
        (channel,) = joiner._channels
        sizes.append((channel.settled.shape, channel.waiting.mel.shape, channel.partial.shape))
    assert sizes[0] == sizes[1] == sizes[2]
    assert sizes[0][0][0] < result_grid(PARAMS).overlap


def test_nothing_in_gives_nothing_out() -> None:
    assert [piece.shape for piece in join_clips([], PARAMS)] == [(1, 0)]


def test_bad_pictures_are_refused() -> None:
    joiner = ClipJoiner(PARAMS, preset="fast")
    joiner.push(np.zeros((1, 512, 20), np.float32))
    with pytest.raises(RequestError):
        joiner.push(np.zeros((2, 512, 20), np.float32))
    with pytest.raises(NumericsError):
        joiner.push(np.full((1, 512, 20), np.nan, np.float32))


def test_running_loudness_keeps_a_quiet_clip_quieter_than_a_loud_one() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, 44_100)).astype(np.float32) * 0.05
    stream = RunningLoudness(44_100)
    loud, quiet = stream.apply(noise), stream.apply(noise * 0.25)
    assert 0.1 < np.std(quiet[:, 22_050:]) / np.std(loud) < 0.6


def test_running_loudness_aims_at_its_target() -> None:
    noise = np.random.default_rng(1).standard_normal((2, 44_100)).astype(np.float32) * 300
    level = 10 * np.log10(np.mean(np.square(RunningLoudness(44_100, target_dbfs=-20).apply(noise))))
    assert level == pytest.approx(-20, abs=0.1)


def test_running_loudness_never_steps_between_clips() -> None:
    tone = np.sin(np.arange(44_100) * 2 * np.pi * 0.01)[None].astype(np.float32)
    stream = RunningLoudness(44_100)
    sound = np.concatenate([stream.apply(level * tone) for level in (1, 1, 0.3)], axis=1)[0]
    gain = np.abs(np.diff(sound))[44_100 - 50 : 44_100 + 50].max()
    assert gain <= 1.05 * np.abs(np.diff(sound))[:44_000].max()


def test_running_loudness_survives_silence() -> None:
    stream = RunningLoudness(44_100)
    assert not stream.apply(np.zeros((1, 100))).any()
    assert np.isfinite(stream.apply(np.ones((1, 100)))).all()
    assert np.abs(stream.apply(1000 * np.ones((1, 100)))).max() <= 1
