"""extend promises the recording and so many seconds after it, and a command that makes the same again."""

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
    """An empty folder but for a recording, and the current one."""
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).standard_normal((1, 44_100)).astype(np.float32) / 10
    write_audio(tmp_path / "a.wav", noise, 44_100)
    return tmp_path


def test_so_many_seconds_follow_and_can_be_made_again(folder: Path, toy_bundle: Path) -> None:
    run("extend", "a.wav", "bells", "--duration", "0.7", *QUICK, "--model", toy_bundle, "-q")
    assert read_audio(folder / "a-extended-0.wav")[0].shape == (1, 44_100 + 30_870)
    words = shlex.split(json.loads(run("inspect", "a-extended-0.wav", "--json").stdout)["again"])[1:]
    words[words.index("--model") + 1] = str(toy_bundle)
    run(*words[:1], "-o", "d.wav", "--threads", "1", *words[1:])
    assert (folder / "a-extended-0.wav").read_bytes() == (folder / "d.wav").read_bytes()


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("duration_s must be", ("a.wav", "--duration", "0")),
        ("no file absent.wav", ("absent.wav",)),
        ("as .aac", ("a.wav", "-o", "x.aac")),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    folder: Path, toy_bundle: Path, said: str, arguments: tuple[str, ...]
) -> None:
    result = run("extend", *arguments, *QUICK, "--model", toy_bundle, code=2)
    assert said.lower() in result.stderr.lower()
    assert result.stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["a.wav"]
