"""Pictures and magnitudes turn into each other, and a picture carries its own parameters."""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from riffusion_engine.errors import ImageFileError, NumericsError, OutputError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.audio_file import read_audio
from riffusion_rt.spectrogram import mel_spectrogram
from riffusion_rt.spectrogram_image import (
    DECODED_MAX,
    MONO_PARAMS,
    STEREO_PARAMS,
    exif_bytes,
    image_from_mel,
    load_image,
    loudest_magnitude,
    max_value_from_exif,
    mel_from_image,
    params_from_exif,
    png_bytes,
    save_png,
    text_from_image,
)

QUARTET = Path(__file__).parent / "data" / "quartet.flac"
TOY = SpectrogramParams(bands=16)
TOY_STEREO = replace(TOY, stereo=True)


def ramp(channels: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(3).uniform(1, 9_000, (channels, 16, 20)).astype(np.float32)


def test_loud_is_dark_low_is_at_the_bottom_and_time_runs_right() -> None:
    mel = np.zeros((1, 16, 20), np.float32)
    mel[0, 2, 5] = 100.0
    pixels = np.asarray(image_from_mel(mel, TOY))
    assert pixels.shape == (16, 20, 3)
    assert pixels[16 - 1 - 2, 5].tolist() == [0, 0, 0]
    assert np.count_nonzero(pixels != 255) == 3


def test_levels_follow_the_power_curve_and_are_cut_not_rounded() -> None:
    mel = np.full((1, 16, 1), 1.0, np.float32)
    mel[0, 0, 0] = 2.0
    level = np.asarray(image_from_mel(mel, TOY))[0, 0, 0]
    assert level == int(255 - 255 * 0.5**0.25) == 40


def test_mono_is_three_equal_channels_and_stereo_is_green_and_blue() -> None:
    mono = np.asarray(image_from_mel(ramp(), TOY))
    assert (mono == mono[:, :, :1]).all()
    mel = ramp(2)
    mel[1] /= 4
    stereo = np.asarray(image_from_mel(mel, TOY_STEREO)).astype(int)
    assert (stereo[:, :, 0] == 0).all()
    assert stereo[:, :, 1].min() == 0
    assert stereo[:, :, 2].min() == int(255 - 255 * 0.25**0.25), "one maximum for both channels"


@pytest.mark.parametrize("params", [TOY, TOY_STEREO], ids=["mono", "stereo"])
def test_a_picture_decodes_to_within_one_level_of_what_was_drawn(params: SpectrogramParams) -> None:
    mel = ramp(params.channels)
    back = mel_from_image(image_from_mel(mel, params), params, max_value=loudest_magnitude(mel))
    drawn, read = (mel / mel.max()) ** 0.25, (back / mel.max()) ** 0.25
    assert back.shape == mel.shape
    assert np.abs(read - drawn).max() <= 1.001 / 255


@pytest.mark.parametrize("params", [MONO_PARAMS, STEREO_PARAMS], ids=["mono", "stereo"])
def test_music_survives_the_round_trip_by_the_reference_tolerances(params: SpectrogramParams) -> None:
    mel = mel_spectrogram(read_audio(QUARTET)[0][: params.channels], params)
    back = mel_from_image(image_from_mel(mel, params), params, max_value=loudest_magnitude(mel))
    assert back.shape == mel.shape
    assert back.max() == mel.max()
    assert np.median(back) == pytest.approx(np.median(mel), rel=0.05)
    audible = back > mel.max() * (32 / 255) ** 4
    assert audible.mean() > 0.5
    np.testing.assert_allclose(mel[audible], back[audible], rtol=0.15)


@settings(max_examples=50, deadline=None)
@given(level=st.integers(0, 255))
def test_every_level_survives_decoding_and_drawing_again(level: int) -> None:
    pixels = np.full((16, 2, 3), level, np.uint8)
    pixels[0, 0] = 0
    again = image_from_mel(mel_from_image(Image.fromarray(pixels), TOY), TOY)
    assert abs(int(np.asarray(again)[5, 1, 0]) - level) <= 1


def test_black_decodes_to_the_constant_and_white_to_silence() -> None:
    black = mel_from_image(Image.new("RGB", (3, 16), "black"), TOY)
    white = mel_from_image(Image.new("RGB", (3, 16), "white"), TOY)
    assert (black == np.float32(DECODED_MAX)).all()
    assert not white.any()
    assert np.asarray(image_from_mel(white, TOY)).min() == 255


def test_grey_palette_and_transparent_pictures_decode_like_rgb() -> None:
    rgb = image_from_mel(ramp(), TOY)
    expected = mel_from_image(rgb, TOY)
    for mode in ("L", "P", "RGBA", "LA"):
        np.testing.assert_array_equal(mel_from_image(rgb.convert("L").convert(mode), TOY), expected)


def test_a_given_maximum_is_black_and_what_exceeds_it_is_clipped() -> None:
    mel = np.full((1, 16, 2), 50.0, np.float32)
    mel[0, 0, 1] = 1_000.0
    pixels = np.asarray(image_from_mel(mel, TOY, max_value=100.0))
    assert pixels[-1, 1, 0] == 0
    assert pixels[0, 0, 0] == 40


def test_magnitudes_that_are_no_picture_are_refused() -> None:
    for mel in (ramp(2), ramp()[:, :8], ramp()[:, :, :0], ramp()[0]):
        with pytest.raises(RequestError):
            image_from_mel(mel, TOY)
    with pytest.raises(RequestError):
        image_from_mel(ramp(), TOY, max_value=-1.0)
    for bad in (np.nan, np.inf):
        mel = ramp()
        mel[0, 3, 3] = bad
        with pytest.raises(NumericsError):
            image_from_mel(mel, TOY)
        with pytest.raises(NumericsError):
            image_from_mel(mel, TOY, max_value=100.0)


def test_pictures_of_another_height_or_kind_are_refused() -> None:
    with pytest.raises(ImageFileError, match="512"):
        mel_from_image(Image.new("RGB", (512, 256)), MONO_PARAMS)
    with pytest.raises(ImageFileError, match="mode"):
        mel_from_image(Image.new("F", (512, 512)), MONO_PARAMS)


PRESETS = [
    MONO_PARAMS,
    STEREO_PARAMS,
    SpectrogramParams(sample_rate=96_000, step_ms=5, f_max=48_000, power=0.3),
]


@pytest.mark.parametrize("params", PRESETS, ids=["mono", "stereo", "other"])
def test_exif_carries_the_parameters_through_a_png(tmp_path: Path, params: SpectrogramParams) -> None:
    image = Image.new("RGB", (4, params.bands), "white")
    save_png(image, tmp_path / "a.png", params, max_value=1234.5)
    loaded = load_image(tmp_path / "a.png")
    assert params_from_exif(loaded) == params
    assert max_value_from_exif(loaded) == 1234.5


@pytest.mark.parametrize("params", PRESETS, ids=["mono", "stereo", "other"])
def test_exif_carries_the_parameters_through_a_jpeg(tmp_path: Path, params: SpectrogramParams) -> None:
    image = Image.new("RGB", (4, params.bands), "white")
    image.save(tmp_path / "a.jpg", exif=exif_bytes(params, 99.0))
    loaded = load_image(tmp_path / "a.jpg")
    assert params_from_exif(loaded) == params
    assert max_value_from_exif(loaded) == 99.0


def test_exif_uses_the_tags_other_programs_know() -> None:
    exif = Image.Exif()
    exif.load(exif_bytes(STEREO_PARAMS, 5.0))
    assert dict(exif) == {
        11000: 44_100,
        11005: 1,
        11010: 10,
        11020: 100,
        11030: 400,
        11040: 512,
        11050: 10,
        11060: 20_000,
        11070: 0.25,
        11080: 5.0,
    }


def test_exif_written_by_another_program_is_read(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 256))
    exif = image.getexif()
    exif.update({11000: 22_050, 11040: 256, 11060: 8_000})
    image.save(tmp_path / "foreign.jpg", exif=exif)
    read = params_from_exif(load_image(tmp_path / "foreign.jpg"))
    assert read == SpectrogramParams(sample_rate=22_050, bands=256, f_max=8_000)


