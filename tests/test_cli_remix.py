"""remix promises the recording's own length, and a command that makes the same again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from riffusion_rt.audio_file import read_audio, write_audio
from riffusion_rt.cli import main

QUICK = ("--steps", "2", "--threads", "1", "--device", "cpu")


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for two recordings, and the current one."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).standard_normal((2, 9_001)).astype(np.float32) / 10
    write_audio(tmp_path / "a.wav", noise, 8_000)
    write_audio(tmp_path / "b.wav", noise[:1, ::-1], 16_000)
    return tmp_path


def test_a_remix_is_named_after_its_recording_and_as_long(folder: Path, toy_bundle: Path) -> None:
    made = json.loads(run("remix", "a.wav", "Bells!", *QUICK, "--model", toy_bundle, "--json").stdout)
    assert made["clips"][0]["audio"] == "a-bells-0.wav"
    samples, rate = read_audio(folder / "a-bells-0.wav")
    assert (samples.shape, rate) == ((2, 9_001), 8_000)
    assert (folder / "a-bells-0.png").exists()


def test_a_remix_is_made_again_from_what_its_file_says(folder: Path, toy_bundle: Path) -> None:
    options = ("--to", "drums", "--with", "b.wav", "--strength", "0.5", "--seed", "3", "--negative", "x")
    run("remix", "a.wav", "bells", *options, *QUICK, "--model", toy_bundle, "-o", "c.wav", "-q")
    words = shlex.split(json.loads(run("inspect", "c.wav", "--json").stdout)["again"])[1:]
    words[words.index("--model") + 1] = str(toy_bundle)
    run(*words[:1], "-o", "d.wav", "--threads", "1", *words[1:])
    assert (folder / "c.wav").read_bytes() == (folder / "d.wav").read_bytes()


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("needs a prompt", ("a.wav",)),
        ("no file absent.wav", ("absent.wav", "bells")),
        ("strength", ("a.wav", "bells", "--strength", "0")),
        ("as .aac", ("a.wav", "bells", "-o", "x.aac")),
        ("no file absent.wav", ("a.wav", "--with", "absent.wav")),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    folder: Path, toy_bundle: Path, said: str, arguments: tuple[str, ...]
) -> None:
    result = run("remix", *arguments, *QUICK, "--model", toy_bundle, code=2)
    assert said.lower() in result.stderr.lower()
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["a.wav", "b.wav"]


def test_what_the_command_takes_for_granted_is_what_the_library_does() -> None:
    """The command does not import the library to say it."""
    from typing import get_args

    from riffusion_rt.cli.remix import command
    from riffusion_rt.remix import Method, RemixRequest

    options = {option.name: option for option in command.params}
    request = RemixRequest("a.wav", "bells")
    assert (options["strength"].default, options["method"].default) == (request.strength, request.method)
    assert tuple(options["method"].type.choices) == get_args(Method)  # type: ignore[attr-defined]
