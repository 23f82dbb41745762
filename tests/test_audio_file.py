"""Files give back the samples and the words they were given, or say in one line why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from riffusion_engine.errors import AudioFileError, OutputError
from riffusion_rt.audio_file import (
    AUDIO_SUFFIXES,
    check_audio_suffix,
    encode_audio,
    read_audio,
    read_metadata,
    write_audio,
)

RATE = 44_100
CLIP_SAMPLES = 225_792
LOSSLESS = (".wav", ".flac")
PROMPT = 'Flügelhorn — 日本の太鼓 🎺, (funky:1.5) [piano] \\ "quoted" \n\t tab \0 nul \ud800 surrogate'
METADATA = {"prompt": PROMPT, "seed": "42", "settings": '{"steps": 20}', "": "empty name"}


def music(channels: int = 2, samples: int = 8_000) -> NDArray[np.float32]:
    time = np.arange(samples) / RATE
    return np.stack([0.5 * np.sin(2 * np.pi * 440 * (1 + c) * time) for c in range(channels)]).astype("f4")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("bits", [16, 24])
def test_lossless_files_keep_every_sample_to_half_a_step(
    tmp_path: Path, suffix: str, channels: int, bits: int
) -> None:
    path = tmp_path / f"clip{suffix}"
    samples = music(channels, 8_001)
    write_audio(path, samples, 48_000, bits=bits)
    read, rate = read_audio(path)
    assert (read.shape, read.dtype, rate) == (samples.shape, np.float32, 48_000)
    assert np.abs(read - samples).max() <= 0.501 / 2 ** (bits - 1)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_clip_is_an_exact_number_of_samples(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_audio(path, music(1, CLIP_SAMPLES), RATE, METADATA)
    assert soundfile.info(str(path)).frames == CLIP_SAMPLES
    assert read_audio(path)[0].shape == (1, CLIP_SAMPLES)


def test_16_bit_samples_survive_reading_and_writing_unchanged(tmp_path: Path) -> None:
    levels = np.arange(-32_768, 32_768, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", levels, RATE, subtype="PCM_16")
    samples, rate = read_audio(tmp_path / "a.wav")
    write_audio(tmp_path / "b.flac", samples, rate)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "b.flac", dtype="int16")[0], levels)


def test_peaks_beyond_full_scale_are_clipped_not_wrapped(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.array([[1.5, -1.5, 1.0, -1.0]]), RATE)
    read, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(read, [[1, -1, 1, -1]], atol=1 / 32_768)


@pytest.mark.parametrize("suffix", [".ogg", ".mp3"])
def test_lossy_files_sound_alike(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_audio(path, music(2, 44_100), RATE, METADATA)
    read, rate = read_audio(path)
    assert (read.shape, rate) == ((2, 44_100), RATE)
    spectrum = np.abs(np.fft.rfft(read[:, 5_000:38_000] * np.hanning(33_000)))
    peaks = spectrum.argmax(axis=1) * RATE / 33_000
    np.testing.assert_allclose(peaks, [440, 880], atol=2)
    assert np.sqrt(np.mean(read**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_metadata_comes_back_word_for_word(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_audio(path, music(), RATE, METADATA)
    assert read_metadata(path) == METADATA
    assert read_audio(path)[0].shape[0] == 2


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_very_long_prompts_come_back_whole(tmp_path: Path, suffix: str) -> None:
    metadata = {"prompt": "太鼓 and church bells, " * 5_000}
    path = tmp_path / f"clip{suffix}"
    write_audio(path, music(), RATE, metadata)
    assert read_metadata(path) == metadata
    assert read_audio(path)[0].shape == music().shape


@settings(max_examples=40, deadline=None)
@given(
    suffix=st.sampled_from(AUDIO_SUFFIXES),
    metadata=st.dictionaries(st.text(max_size=20), st.text(max_size=200), min_size=1, max_size=4),
)
def test_any_text_comes_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("any") / f"clip{suffix}"
    write_audio(path, music(1, 1_000), RATE, metadata)
    assert read_metadata(path) == metadata


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_the_same_clip_gives_the_same_bytes(suffix: str) -> None:
    first = encode_audio(music(), RATE, suffix, METADATA)
    assert encode_audio(music(), RATE, suffix, METADATA) == first
    assert encode_audio(music(), RATE, suffix, {"prompt": "another"}) != first


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_players_see_title_and_software(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_audio(path, music(), RATE, {"prompt": "church bells\nat dawn"})
    with soundfile.SoundFile(str(path)) as file:
        assert file.title == "church bells at dawn"
        assert file.software.startswith("riffusion-rt")


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_a_file_without_metadata_has_none(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    write_audio(path, music(), RATE)
    assert read_metadata(path) == {}


def test_tags_of_another_program_are_shown_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "song.flac"
    with soundfile.SoundFile(str(path), "w", samplerate=RATE, channels=1) as file:
        file.title, file.comment = "A song", "ripped with love [1, 2]"
        file.write(np.zeros(100))
    assert read_metadata(path) == {"title": "A song", "comment": "ripped with love [1, 2]"}


def test_other_file_types_and_rates_are_read(tmp_path: Path) -> None:
    for name, subtype in [("a.aiff", "PCM_16"), ("a.au", "PCM_16"), ("a.wav", "PCM_U8"), ("b.wav", "DOUBLE")]:
        soundfile.write(tmp_path / name, music(2, 500).T, 22_050, subtype=subtype)
        samples, rate = read_audio(tmp_path / name)
        assert (samples.shape, rate) == ((2, 500), 22_050)
        np.testing.assert_allclose(samples, music(2, 500), atol=0.01)
        assert read_metadata(tmp_path / name) == {}


def test_suffixes_are_checked_without_regard_to_case() -> None:
    assert check_audio_suffix(Path("Clip.WAV")) == ".wav"
    for name in ("clip.m4a", "clip", "clip.png", ".wav"):
        with pytest.raises(AudioFileError, match=r"Use one of \.wav, \.flac, \.ogg, \.mp3"):
            check_audio_suffix(Path(name))


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((1, 0)),
        np.zeros((0, 9)),
        np.zeros((1, 2, 3)),
        np.array([[0.0, np.nan]]),
        np.array([[np.inf]]),
    ],
    ids=["empty", "no channel", "three axes", "nan", "infinity"],
)
@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_samples_that_are_no_sound_are_refused_and_nothing_is_written(
    tmp_path: Path, suffix: str, samples: NDArray[np.float64]
) -> None:
    with pytest.raises(AudioFileError) as caught:
        write_audio(tmp_path / f"clip{suffix}", samples, RATE)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("suffix", "channels", "rate", "bits"),
    [
        (".mp3", 2, 96_000, 16),
        (".mp3", 3, RATE, 16),
        (".flac", 9, RATE, 16),
        (".wav", 1, 0, 16),
        (".wav", 1, RATE, 12),
    ],
)
def test_what_a_file_type_cannot_hold_is_refused(suffix: str, channels: int, rate: int, bits: int) -> None:
    with pytest.raises(AudioFileError) as caught:
        encode_audio(music(channels, 2_000), rate, suffix, bits=bits)
    assert caught.value.hint


def test_metadata_beyond_reason_is_refused() -> None:
    with pytest.raises(AudioFileError, match="metadata"):
        encode_audio(music(), RATE, ".wav", {"prompt": "x" * 2**20})


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        write_audio(tmp_path / "file" / "clip.wav", music(), RATE)


def test_files_that_are_no_audio_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("not audio")
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "samples.raw").write_bytes(bytes(100))
    for name in ("notes.wav", "empty.mp3", "samples.raw", "missing.wav", "."):
        with pytest.raises(AudioFileError) as caught:
            read_audio(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert caught.value.hint
        with pytest.raises(AudioFileError):
            read_metadata(tmp_path / name)


def test_recordings_without_sound_or_with_nan_are_refused(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros((0, 1)), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), RATE, subtype="FLOAT")
    for name in ("none.wav", "nan.wav"):
        with pytest.raises(AudioFileError):
            read_audio(tmp_path / name)


def test_a_cut_flac_is_refused(tmp_path: Path) -> None:
    whole = encode_audio(music(2, 44_100), RATE, ".flac")
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioFileError):
        read_audio(tmp_path / "cut.flac")


@settings(max_examples=120, deadline=None)
@given(suffix=st.sampled_from(AUDIO_SUFFIXES), data=st.data())
def test_damaged_files_are_audio_file_errors_or_sound(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    damaged = bytearray(encode_audio(music(1, 3_000), RATE, suffix, {"prompt": "bells"}))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 400) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / f"clip{suffix}"
    path.write_bytes(damaged[: data.draw(st.integers(1, len(damaged)))])
    _sound_or_one_line(read_audio, path)
    _sound_or_one_line(read_metadata, path)


def _sound_or_one_line(read: Callable[[Path], object], path: Path) -> None:
    try:
        read(path)
    except AudioFileError as error:
        assert error.hint
        assert "\n" not in str(error)
