"""inspect promises to read back what the other verbs wrote, and the command that makes a clip again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.audio_file import write_audio
from riffusion_rt.cli import main
from riffusion_rt.cli.inspect_file import regenerate_command
from riffusion_rt.spectrogram_image import save_png

REQUEST = {"prompt": "-- funky 'piano'", "seed": 7, "guidance": 6.5, "negative_prompt": "", "steps": 20}
METADATA = {"model": "riffusion-mini", "request": json.dumps(REQUEST), "title": "-- funky 'piano'"}


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


def document(*arguments: str | Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(run("inspect", *arguments, "--json").stdout)
    return content


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "clip.png"
    image = Image.fromarray(np.full((512, 100, 3), 200, np.uint8))
    save_png(image, path, SpectrogramParams(f_max=8000), 3e7, METADATA)
    return path


def test_a_picture_tells_its_parameters_and_its_request(picture: Path) -> None:
    found = document(picture)
    assert (found["kind"], found["width"], found["height"], found["duration_s"]) == ("picture", 100, 512, 1.0)
    assert found["spectrogram"]["f_max"] == 8000
    assert found["max_value"] == 3e7
    assert found["metadata"] == {**METADATA, "request": REQUEST}
    lines = run("inspect", picture).stdout.splitlines()
    assert "  f_max: 8000" in lines
    assert "    seed: 7" in lines


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_every_kind_of_recording_tells_its_request(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip{suffix}"
    write_audio(path, np.zeros((1, 44_100), np.float32), 44_100, METADATA)
    found = document(path)
    assert (found["kind"], found["sample_rate"], found["channels"]) == ("recording", 44_100, 1)
    assert found["samples"] == pytest.approx(44_100, abs=3000 if suffix == ".mp3" else 0)
    assert found["metadata"]["request"] == REQUEST
    assert found["again"] == regenerate_command(REQUEST, "riffusion-mini")


def test_the_command_that_makes_it_again_survives_the_shell() -> None:
    words = shlex.split(regenerate_command(REQUEST, "riffusion-mini"))
    assert words[:2] == ["riffusion-rt", "generate"]
    assert words[-2:] == ["--", REQUEST["prompt"]]
    assert words[words.index("--seed") + 1] == "7"
    assert words[words.index("--guidance") + 1] == "6.5"
    assert "--negative" not in words


def test_a_foreign_recording_is_described_without_a_request(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros((2, 4410), np.float32), 44_100)
    found = document(tmp_path / "a.wav")
    assert (found["channels"], found["duration_s"], found["metadata"]) == (2, 0.1, {})
    assert "again" not in found


def test_a_request_that_is_no_json_is_shown_as_it_is(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros((1, 4410), np.float32), 44_100, {"request": "{broken"})
    found = document(tmp_path / "a.wav")
    assert found["metadata"] == {"request": "{broken"}
    assert "again" not in found


def test_a_bundle_tells_its_manifest(toy_bundle: Path) -> None:
    found = document(toy_bundle)
    assert (found["kind"], found["verified"]) == ("bundle", True)
    assert set(found["graphs"]) >= {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    assert document(toy_bundle / "riffusion.json")["name"] == found["name"]
    assert f"name: {found['name']}" in run("inspect", toy_bundle).stdout.splitlines()


def test_what_cannot_be_described_is_one_line(tmp_path: Path, picture: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:200])
    for path in (tmp_path / "absent", tmp_path / "text.txt", tmp_path / "cut.png", tmp_path):
        result = run("inspect", path, code=2)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
