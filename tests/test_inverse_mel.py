"""Inverse mel: exact in the bank's own terms, and nearer to real sound than least squares."""

import numpy as np
import pytest

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.inverse_mel import inverse_mel_matrix, magnitudes_from_mel, mel_edges

PARAMS = SpectrogramParams()
FREQUENCIES = np.arange(PARAMS.n_fft // 2 + 1) * PARAMS.sample_rate / PARAMS.n_fft


def dense_bank(params: SpectrogramParams) -> np.ndarray:
    """The filter bank, written from its definition: (bins, bands)."""
    frequencies = np.arange(params.n_fft // 2 + 1) * params.sample_rate / params.n_fft
    low, peak, high = (mel_edges(params)[start : start + params.bands] for start in range(3))
    rising = (frequencies[:, None] - low) / (peak - low)
    falling = (high - frequencies[:, None]) / (high - peak)
    return np.maximum(0, np.minimum(rising, falling))


@pytest.fixture(scope="module")
def bank() -> np.ndarray:
    return dense_bank(PARAMS)


def windowed_sines(*frequencies: float) -> np.ndarray:
    """Magnitudes of a frame of sines on the n_fft grid."""
    time = np.arange(PARAMS.win_length) / PARAMS.sample_rate
    window = np.hanning(PARAMS.win_length + 1)[:-1]
    sound = sum(np.sin(2 * np.pi * frequency * time) for frequency in frequencies)
    return np.abs(np.fft.rfft(sound * window, PARAMS.n_fft))


def test_edges_are_equally_spaced_in_mel_from_f_min_to_f_max() -> None:
    edges = mel_edges(PARAMS)
    mels = 2595 * np.log10(1 + edges / 700)
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(10_000)
    np.testing.assert_allclose(np.diff(mels), np.diff(mels)[0], rtol=1e-9)


@pytest.mark.parametrize(
    "params",
    [
        PARAMS,
        SpectrogramParams(stereo=True, f_min=10, f_max=20_000),
        SpectrogramParams(bands=80, f_max=8_000),
    ],
)
def test_mel_of_the_inverse_is_the_mel(params: SpectrogramParams) -> None:
    bank = dense_bank(params)
    frequencies = np.arange(params.n_fft // 2 + 1) * params.sample_rate / params.n_fft
    roundtrip = inverse_mel_matrix(params, frequencies) @ bank
    np.testing.assert_allclose(roundtrip, np.eye(params.bands), atol=1e-3)


def test_partials_below_two_kilohertz_come_back_nearer_than_by_least_squares(bank: np.ndarray) -> None:
    frames = np.stack([windowed_sines(440, 880, 1320), windowed_sines(98, 1217, 1777)])
    mel = (frames @ bank).T[None].astype(np.float32)
    ours = magnitudes_from_mel(mel, PARAMS, FREQUENCIES)[0]
    least_squares = np.maximum(0, np.linalg.solve(bank.T @ bank, mel[0]).T @ bank.T)
    error, peer = (np.linalg.norm(guess - frames, axis=1) for guess in (ours, least_squares))
    assert np.all(error < 0.8 * peer), error / peer


def test_magnitudes_on_a_coarser_grid_are_the_same_magnitudes() -> None:
    mel = np.random.default_rng(0).random((2, 512, 3), np.float32)
    fine = magnitudes_from_mel(mel, PARAMS, FREQUENCIES)
    coarse = magnitudes_from_mel(mel, PARAMS, FREQUENCIES[::4])
    np.testing.assert_allclose(coarse, fine[:, :, ::4], rtol=1e-4, atol=1e-5)


def test_nothing_is_negative_and_nothing_lies_above_f_max() -> None:
    mel = np.random.default_rng(1).random((1, 512, 5), np.float32) ** 8
    magnitudes = magnitudes_from_mel(mel, PARAMS, FREQUENCIES)
    assert magnitudes.shape == (1, 5, len(FREQUENCIES))
    assert magnitudes.min() == 0
    assert not magnitudes[:, :, PARAMS.f_max < FREQUENCIES].any()


def test_the_references_bass_is_quieter_below_two_kilohertz_only() -> None:
    exact = inverse_mel_matrix(PARAMS, FREQUENCIES)
    quieter = inverse_mel_matrix(PARAMS, FREQUENCIES, bass="reference")
    at_100_hz, at_3_khz = 40, 1200
    np.testing.assert_allclose(quieter[:, at_100_hz], exact[:, at_100_hz] * 10 ** (-2.7 / 20), rtol=1e-3)
    np.testing.assert_array_equal(quieter[:, at_3_khz], exact[:, at_3_khz])
