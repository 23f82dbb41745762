"""A folder of recordings becomes a data set: captions, cuts, sides, restarts, and what `datasets` will read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from riffusion_engine.errors import OutputError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.audio_file import write_audio
from riffusion_rt.cli import main
from riffusion_rt.spectrogram_image import STEREO_PARAMS, params_from_exif
from riffusion_train.audio_dataset import DatasetRecipe, RecordingDone, make_dataset
from riffusion_train.cutting import CuttingRecipe, Piece, cut, sounding_range
from riffusion_train.piece_pictures import mel_of_piece, turns
from riffusion_train.recording_captions import (
    CaptionSources,
    caption_from_folders,
    caption_from_tags,
    read_caption_list,
)
from riffusion_train.tempo import find_beats

RATE = 44_100
SMALL = CuttingRecipe(SpectrogramParams(bands=32), columns=64)
"""Pictures of 0.64 s."""


def tone(seconds: float, hertz: float = 440.0, channels: int = 1) -> NDArray[np.float32]:
    time = np.arange(int(seconds * RATE)) / RATE
    return np.tile(0.5 * np.sin(2 * np.pi * hertz * time), (channels, 1)).astype(np.float32)


def clicks(bpm: float, beats: int, *, first_s: float = 0.0, accent: int = 4) -> NDArray[np.float32]:
    """A metronome: short bursts of noise, deep and loud on the downbeat."""
    rng = np.random.default_rng(0)
    out = np.zeros(int((first_s + (beats + 1) * 60 / bpm) * RATE), np.float32)
    time = np.arange(int(0.06 * RATE)) / RATE
    for beat in range(beats):
        at = int((first_s + beat * 60 / bpm) * RATE)
        burst = 0.3 * rng.normal(size=time.size) * np.exp(-time * 90)
        if beat % accent == 0:
            burst = burst + 0.8 * np.sin(2 * np.pi * 80 * time) * np.exp(-time * 40)
        out[at : at + time.size] += burst.astype(np.float32)[: out.size - at]
    return out[None]


def made(folder: Path, output: Path, recipe: DatasetRecipe, **captions: object) -> list[RecordingDone]:
    recordings = sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".flac", ".ogg", ".mp3"))
    sources = CaptionSources(folder, **captions)  # type: ignore[arg-type]
    return list(make_dataset(recordings, output, sources, recipe, workers=2))


def listing(output: Path, split: str = "train") -> list[dict[str, object]]:
    path = output / split / "metadata.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    for index in range(12):
        name = f"{'piano' if index % 2 else 'church bells'}/{index:02}.wav"
        write_audio(folder / name, tone(1.5, 200 + 50 * index), RATE)
    return folder


def test_pictures_captions_and_parameters_are_where_imagefolder_looks(
    recordings: Path, tmp_path: Path
) -> None:
    made(recordings, tmp_path / "data", DatasetRecipe(SMALL))
    rows = listing(tmp_path / "data")
    assert {row["text"] for row in rows} == {"piano", "church bells"}
    for row in rows:
        with Image.open(tmp_path / "data" / "train" / str(row["file_name"])) as image:
            assert image.size == (64, 32)
            assert params_from_exif(image) == SMALL.params
    on_disk = {p.name for p in (tmp_path / "data" / "train").glob("*.png")}
    assert on_disk == {row["file_name"] for row in rows}
    assert "piano" in (tmp_path / "data" / "README.md").read_text()


def test_a_recording_is_never_on_both_sides_and_neither_is_its_copy(recordings: Path, tmp_path: Path) -> None:
    shutil.copy(recordings / "piano" / "01.wav", recordings / "church bells" / "copy.wav")
    done = made(recordings, tmp_path / "data", DatasetRecipe(SMALL, held_out=0.4))
    sides = {
        split: {row["source"] for row in listing(tmp_path / "data", split)} for split in ("train", "test")
    }
    assert all(sides.values())
    assert not sides["train"] & sides["test"]
    assert len(sides["train"] | sides["test"]) == 12
    assert [each.skipped for each in done if each.skipped] == [(("copies of another", 1),)]


def test_more_recordings_move_none_to_the_other_side() -> None:
    recipe = DatasetRecipe(held_out=0.25)
    sides = [recipe.split_of(f"{index:064x}") for index in range(2000)]
    assert sides == [recipe.split_of(f"{index:064x}") for index in range(2000)]
    assert sides != [replace(recipe, seed=1).split_of(f"{index:064x}") for index in range(2000)]
    assert 0.2 < sides.count("test") / 2000 < 0.3


def test_never_is_everything_held_out(tmp_path: Path) -> None:
    write_audio(tmp_path / "audio" / "piano" / "a.wav", tone(0.7), RATE)
    with pytest.raises(RequestError, match="held out"):
        made(tmp_path / "audio", tmp_path / "data", DatasetRecipe(SMALL, held_out=0.999))
    assert not (tmp_path / "data").exists()


def test_a_list_beats_tags_which_beat_folders_which_beat_the_default(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    for name in ("guitars/listed.flac", "guitars/tagged.flac", "guitars/bare.flac", "loose.flac"):
        metadata = {"prompt": "tagged words"} if "bare" not in name and "loose" not in name else None
        write_audio(folder / name, tone(0.7), RATE, metadata)
    sources = CaptionSources(folder, {"guitars/listed.flac": "listed words"}, default="anything")
    found = {path.name: sources.caption_of(path) for path in folder.rglob("*.flac")}
    assert found == {
        "listed.flac": ("listed words", "list"),
        "tagged.flac": ("tagged words", "tags"),
        "bare.flac": ("guitars", "folder"),
        "loose.flac": ("anything", "default"),
    }
    assert replace(sources, default=None).caption_of(folder / "loose.flac") is None


def test_tags_of_other_programs_are_read(tmp_path: Path) -> None:
    mutagen = pytest.importorskip("mutagen")
    write_audio(tmp_path / "a.flac", tone(0.2), RATE)
    tags = mutagen.File(tmp_path / "a.flac")
    tags.update(
        {"genre": "Funk", "title": "01 - Slow river", "comment": "Encoded by LAME", "artist": "Someone"}
    )
    tags.save()
    write_audio(tmp_path / "b.mp3", tone(0.2), RATE)
    tags = mutagen.File(tmp_path / "b.mp3", easy=True)
    tags["genre"], tags["title"] = "Jazz", "Rain"
    tags.save()
    sources = CaptionSources(tmp_path)
    assert sources.caption_of(tmp_path / "a.flac") == ("Funk, Slow river", "tags")
    assert sources.caption_of(tmp_path / "b.mp3") == ("Jazz, Rain", "tags")


def test_numbers_and_machine_talk_are_no_captions() -> None:
    assert caption_from_folders(("Rock", "02_slow-ballads")) == "Rock, slow ballads"
    assert caption_from_tags({"genre": "Rock", "title": "Track 07", "description": "https://x.org"}) == "Rock"
    assert caption_from_tags({"title": "Rock", "genre": "rock"}) == "rock"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "file_name,text\nx.wav,soft  rain\n"),
        ("b.csv", "File;Caption\nx.wav;soft rain\n"),
        ("c.jsonl", '{"path": "x.wav", "prompt": "soft rain"}\n\n'),
    ],
)
def test_lists_are_read_in_the_forms_people_have(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_caption_list(tmp_path / name) == {"x.wav": "soft rain"}


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n"])
def test_a_list_without_names_or_texts_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(RequestError, match="needs a column"):
        read_caption_list(tmp_path / "list.csv")


def test_silence_at_both_ends_is_left_away() -> None:
    sound = np.concatenate([np.zeros((1, RATE)), tone(1.0), np.zeros((1, RATE // 2))], axis=1).astype(
        np.float32
    )
    begin, end = sounding_range(sound, RATE, -45) or (0, 0)
    assert abs(begin - RATE) <= 0.02 * RATE
    assert abs(end - 2 * RATE) <= 0.02 * RATE
    assert sounding_range(np.zeros((1, RATE), np.float32), RATE, -45) is None


def test_silent_and_short_recordings_and_silent_pieces_are_counted() -> None:
    assert cut(np.zeros((1, RATE), np.float32), SMALL).skipped == (("silent", 1),)
    assert cut(tone(0.5), SMALL).skipped == (("too short", 1),)
    gap = np.concatenate([tone(0.64), np.zeros((1, int(0.7 * RATE)), np.float32), tone(1.0)], axis=1)
    cuts = cut(gap, SMALL)
    assert dict(cuts.skipped) == {"silent": 1}
    assert len(cuts.pieces) == 2


@pytest.mark.parametrize(("bpm", "first_s"), [(93.75, 0.3), (100.0, 0.05), (87.3, 1.13)])
@pytest.mark.parametrize("known", [True, False])
def test_bars_are_cut_on_downbeats(bpm: float, first_s: float, known: bool) -> None:
    sound = clicks(bpm, 33, first_s=first_s)
    cuts = cut(sound, CuttingRecipe(bars=2, bpm=bpm if known else None))
    assert len(cuts.pieces) == 4
    for number, piece in enumerate(cuts.pieces):
        assert piece.start / RATE == pytest.approx(first_s + number * 8 * 60 / bpm, abs=0.015)
        assert piece.length / RATE == pytest.approx(8 * 60 / bpm, rel=0.004)
        assert piece.beats == 8


def test_noise_without_a_beat_gives_no_bars() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 10 * RATE)).astype(np.float32)
    assert find_beats(noise, bpm=None, beats_a_bar=4) is None
    assert dict(cut(noise, CuttingRecipe(bars=2)).skipped) == {"without a clear beat": 1}


def test_bars_that_would_stretch_too_far_are_counted() -> None:
    cuts = cut(clicks(150.0, 33), CuttingRecipe(bars=2, bpm=150.0))
    assert not cuts.pieces
    assert dict(cuts.skipped).keys() == {"too fast or slow for the picture"}


def test_stretched_bars_put_every_beat_on_its_column() -> None:
    recipe = CuttingRecipe(SpectrogramParams(bands=64), bars=2, bpm=100.0)
    sound = clicks(100.0, 17)
    mel = mel_of_piece(sound, cut(sound, recipe).pieces[0], recipe)
    assert mel.shape == (1, 64, 512)
    level = mel[0].sum(axis=0)
    # Two bars of 4.8 s on 512 columns: a beat is 64 columns, whatever the tempo was.
    for beat in range(8):
        near = np.arange(beat * 64 - 10, beat * 64 + 15) % 512
        far = np.arange(beat * 64 + 24, beat * 64 + 50) % 512
        assert level[near].max() > 5 * level[far].max()


def test_a_piece_looks_as_it_does_in_the_whole_picture() -> None:
    from riffusion_rt.spectrogram import mel_spectrogram

    rng = np.random.default_rng(1)
    sound = rng.normal(0, 0.1, (1, 2 * RATE)).astype(np.float32)
    whole = mel_spectrogram(sound, SMALL.params)
    piece = Piece(64 * 441.0, 64 * 441.0)
    np.testing.assert_allclose(mel_of_piece(sound, piece, SMALL), whole[:, :, 64:128], rtol=1e-4, atol=1e-2)


def test_loops_fill_the_picture_and_are_turned_by_whole_beats(tmp_path: Path) -> None:
    recipe = replace(SMALL, loops=True, shifts=3, bpm=93.75 * 4)
    with pytest.raises(RequestError, match="bpm"):
        recipe.check()
    recipe = replace(recipe, bpm=187.5)
    write_audio(tmp_path / "audio" / "drums" / "half.wav", clicks(187.5, 1)[:, : int(0.32 * RATE)], RATE)
    made(tmp_path / "audio", tmp_path / "data", DatasetRecipe(recipe, held_out=0.0))
    rows = listing(tmp_path / "data")
    assert [row["turned_columns"] for row in rows] == [0]  # A loop of one beat has no other beat to begin on.
    assert turns(Piece(0, 1, True, 1, 4), recipe) == (16, 32, 48)
    assert turns(Piece(0, 1, False), recipe) == ()
    with Image.open(tmp_path / "data" / "train" / str(rows[0]["file_name"])) as image:
        pixels = np.asarray(image)[:, :, 0]
    np.testing.assert_allclose(pixels[:, :32], pixels[:, 32:], atol=2)


def test_turned_copies_are_rolled_pictures(tmp_path: Path) -> None:
    write_audio(tmp_path / "audio" / "drums" / "a.wav", clicks(93.75, 17), RATE)
    recipe = CuttingRecipe(SpectrogramParams(bands=32), bars=2, bpm=93.75, shifts=1)
    made(tmp_path / "audio", tmp_path / "data", DatasetRecipe(recipe, held_out=0.0))
    rows = listing(tmp_path / "data")
    assert [row["turned_columns"] for row in rows] == [0, 256, 0, 256]
    plain, copy = (
        np.asarray(Image.open(tmp_path / "data" / "train" / str(row["file_name"]))) for row in rows[:2]
    )
    np.testing.assert_array_equal(copy, np.roll(plain, -256, axis=1))


def test_shifts_are_for_loops_only() -> None:
    with pytest.raises(RequestError, match="loops"):
        replace(SMALL, shifts=2).check()


def test_stereo_keeps_left_in_green_and_right_in_blue(tmp_path: Path) -> None:
    sound = np.concatenate([tone(0.7, 300), tone(0.7, 3000)])
    write_audio(tmp_path / "audio" / "duo" / "a.wav", sound, RATE)
    recipe = replace(SMALL, params=replace(STEREO_PARAMS, bands=32))
    made(tmp_path / "audio", tmp_path / "data", DatasetRecipe(recipe, held_out=0.0))
    [row] = listing(tmp_path / "data")
    with Image.open(tmp_path / "data" / "train" / str(row["file_name"])) as image:
        assert params_from_exif(image).stereo
        pixels = np.asarray(image).astype(int)
    left, right = (int(np.argmin(pixels[:, 32, channel])) for channel in (1, 2))
    assert not pixels[:, :, 0].any()
    assert left > right  # Low is at the bottom.


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(recordings: Path, tmp_path: Path) -> None:
    sources = CaptionSources(recordings)
    files = sorted(recordings.rglob("*.wav"))
    running = make_dataset(files, tmp_path / "data", sources, DatasetRecipe(SMALL))
    for _ in range(4):
        next(running)
    running.close()
    (tmp_path / "data" / "train" / ".x.png.abc.part").write_bytes(b"half")
    done = made(recordings, tmp_path / "data", DatasetRecipe(SMALL))
    assert sum(each.kept for each in done) >= 4
    made(recordings, tmp_path / "whole", DatasetRecipe(SMALL))
    for split in ("train", "test"):
        assert listing(tmp_path / "data", split) == listing(tmp_path / "whole", split)
    assert not list((tmp_path / "data").rglob("*.part"))


def test_recordings_that_went_take_their_pictures_along(recordings: Path, tmp_path: Path) -> None:
    made(recordings, tmp_path / "data", DatasetRecipe(SMALL))
    before = {row["file_name"] for row in listing(tmp_path / "data")}
    (recordings / "piano" / "01.wav").unlink()
    done = made(recordings, tmp_path / "data", DatasetRecipe(SMALL))
    assert all(each.kept for each in done)
    left = {p.name for p in (tmp_path / "data" / "train").glob("*.png")}
    assert left < before or not any("01-" in name for name in before)
    assert left == {row["file_name"] for row in listing(tmp_path / "data")}


def test_other_settings_are_refused(recordings: Path, tmp_path: Path) -> None:
    made(recordings, tmp_path / "data", DatasetRecipe(SMALL))
    with pytest.raises(OutputError, match="other settings"):
        made(recordings, tmp_path / "data", DatasetRecipe(replace(SMALL, columns=32)))
    with pytest.raises(OutputError, match="no data set"):
        made(recordings, recordings, DatasetRecipe(SMALL))


def test_the_verb_names_bad_files_and_makes_the_rest(recordings: Path, tmp_path: Path) -> None:
    (recordings / "piano" / "broken.wav").write_bytes(b"RIFF nothing")
    options = ["--columns", "64", "--bands", "32", "--json"]
    run = CliRunner().invoke(main, ["dataset", str(recordings), "-o", str(tmp_path / "data"), *options])
    assert run.exit_code == 0, run.output
    assert "broken.wav" in run.stderr
    report = json.loads(run.stdout)
    assert sum(report["recordings"].values()) == 12
    assert len(report["failed"]) == 1


@pytest.mark.parametrize("content", [b"", None])
def test_the_verb_fails_only_if_nothing_is_usable(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "audio").mkdir()
    if content is not None:
        (tmp_path / "audio" / "a.wav").write_bytes(content)
    run = CliRunner().invoke(main, ["dataset", str(tmp_path / "audio"), "-o", str(tmp_path / "data")])
    assert run.exit_code == 2
    assert run.stderr.startswith("riffusion-rt: ")


def test_making_a_data_set_needs_no_torch(tmp_path: Path) -> None:
    write_audio(tmp_path / "audio" / "piano" / "a.wav", tone(0.7), RATE)
    code = (
        "import sys; from riffusion_rt.cli import main\n"
        f"main(['dataset', {os.fspath(tmp_path / 'audio')!r}, '-o', {os.fspath(tmp_path / 'data')!r},"
        " '--columns', '64', '--bands', '32', '-q', '--held-out', '0'], standalone_mode=False)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(listing(tmp_path / "data")) == 1


def test_hugging_face_reads_it(recordings: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package datasets")
    made(recordings, tmp_path / "data", DatasetRecipe(SMALL, held_out=0.4))
    read = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "data"), cache_dir=str(tmp_path / "cache")
    )
    assert set(read) == {"train", "test"}
    assert read["train"].num_rows == len(listing(tmp_path / "data"))
    assert read["train"][0]["image"].size == (64, 32)
    assert read["train"][0]["text"] in {"piano", "church bells"}