def test_a_picture_without_exif_takes_the_defaults(tmp_path: Path) -> None:
    Image.new("RGB", (4, 512)).save(tmp_path / "bare.png")
    loaded = load_image(tmp_path / "bare.png")
    assert params_from_exif(loaded) == SpectrogramParams()
    assert max_value_from_exif(loaded) is None


@pytest.mark.parametrize(
    ("tag", "value"), [(11000, 0), (11010, "ten"), (11060, 0), (11070, 0.0), (11040, (1, 2)), (11020, 900)]
)
def test_unusable_exif_is_refused(tmp_path: Path, tag: int, value: object) -> None:
    image = Image.new("RGB", (4, 512))
    exif = image.getexif()
    exif[tag] = value
    image.save(tmp_path / "odd.png", exif=exif)
    with pytest.raises(ImageFileError, match="EXIF"):
        params_from_exif(load_image(tmp_path / "odd.png"))


def test_text_chunks_carry_any_prompt(tmp_path: Path) -> None:
    text = {"prompt": "Flügelhorn — 日本の太鼓 🎺\n" + "very long " * 20_000, "seed": "42"}
    save_png(image_from_mel(ramp(), TOY), tmp_path / "a.png", TOY, text=text)
    assert text_from_image(load_image(tmp_path / "a.png")) == text


