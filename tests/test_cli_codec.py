"""encode, decode and sample-clips promise the same for one file and for a folder of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.audio_file import read_audio, read_metadata, write_audio
from riffusion_rt.cli import main
from riffusion_rt.spectrogram_image import STEREO_PARAMS, load_image, params_from_exif, save_png

RATE = 44_100


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


def document(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return content


def write_tone(path: Path, seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-3 * (time % 0.25))
    write_audio(path, np.stack([tone * (1 - 0.5 * channel) for channel in range(channels)]), rate)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tone(tmp_path / "in" / "a.wav")
    write_tone(tmp_path / "in" / "a.flac", seconds=0.5)
    write_tone(tmp_path / "in" / "below" / "c.ogg", rate=22_050)
    (tmp_path / "in" / "notes.txt").write_text("no recording")
    write_tone(tmp_path / "in" / ".hidden" / "d.wav")
    return tmp_path / "in"


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_encode_draws_a_picture_beside_the_recording(tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "a.wav")
    result = run("encode", audio)
    assert result.stderr == ""
    assert result.stdout == f"{tmp_path / 'a.png'}: 100 columns of {audio}\n"
    picture = load_image(tmp_path / "a.png")
    assert picture.size == (100, 512)
    assert params_from_exif(picture) == SpectrogramParams()


def test_decode_gives_the_sound_back(tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "a.wav")
    run("encode", audio, "-q")
    run("decode", tmp_path / "a.png", "-o", tmp_path / "b.flac", "--quality", "fast", "-q")
    samples, rate = read_audio(tmp_path / "b.flac")
    assert (samples.shape, rate) == ((1, RATE), RATE)
    loudest = np.abs(np.fft.rfft(samples[0])).argmax() * rate / samples.shape[1]
    assert loudest == pytest.approx(440, abs=10)


def test_encode_takes_the_stereo_preset_and_changes_to_it(tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "a.wav", seconds=0.3, channels=2)
    run("encode", audio, "--stereo", "--bands", "64", "--f-max", "8000")
    params = params_from_exif(load_image(tmp_path / "a.png"))
    assert (params.stereo, params.f_min, params.f_max, params.bands) == (True, STEREO_PARAMS.f_min, 8000, 64)
    run("decode", tmp_path / "a.png", "-o", tmp_path / "b.wav", "--quality", "fast")
    assert read_audio(tmp_path / "b.wav")[0].shape[0] == 2


def test_decode_loops_what_generate_made_unless_told_otherwise(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 16, 3), np.uint8))
    save_png(picture, tmp_path / "clip.png", SpectrogramParams(), text={"request": '{"prompt": "x"}'})
    save_png(picture, tmp_path / "other.png", SpectrogramParams())
    assert document("decode", tmp_path / "clip.png", "--quality", "fast")["files"][0]["loop"] is True
    assert document("decode", tmp_path / "other.png", "--quality", "fast")["files"][0]["loop"] is False
    again = document("decode", tmp_path / "clip.png", "--quality", "fast", "--no-loop")
    assert again["files"][0]["loop"] is False
    assert read_metadata(tmp_path / "clip.wav")["request"] == '{"prompt": "x"}'


def test_joined_pictures_become_one_sound_that_flows_across_their_boundary(tmp_path: Path) -> None:
    rate, seconds = RATE, 2.0
    time = np.arange(int(seconds * rate)) / rate
    held = sum(np.sin(2 * np.pi * f * time + f) / 8 for f in (220.3, 277.9, 331.1))
    write_audio(tmp_path / "held.wav", held[None].astype(np.float32), rate)
    run("encode", tmp_path / "held.wav")
    whole = load_image(tmp_path / "held.png")
    params, middle = params_from_exif(whole), whole.width // 2
    for name, left, right in (("a", 0, middle), ("b", middle, whole.width)):
        save_png(whole.crop((left, 0, right, whole.height)), tmp_path / f"{name}.png", params)
    pair = (tmp_path / "a.png", tmp_path / "b.png", "--quality", "fast")
    said = run("decode", *pair, "--join", "-o", tmp_path / "joined.wav").stdout
    assert said == f"{tmp_path / 'joined.wav'}: 2.00 s from {tmp_path / 'a.png'}, {tmp_path / 'b.png'}\n"
    run("decode", *pair)
    joined = read_audio(tmp_path / "joined.wav")[0][0]
    butted = np.concatenate([read_audio(tmp_path / f"{name}.wav")[0][0] for name in "ab"])
    assert joined.shape == butted.shape == time.shape

    def bend_at_the_joint(sound: np.ndarray) -> float:
        bends = np.abs(np.diff(sound, 2))
        joint = len(sound) // 2
        return float(bends[joint - 4 : joint + 4].max() / bends[rate // 4 : joint - rate // 4].max())

    assert bend_at_the_joint(joined) < 1.1
    assert bend_at_the_joint(butted) > 1.1


def test_several_pictures_fill_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run("encode", write_tone(tmp_path / f"{name}.wav", seconds=0.2))
    (tmp_path / "out").mkdir()
    run("decode", tmp_path / "a.png", tmp_path / "b.png", "--quality", "fast", "-o", tmp_path / "out")
    assert written(tmp_path / "out") == ["a.wav", "b.wav"]


def test_compression_narrows_the_range_and_moves_no_sample(tmp_path: Path) -> None:
    run("encode", write_tone(tmp_path / "a.wav"))
    picture = (tmp_path / "a.png", "--quality", "fast", "-q", "-o")
    run("decode", *picture, tmp_path / "plain.wav")
    run("decode", *picture, tmp_path / "even.wav", "--compress")
    plain, even = (read_audio(tmp_path / name)[0][0] for name in ("plain.wav", "even.wav"))
    assert plain.shape == even.shape
    crest = [np.abs(sound).max() / np.sqrt(np.mean(sound**2)) for sound in (plain, even)]
    assert crest[1] < crest[0]
    lags = np.correlate(even, plain[1000:-1000], "valid")
    assert np.argmax(lags) == 1000


def test_a_folder_is_encoded_and_decoded_as_a_tree(folder: Path, tmp_path: Path) -> None:
    pictures, sounds = tmp_path / "pictures", tmp_path / "sounds"
    content = document("encode", folder, "-o", pictures, "--jobs", "2")
    assert written(pictures) == ["a.flac.png", "a.wav.png", "below/c.png"]
    assert [Path(file["source"]).name for file in content["files"]] == ["a.flac", "a.wav", "c.ogg"]
    assert content["failed"] == []
    result = run("decode", pictures, "-o", sounds, "--format", "mp3", "--quality", "fast")
    assert written(sounds) == ["a.flac.mp3", "a.wav.mp3", "below/c.mp3"]
    assert len(result.stdout.splitlines()) == 3


def test_a_bad_file_in_a_folder_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (folder / "b.wav").write_bytes(b"RIFF but nothing else")
    result = run("encode", folder, "-o", tmp_path / "out", "--json", code=2)
    content = json.loads(result.stdout)
    assert len(content["files"]) == 3
    assert [Path(failure["source"]).name for failure in content["failed"]] == ["b.wav"]
    assert written(tmp_path / "out") == ["a.flac.png", "a.wav.png", "below/c.png"]
    lines = result.stderr.splitlines()
    assert "b.wav" in lines[0]
    assert lines[-1] == "riffusion-rt: 1 of 4 files failed; the others are done"


def test_sample_clips_cuts_the_same_places_for_the_same_seed(tmp_path: Path) -> None:
    audio = write_tone(tmp_path / "long song.wav", seconds=3, channels=2)
    cut = ("sample-clips", audio, "--count", "3", "--duration", "0.5")
    first, again = tmp_path / "1", tmp_path / "2"
    content = document(*cut, "-o", first)
    run(*cut, "-o", again)
    other = document(*cut, "-o", tmp_path / "3", "--seed", "1", "--mono", "--format", "flac")
    assert len(written(first)) == 3
    assert written(first) == written(again)
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in written(first))
    clips = content["files"][0]["clips"]
    assert [Path(clip["audio"]).name for clip in clips] == written(first)
    for clip in clips:
        samples, rate = read_audio(Path(clip["audio"]))
        assert samples.shape == (2, rate // 2)
        assert f"at-{round(clip['start_s'] * 1000)}ms" in clip["audio"]
    assert read_audio(Path(other["files"][0]["clips"][0]["audio"]))[0].shape[0] == 1
    assert {clip["start_s"] for clip in other["files"][0]["clips"]}.isdisjoint(
        clip["start_s"] for clip in clips
    )


def test_sample_clips_takes_places_of_its_own_in_every_recording_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tone(tmp_path / "in" / f"{name}.wav", seconds=3)
    both = document("sample-clips", tmp_path / "in", "-o", tmp_path / "out", "--duration", "0.5")
    starts = [file["clips"][0]["start_s"] for file in both["files"]]
    assert starts[0] != starts[1]
    (tmp_path / "in" / "a.wav").unlink()
    one = document("sample-clips", tmp_path / "in", "-o", tmp_path / "out", "--duration", "0.5")
    assert one["files"][0]["clips"][0]["start_s"] == starts[1]


def _refusals(tmp_path: Path) -> dict[str, tuple[str | Path, ...]]:
    audio, picture = tmp_path / "a.wav", tmp_path / "a.png"
    return {
        "There is no file": ("encode", tmp_path / "absent.wav"),
        "as audio": ("encode", picture),
        "is a PNG file": ("encode", audio, "-o", tmp_path / "x.jpg"),
        "are no range": ("encode", audio, "--f-max", "30000"),
        "make no spectrogram": ("encode", audio, "--bands", "0"),
        "need one too": ("encode", tmp_path),
        "nothing to read": ("decode", tmp_path / "empty", "-o", tmp_path / "x"),
        "is a file, not a folder": ("encode", tmp_path, "-o", audio),
        "does not exist": ("decode", tmp_path / "absent.png"),
        "as a picture": ("decode", audio, "-o", tmp_path / "x.wav"),
        "Cannot write audio as .aac": ("decode", picture, "-o", tmp_path / "x.aac"),
        "No phase preset": ("decode", picture, "--quality", "perfect"),
        "not a loop": ("decode", picture, picture, "--join", "--loop", "-o", tmp_path / "x.wav"),
        "a file of their own": ("decode", picture, picture, "--join"),
        "nothing of an order": ("decode", tmp_path / "empty", "--join", "-o", tmp_path / "x.wav"),
        "would both become": ("decode", picture, tmp_path / "below" / "a.png", "-o", tmp_path / "empty"),
        "do not fit into one file": ("decode", picture, picture, "-o", tmp_path / "x.wav"),
        "less than a clip": ("sample-clips", audio, "-o", tmp_path / "x", "--duration", "60"),
        "Cannot cut": ("sample-clips", audio, "-o", tmp_path / "x", "--duration", "nan"),
        "count must be": ("sample-clips", audio, "-o", tmp_path / "x", "--count", "0"),
        "seed must be": ("sample-clips", audio, "-o", tmp_path / "x", "--seed", "-1"),
        "Cannot write audio as .aac:": ("sample-clips", audio, "-o", tmp_path / "x", "--format", "aac"),
        "Missing option '-o'": ("sample-clips", audio),
    }


@pytest.mark.parametrize("said", _refusals(Path()))
def test_bad_input_is_one_line_and_leaves_nothing_behind(said: str, tmp_path: Path) -> None:
    write_tone(tmp_path / "a.wav")
    run("encode", tmp_path / "a.wav")
    (tmp_path / "empty").mkdir()
    before = written(tmp_path)
    result = run(*_refusals(tmp_path)[said], code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("riffusion-rt: ")
    assert said in result.stderr
    assert written(tmp_path) == before
