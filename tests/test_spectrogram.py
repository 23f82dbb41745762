"""The analysis keeps its promises, judged by an implementation of the same formulas in torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.audio_file import read_audio
from riffusion_rt.spectrogram import column_count, hz_to_mel, mel_filter_bank, mel_spectrogram, mel_to_hz
from riffusion_rt.spectrogram_image import MONO_PARAMS, STEREO_PARAMS, image_from_mel

QUARTET = Path(__file__).parent / "data" / "quartet.flac"
CLIP_SAMPLES = 225_792
TOY = SpectrogramParams(sample_rate=8_000, window_ms=20, padded_ms=80, bands=24, f_max=3_000)


def torch_filter_bank(params: SpectrogramParams) -> torch.Tensor:
    """Triangles as the smaller of a rising and a falling line, one band after the other, in float64."""
    mel = torch.linspace(
        2595 * np.log10(1 + params.f_min / 700),
        2595 * np.log10(1 + params.f_max / 700),
        params.bands + 2,
        dtype=torch.float64,
    )
    corners = 700 * (10 ** (mel / 2595) - 1)
    bins = torch.linspace(0, params.sample_rate // 2, params.n_fft // 2 + 1, dtype=torch.float64)
    bands = []
    for low, centre, high in zip(corners, corners[1:], corners[2:], strict=False):
        triangle = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
        bands.append(triangle.clamp(min=0))
    return torch.stack(bands, dim=1)


def torch_mel(samples: NDArray[np.float32], params: SpectrogramParams) -> NDArray[np.float32]:
    spectrum = torch.stft(
        torch.from_numpy(samples) * 32_768,
        n_fft=params.n_fft,
        hop_length=params.hop_length,
        win_length=params.win_length,
        window=torch.hann_window(params.win_length),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    bank = torch_filter_bank(params).to(torch.float32)
    return torch.matmul(spectrum.abs().transpose(1, 2), bank).transpose(1, 2).numpy()


def noise(channels: int, samples: int) -> NDArray[np.float32]:
    return np.random.default_rng(7).normal(0, 0.1, (channels, samples)).astype(np.float32)


@pytest.mark.parametrize("params", [MONO_PARAMS, STEREO_PARAMS, TOY], ids=["mono", "stereo", "toy"])
def test_filter_bank_is_the_htk_triangles(params: SpectrogramParams) -> None:
    np.testing.assert_allclose(mel_filter_bank(params), torch_filter_bank(params).numpy(), atol=1e-5)


def test_filter_bank_has_3999_rows_that_are_not_zero() -> None:
    assert np.count_nonzero(mel_filter_bank(MONO_PARAMS).any(axis=1)) == 3_999


def test_bands_finer_than_the_bins_stay_empty_instead_of_borrowing() -> None:
    fine = replace(TOY, bands=200, padded_ms=20)
    bank = mel_filter_bank(fine)
    assert (bank.sum(axis=0) == 0).any()
    expected = torch_mel(noise(1, 2_000), fine)
    np.testing.assert_allclose(
        mel_spectrogram(noise(1, 2_000), fine, columns=26), expected, atol=1e-4 * expected.max()
    )


@pytest.mark.parametrize("params", [MONO_PARAMS, STEREO_PARAMS], ids=["mono", "stereo"])
def test_music_gives_the_magnitudes_torch_gives(params: SpectrogramParams) -> None:
    music, rate = read_audio(QUARTET)
    assert rate == params.sample_rate
    samples = music[: params.channels]
    columns = 1 + samples.shape[1] // params.hop_length
    ours = mel_spectrogram(samples, params, columns=columns)
    theirs = torch_mel(samples, params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6 * theirs.max())


@pytest.mark.parametrize("params", [MONO_PARAMS, STEREO_PARAMS], ids=["mono", "stereo"])
def test_pictures_of_music_are_within_one_level_of_the_reference_formula(params: SpectrogramParams) -> None:
    samples = read_audio(QUARTET)[0][: params.channels]
    columns = 1 + samples.shape[1] // params.hop_length
    reference = torch_mel(samples, params).astype(np.float64)
    levels = (255 - 255 * (reference / reference.max()) ** 0.25).astype(np.uint8)[:, ::-1].astype(int)
    pixels = np.asarray(image_from_mel(mel_spectrogram(samples, params, columns=columns), params)).astype(int)
    planes = pixels[:, :, 1:] if params.stereo else pixels[:, :, :1]
    difference = np.abs(np.moveaxis(planes, -1, 0) - levels)
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-3


def test_a_clip_of_512_hops_is_512_columns() -> None:
    assert column_count(CLIP_SAMPLES, MONO_PARAMS) == 512
    assert column_count(CLIP_SAMPLES - 1, MONO_PARAMS) == 512
    assert column_count(CLIP_SAMPLES + 1, MONO_PARAMS) == 513
    assert mel_spectrogram(noise(1, 100 * TOY.hop_length), TOY).shape == (1, TOY.bands, 100)


def test_fewer_columns_are_the_first_ones() -> None:
    samples = noise(2, 40 * TOY.hop_length)
    np.testing.assert_array_equal(
        mel_spectrogram(samples, TOY, columns=13), mel_spectrogram(samples, TOY)[:, :, :13]
    )


def test_columns_past_the_end_are_silent() -> None:
    samples = noise(1, 40 * TOY.hop_length)
    mel = mel_spectrogram(samples, TOY, columns=60)
    assert mel.shape[2] == 60
    assert mel[:, :, 39].min() > 0
    assert mel[:, :, 42:58].max() == 0


def test_a_loop_has_no_edges() -> None:
    loop = noise(1, 50 * TOY.hop_length)
    turned = np.roll(loop, 20 * TOY.hop_length, axis=1)
    np.testing.assert_allclose(
        np.roll(mel_spectrogram(loop, TOY, loop=True), 20, axis=2),
        mel_spectrogram(turned, TOY, loop=True),
        rtol=1e-5,
        atol=1e-2,
    )
    assert not np.allclose(
        mel_spectrogram(loop, TOY, loop=True)[:, :, 0], mel_spectrogram(loop, TOY)[:, :, 0]
    )


@pytest.mark.parametrize("loop", [False, True])
@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 700), channels=st.integers(1, 2))
def test_however_short_a_recording_is_its_spectrogram_is_finite(
    loop: bool, samples: int, channels: int
) -> None:
    mel = mel_spectrogram(noise(channels, samples), TOY, loop=loop)
    assert mel.shape == (channels, TOY.bands, column_count(samples, TOY))
    assert np.isfinite(mel).all()


def test_silence_is_zero() -> None:
    assert not mel_spectrogram(np.zeros((1, 900), np.float32), TOY).any()


def test_a_sine_lands_in_its_band() -> None:
    wave = np.sin(2 * np.pi * 1_000 * np.arange(8_000) / TOY.sample_rate)[None]
    spacing = hz_to_mel(TOY.f_max) / (TOY.bands + 1)
    assert mel_spectrogram(wave, TOY)[0, :, 50].argmax() == round(float(hz_to_mel(1_000) / spacing)) - 1


def test_mel_scale_inverts() -> None:
    frequencies = np.linspace(0, 20_000, 50)
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(frequencies)), frequencies, atol=1e-8)
    assert hz_to_mel(1_000) == pytest.approx(1_000, abs=0.02)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused(bad: float) -> None:
    samples = noise(1, 900)
    samples[0, 5] = bad
    with pytest.raises(NumericsError):
        mel_spectrogram(samples, TOY)


def test_nothing_to_analyse_is_refused() -> None:
    for shape in [(1, 0), (0, 10), (1, 2, 30)]:
        with pytest.raises(RequestError):
            mel_spectrogram(np.zeros(shape, np.float32), TOY)
    with pytest.raises(RequestError):
        mel_spectrogram(noise(1, 900), TOY, columns=0)


@pytest.mark.parametrize(
    "change",
    [{"step_ms": 0}, {"window_ms": 0}, {"window_ms": 90}, {"bands": 0}, {"f_min": 3_000}, {"f_min": -1}],
)
def test_absurd_parameters_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(RequestError):
        mel_spectrogram(noise(1, 900), replace(TOY, **change))


def test_importing_the_codec_loads_numpy_and_little_else() -> None:
    modules = ("spectrogram", "spectrogram_image", "audio_file", "loudness", "resampling", "clip_sampling")
    heavy = {"scipy", "PIL", "soundfile", "torch", "onnxruntime"}
    script = f"import sys; from riffusion_rt import {', '.join(modules)}; print(*{heavy} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == ""
