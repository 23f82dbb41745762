"""A clip knows how to be saved, shown and made again."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from riffusion_engine.errors import AudioFileError, OutputError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.audio_file import read_metadata
from riffusion_rt.clip import Clip
from riffusion_rt.request import ClipRequest
from riffusion_rt.spectrogram_image import params_from_exif


@pytest.fixture
def clip() -> Clip:
    samples = np.sin(np.arange(4410) * 0.05, dtype=np.float32)[None] * 0.5
    picture = Image.fromarray(np.full((512, 10, 3), 128, np.uint8))
    request = ClipRequest('bells & <b>"beats"</b> 🎹', seed=5, steps=3, guidance=2.0, sampler="ddim")
    return Clip(samples, picture, SpectrogramParams(), request, "toy", 30e6)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_saved_clip_tells_how_to_make_it_again(clip: Clip, tmp_path: Path, suffix: str) -> None:
    audio, picture = clip.save(tmp_path / f"clip{suffix}")
    metadata = read_metadata(audio)
    assert ClipRequest(**json.loads(metadata["request"])) == clip.request
    assert metadata["model"] == "toy"
    assert soundfile.info(audio).samplerate == 44_100
    image = Image.open(picture)
    assert params_from_exif(image) == clip.params
    assert json.loads(image.text["request"]) == json.loads(metadata["request"])  # type: ignore[attr-defined]


def test_saving_twice_gives_the_same_bytes(clip: Clip, tmp_path: Path) -> None:
    first, second = clip.save(tmp_path / "a.wav"), clip.save(tmp_path / "b.wav")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_an_unknown_suffix_writes_nothing(clip: Clip, tmp_path: Path) -> None:
    with pytest.raises(AudioFileError, match="aiff"):
        clip.save(tmp_path / "clip.aiff")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_named(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file"):
        clip.save(tmp_path / "file" / "clip.wav")


def test_a_notebook_shows_player_and_picture_without_letting_the_prompt_in(clip: Clip) -> None:
    shown = clip._repr_html_()
    assert "<audio controls" in shown
    assert "data:image/png;base64," in shown
    assert "<b>" not in shown


def test_the_wav_in_memory_is_the_clip(clip: Clip) -> None:
    samples, rate = soundfile.read(io.BytesIO(clip.to_wav()))
    assert rate == 44_100
    np.testing.assert_allclose(samples, clip.samples[0], atol=1e-4)
    assert clip.duration_s == pytest.approx(0.1)