def test_a_lone_surrogate_in_a_prompt_does_not_stop_the_writer(tmp_path: Path) -> None:
    save_png(image_from_mel(ramp(), TOY), tmp_path / "a.png", TOY, text={"prompt": "odd \ud800 end\0"})
    assert text_from_image(load_image(tmp_path / "a.png"))["prompt"] == "odd ? end "


def test_the_same_picture_gives_the_same_bytes() -> None:
    image = image_from_mel(ramp(), TOY)
    text = {"prompt": "church bells"}
    assert png_bytes(image, TOY, 3.0, text) == png_bytes(image.copy(), TOY, 3.0, text)
    assert png_bytes(image, TOY, 3.0, text) != png_bytes(image, TOY, 3.0, {"prompt": "bells"})


def test_pixels_survive_a_png(tmp_path: Path) -> None:
    image = image_from_mel(ramp(2), TOY_STEREO)
    save_png(image, tmp_path / "a.png", TOY_STEREO)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), np.asarray(image))


@pytest.mark.parametrize("name", ["", " x", "ü", "x" * 80, "a\nb"])
def test_names_that_png_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(RequestError):
        png_bytes(image_from_mel(ramp(), TOY), TOY, text={name: "x"})


def test_an_unwritable_place_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        save_png(image_from_mel(ramp(), TOY), tmp_path / "file" / "a.png", TOY)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_pictures_are_image_file_errors_or_pictures(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    image = image_from_mel(ramp(), TOY)
    if data.draw(st.booleans()):
        buffer.write(png_bytes(image, TOY, 7.0, {"prompt": "bells"}))
    else:
        image.save(buffer, "JPEG", exif=exif_bytes(TOY, 7.0))
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.png"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = load_image(path)
            params = params_from_exif(loaded)
            mel_from_image(loaded, params)
        except ImageFileError as error:
            assert error.hint


def test_a_cut_picture_is_refused(tmp_path: Path) -> None:
    whole = png_bytes(image_from_mel(ramp(), TOY), TOY)
    path = tmp_path / "cut.png"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageFileError):
        load_image(path)


def test_a_picture_that_claims_to_be_enormous_is_refused_unread(tmp_path: Path) -> None:
    header = bytearray(png_bytes(Image.new("RGB", (1, 1)), TOY))
    header[16:24] = (20_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    path = tmp_path / "bomb.png"
    path.write_bytes(header)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageFileError):
            load_image(path)
        header[16:24] = (9_000).to_bytes(4, "big") * 2
        header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
        path.write_bytes(header)
        with pytest.raises(ImageFileError, match="9000x9000"):
            load_image(path)


def test_files_that_are_no_spectrogram_picture_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    gif = tmp_path / "a.gif"
    Image.new("RGB", (4, 4)).save(gif)
    deep = tmp_path / "deep.png"
    Image.new("I;16", (4, 4)).save(deep)
    for path in (text, gif, deep, tmp_path, tmp_path / "missing.png"):
        with pytest.raises(ImageFileError):
            load_image(path)
