"""interpolate promises a walk in one piece or clip by clip, and says how each is made again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from riffusion_rt.cli import main
from riffusion_rt.spectrogram_image import load_image

QUICK = ("--steps", "2", "--threads", "1", "--device", "cpu")


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def walk(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the verb with the toy model in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str | Path, code: int = 0) -> Result:
        return run("interpolate", *arguments, *QUICK, "--model", toy_bundle, code=code)

    return go


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_prompts_become_one_piece_of_all_clips(walk: Callable[..., Result], tmp_path: Path) -> None:
    content = json.loads(walk("bells", "drums", "--count", "3", "--json").stdout)
    assert written(tmp_path) == ["bells-to-drums-0.png", "bells-to-drums-0.wav"]
    (made,) = content["clips"]
    assert made["samples"] == 3 * 64 * 441
    assert made["request"]["alphas"] == [0, 0.5, 1]


def test_a_separate_clip_is_made_again_from_what_its_file_says(
    walk: Callable[..., Result], tmp_path: Path, toy_bundle: Path
) -> None:
    per_prompt = ("--seed", "3", "--seed", "8", "--negative", "", "--negative", "x", "--weight", "2")
    walk("bells", "(funky:1.2) piano", *per_prompt, "--count", "3", "--separate", "-q", "-o", "w.flac")
    assert written(tmp_path) == [f"w-000{n}.{suffix}" for n in (1, 2, 3) for suffix in ("flac", "png")]
    again = json.loads(run("inspect", "w-0002.flac", "--json").stdout)["again"]
    words = shlex.split(again)[1:]
    words[words.index("--model") + 1] = str(toy_bundle)
    run(*words[:1], "-o", "again.flac", "--threads", "1", *words[1:])
    first, second = (np.asarray(load_image(tmp_path / f"{n}.png"), np.int16) for n in ("w-0002", "again"))
    # A batch rounds the last bits otherwise than a clip alone.
    assert np.abs(first - second).max() <= 1


def test_one_prompt_walks_from_seed_to_seed(walk: Callable[..., Result]) -> None:
    content = json.loads(walk("bells", "--seed", "1", "--seed", "4", "--alpha", "0.5", "--json").stdout)
    points = content["clips"][0]["request"]["waypoints"]
    assert [(point["prompt"], point["seed"]) for point in points] == [("bells", 1), ("bells", 4)]


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("--seed was given 3 times", ("a", "b", "--seed", "1", "--seed", "2", "--seed", "3")),
        ("no curve", ("a", "b", "--curve", "zigzag")),
        ("alphas from 0 to 1", ("a", "b", "--alpha", "1.5")),
        ("cannot be made", ("a", "b", "--count", "0")),
        ("needs a picture", ("a", "b", "--strength", "0.5")),
        ("as .aac", ("a", "b", "-o", "x.aac")),
        ("as .aac", ("a", "b", "-o", "x.aac", "--separate")),
        ("does not exist", ("a", "b", "--seed-image", "absent.png")),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    walk: Callable[..., Result], tmp_path: Path, said: str, arguments: tuple[str, ...]
) -> None:
    result = walk(*arguments, code=2)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert written(tmp_path) == []
