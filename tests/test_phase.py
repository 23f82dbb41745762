"""Phases: deterministic, near the magnitudes, of exact length, for any picture."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.inverse_mel import mel_edges
from riffusion_rt.phase import waveform_from_mel
from riffusion_rt.phase_start import scattered_signs, starting_cycles
from riffusion_rt.phase_stft import Ends, FrameGrid, loop_grid, result_grid

PARAMS = SpectrogramParams()
HOP = PARAMS.hop_length
BANDS = PARAMS.bands


def magnitudes_of(samples: np.ndarray, columns: int, n_fft: int = PARAMS.n_fft) -> np.ndarray:
    """Short-time magnitudes as the codec takes them: centred frames, mirrored ends; (columns, bins)."""
    padded = np.pad(samples, PARAMS.win_length // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, PARAMS.win_length)[::HOP][:columns]
    return np.abs(np.fft.rfft(frames * np.hanning(PARAMS.win_length + 1)[:-1], n_fft))


def mel_of(samples: np.ndarray, columns: int) -> np.ndarray:
    frequencies = np.arange(PARAMS.n_fft // 2 + 1) * PARAMS.sample_rate / PARAMS.n_fft
    edges = mel_edges(PARAMS)
    bank = np.stack(
        [np.interp(frequencies, edges[b : b + 3], [0, 1, 0], left=0, right=0) for b in range(BANDS)]
    )
    return (bank @ magnitudes_of(samples, columns).T).astype(np.float32)[None]


def convergence_db(samples: np.ndarray, wanted: np.ndarray) -> float:
    """Spectral convergence: how far the magnitudes are from the wanted ones, in decibels."""
    error = np.linalg.norm(magnitudes_of(samples, len(wanted)) - wanted)
    return float(20 * np.log10(error / np.linalg.norm(wanted)))


def plucked(columns: int) -> np.ndarray:
    """Plucked strings, one note every 400 ms."""
    time = np.arange(columns * HOP) / PARAMS.sample_rate
    sound = np.zeros_like(time)
    for number, frequency in enumerate((220, 330, 277, 440, 165)):
        since = time - 0.05 - 0.4 * number
        envelope = np.where(since > 0, np.exp(-4 * since) * (1 - np.exp(-200 * np.maximum(since, 0))), 0)
        sound += envelope * sum(np.sin(2 * np.pi * frequency * h * since) / h for h in range(1, 10))
    return (sound * 8000).astype(np.float32)


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    return plucked(200)


@pytest.fixture(scope="module")
def mel(recording: np.ndarray) -> np.ndarray:
    return mel_of(recording, 200)


def test_a_clip_has_exactly_a_hop_for_every_column(mel: np.ndarray) -> None:
    assert waveform_from_mel(mel, PARAMS, preset="fast").shape == (1, 200 * HOP)
    assert waveform_from_mel(mel, PARAMS, preset="fast", loop=True).shape == (1, 200 * HOP)


def test_the_same_picture_gives_the_same_samples(mel: np.ndarray) -> None:
    np.testing.assert_array_equal(waveform_from_mel(mel, PARAMS), waveform_from_mel(mel, PARAMS))


def test_the_sound_has_the_magnitudes_of_the_recording_and_its_level(
    mel: np.ndarray, recording: np.ndarray
) -> None:
    wanted = magnitudes_of(recording, 200)
    assert convergence_db(waveform_from_mel(mel, PARAMS, preset="fast")[0], wanted) < -18


def test_every_preset_is_nearer_to_a_hard_picture_than_the_one_before() -> None:
    noise = np.random.default_rng(4).standard_normal(60 * HOP) * 3000
    mel = mel_of(noise.astype(np.float32), 60)

    def distance(preset: str) -> float:
        again = mel_of(waveform_from_mel(mel, PARAMS, preset=preset)[0], 60)
        return float(np.linalg.norm(again - mel))

    distances = [distance(preset) for preset in ("fast", "balanced", "best")]
    assert distances == sorted(distances, reverse=True)


def test_the_start_alone_is_nearer_than_many_iterations_from_random_phases(mel: np.ndarray) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from riffusion_rt.phase import accelerated, loop_constants, loop_targets, resting, start
    from riffusion_rt.phase_stft import projected

    constants = loop_constants(PARAMS, oversampling=1)
    grid = constants.grid
    magnitudes = loop_targets(mel, PARAMS, constants)[0].magnitudes
    cover = grid.coverage(200, "mirror")
    noise = np.random.default_rng(0).standard_normal(200 * grid.hop).astype(np.float32)

    def nearest(signal: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(1) as executor:
            line = projected(grid.unfolded(signal, 200, "mirror"), magnitudes, grid, grid, executor)
        return grid.folded(line, 200, "mirror") / cover

    def distance(signal: np.ndarray) -> float:
        spectra = grid.spectra(grid.unfolded(signal, 200, "mirror"), 0, 200)
        return float(np.linalg.norm(np.abs(spectra) - magnitudes))

    assert distance(start(magnitudes, grid, "mirror")) < distance(accelerated(nearest, resting(noise), 16)[0])


def test_a_steady_partial_starts_with_steadily_advancing_phase() -> None:
    grid = loop_grid(PARAMS)
    frequency = 1003.7
    offset = (grid.frequencies - frequency) / (grid.rate / grid.window_length)
    lobe = np.exp(-(offset**2)).astype(np.float32)
    blocks = starting_cycles(np.tile(lobe, (40, 1)), grid, scattered_signs(len(lobe)))
    cycles = np.concatenate(list(blocks))[:, 100]
    advance = np.diff(cycles) % 1
    np.testing.assert_allclose(advance, frequency / 100 % 1, atol=0.03)


@pytest.mark.parametrize(
    ("ends", "columns"),
    [("mirror", 12), ("mirror", 33), ("circle", 1), ("circle", 9), ("circle", 33), ("open", 1), ("open", 33)],
)
def test_laying_out_is_the_transpose_of_looking(ends: Ends, columns: int) -> None:
    """<unfold x, y> = <x, fold y>, which makes every step of the loop a least-squares one."""
    grid = FrameGrid(rate=800, hop=8, overlap=10, window_length=80, n_fft=80)
    rng = np.random.default_rng(columns)
    length = columns * 8 if ends != "open" else (columns + 9) * 8
    signal = rng.standard_normal(length)
    line = rng.standard_normal((columns + 9, 8))
    seen = float(np.vdot(grid.unfolded(signal, columns, ends), line))
    assert seen == pytest.approx(float(np.vdot(signal, grid.folded(line, columns, ends))))


def test_the_loop_runs_at_the_lowest_rate_that_holds_the_picture() -> None:
    grid = loop_grid(PARAMS)
    assert (grid.rate, grid.hop, grid.n_fft) == (20_000, 200, 2000)
    wide = loop_grid(SpectrogramParams(f_min=10, f_max=20_000, stereo=True))
    assert wide.rate >= 40_000
    odd = loop_grid(SpectrogramParams(step_ms=7, window_ms=30, padded_ms=50))
    assert odd.rate >= 20_000
    assert odd.overlap % 2 == 0


@pytest.mark.parametrize(
    "params",
    [
        SpectrogramParams(stereo=True, f_min=10, f_max=20_000),
        SpectrogramParams(step_ms=7, window_ms=30, padded_ms=50, bands=64),
        SpectrogramParams(sample_rate=22_050, f_max=8000, bands=80),
    ],
)
def test_other_parameters_work_too(params: SpectrogramParams) -> None:
    mel = np.random.default_rng(0).random((params.channels, params.bands, 20), np.float32)
    samples = waveform_from_mel(mel, params, preset="fast")
    assert samples.shape == (params.channels, 20 * params.hop_length)
    assert np.isfinite(samples).all()
    assert np.abs(samples).max() > 0


def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    line = np.zeros((1, BANDS, 64), np.float32)
    line[:, 200] = 3e7
    column = np.zeros((1, BANDS, 64), np.float32)
    column[:, :, 30] = 3e7
    return {
        "silence": np.zeros((1, BANDS, 64), np.float32),
        "all loud": np.full((1, BANDS, 64), 3e7, np.float32),
        "a single line": line,
        "a single column": column,
        "noise": (rng.random((1, BANDS, 64)) ** 4 * 3e7).astype(np.float32),
        "very quiet": np.full((1, BANDS, 64), 1e-20, np.float32),
        "very loud": np.full((1, BANDS, 64), 1e30, np.float32),
    }


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("name", list(pictures()))
def test_every_picture_has_a_sound(name: str, loop: bool) -> None:
    with np.errstate(all="raise", under="ignore"):
        samples = waveform_from_mel(pictures()[name], PARAMS, preset="fast", loop=loop)
    assert samples.shape == (1, 64 * HOP)
    assert np.isfinite(samples).all()
    assert samples.any() == (name != "silence")


def test_silence_stays_silent() -> None:
    assert not waveform_from_mel(np.zeros((2, BANDS, 20), np.float32), PARAMS).any()


@settings(max_examples=12, deadline=None)
@given(columns=st.integers(1, 40), loop=st.booleans(), channels=st.integers(1, 2))
def test_any_width_from_one_column(columns: int, loop: bool, channels: int) -> None:
    mel = np.random.default_rng(columns).random((channels, BANDS, columns), np.float32)
    samples = waveform_from_mel(mel, PARAMS, preset="fast", loop=loop)
    assert samples.shape == (channels, columns * HOP)
    assert np.isfinite(samples).all()


def test_memory_grows_in_proportion_to_width() -> None:
    narrow = SpectrogramParams(sample_rate=2000, bands=16, f_max=400)

    def peak_bytes(columns: int) -> int:
        mel = np.random.default_rng(0).random((1, 16, columns), np.float32)
        tracemalloc.start()
        waveform_from_mel(mel, narrow, preset="fast")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert peak_bytes(6000) < 4.5 * peak_bytes(1500)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused_with_a_hint(value: float) -> None:
    mel = np.ones((1, BANDS, 8), np.float32)
    mel[0, 3, 3] = value
    with pytest.raises(NumericsError) as caught:
        waveform_from_mel(mel, PARAMS)
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(512, 8), (1, 80, 8), (1, 512, 0), (0, 512, 8)])
def test_what_is_no_spectrogram_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="shape"):
        waveform_from_mel(np.zeros(shape, np.float32), PARAMS)


def test_an_unknown_preset_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="fast, balanced, best"):
        waveform_from_mel(np.zeros((1, 512, 8), np.float32), PARAMS, preset="ultra")


def test_the_results_frames_stand_on_the_loops_columns() -> None:
    full, loop = result_grid(PARAMS), loop_grid(PARAMS)
    assert full.overlap == loop.overlap
    assert full.hop / full.rate == pytest.approx(loop.hop / loop.rate)


def test_what_all_pictures_of_a_kind_share_is_computed_once(mel: np.ndarray) -> None:
    from riffusion_rt.phase import loop_constants

    first = loop_constants(PARAMS, oversampling=2)
    waveform_from_mel(mel, PARAMS, preset="fast")
    assert loop_constants(PARAMS, oversampling=2) is first
    with pytest.raises(ValueError, match="read-only"):
        first.inverse_mel[0] = 0
