"""generate promises a clip and its picture, the same for the same words, or one line that says why not."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from riffusion_rt.audio_file import read_audio
from riffusion_rt.cli import main
from riffusion_rt.open_model import CLIP_PRESET
from riffusion_rt.spectrogram_image import load_image

QUICK = ("--steps", "2", "--threads", "1", "--device", "cpu")


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def generate(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the verb with the toy model in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str | Path, code: int = 0) -> Result:
        return run("generate", *arguments, *QUICK, "--model", toy_bundle, code=code)

    return go


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_prompt_becomes_sound_and_its_picture(generate: Callable[..., Result], tmp_path: Path) -> None:
    result = generate("Funky piano!")
    assert written(tmp_path) == ["funky-piano-0.png", "funky-piano-0.wav"]
    assert result.stderr == ""
    assert "funky-piano-0.wav" in result.stdout
    assert "seed 0" in result.stdout
    samples, rate = read_audio(tmp_path / "funky-piano-0.wav")
    picture = load_image(tmp_path / "funky-piano-0.png")
    assert samples.shape[1] == picture.width * 441
    assert rate == 44_100


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    generate: Callable[..., Result], tmp_path: Path
) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        generate("bells", "-o", f"{name}.flac", "--seed", seed)
    for suffix in ("flac", "png"):
        a, b, c = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in "abc")
        assert a == b
        assert a != c


def test_count_takes_the_seeds_that_follow(generate: Callable[..., Result], tmp_path: Path) -> None:
    content = json.loads(generate("bells", "-o", "b.wav", "--count", "2", "--seed", "5", "--json").stdout)
    assert [clip["seed"] for clip in content["clips"]] == [5, 6]
    assert [clip["audio"] for clip in content["clips"]] == ["b-0001.wav", "b-0002.wav"]
    assert written(tmp_path) == ["b-0001.png", "b-0001.wav", "b-0002.png", "b-0002.wav"]
    generate("bells", "-o", "six.wav", "--seed", "6")
    assert (tmp_path / "six.wav").read_bytes() == (tmp_path / "b-0002.wav").read_bytes()


def test_json_is_the_whole_standard_output(generate: Callable[..., Result], toy_bundle: Path) -> None:
    content = json.loads(generate("bells", "--json", "--sampler", "ddim").stdout)
    (clip,) = content["clips"]
    assert content["device"] == "cpu"
    assert clip["request"]["prompt"] == "bells"
    assert clip["request"]["sampler"] == "ddim"
    assert clip["duration_s"] == pytest.approx(clip["samples"] / clip["sample_rate"])
    assert {"import", "load", "total"} <= set(content["seconds"])
    assert {"text", "denoise", "decode", "phase", "write"} <= set(clip["seconds"])
    assert all(seconds >= 0 for seconds in (*content["seconds"].values(), *clip["seconds"].values()))


def test_quiet_says_nothing(generate: Callable[..., Result], tmp_path: Path) -> None:
    result = generate("bells", "-q", "-o", "a.mp3")
    assert result.output == ""
    assert written(tmp_path) == ["a.mp3", "a.png"]


def test_a_clip_is_made_again_from_what_its_file_says(
    generate: Callable[..., Result], tmp_path: Path, toy_bundle: Path
) -> None:
    generate("(bells:1.2) [x]", "-o", "a.wav", "--seed", "9", "--negative", "noise", "--guidance", "3")
    again = json.loads(run("inspect", tmp_path / "a.wav", "--json").stdout)["again"]
    words = shlex.split(again)[1:]
    words[words.index("--model") + 1] = str(toy_bundle)
    run(*words[:1], "-o", tmp_path / "b.wav", "--threads", "1", *words[1:])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_decoding_the_picture_gives_the_clip(generate: Callable[..., Result], tmp_path: Path) -> None:
    generate("bells", "-o", "a.wav")
    run("decode", tmp_path / "a.png", "-o", tmp_path / "b.wav", "--quality", CLIP_PRESET)
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], read_audio(tmp_path / "b.wav")[0])


def test_a_seed_image_steers_and_a_mask_keeps_it(generate: Callable[..., Result], tmp_path: Path) -> None:
    from PIL import Image

    generate("bells", "-o", "seed.wav")
    Image.new("L", (64, 64), 0).save(tmp_path / "keep.png")
    steered = ("--seed-image", "seed.png", "--strength", "0.5", "--seed", "1")

    def picture(name: str, *arguments: str) -> NDArray[np.uint8]:
        generate(*arguments, *steered, "-o", f"{name}.wav")
        return np.asarray(load_image(tmp_path / f"{name}.png"))

    kept = [picture(name, name, "--mask", "keep.png") for name in ("drums", "piano")]
    np.testing.assert_array_equal(kept[0], kept[1])
    assert (picture("free", "piano") != kept[1]).any()


def test_a_bundle_of_links_plays_as_the_hubs_cache_holds_it(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--techno"
    snapshot = repository / "snapshots" / "c0ffee"
    for number, path in enumerate(path for path in toy_bundle.rglob("*") if path.is_file()):
        blob, link = repository / "blobs" / str(number), snapshot / path.relative_to(toy_bundle)
        for folder in (blob.parent, link.parent):
            folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    run("generate", "bells", *QUICK, "--model", "someone/techno", "-o", tmp_path / "a.wav")
    run("generate", "bells", *QUICK, "--model", toy_bundle, "-o", tmp_path / "b.wav")
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_a_terminal_shows_a_bar_that_goes_away(
    generate: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from riffusion_rt.cli import report

    assert "step" not in generate("bells").stderr

    class Terminal:
        def __getattr__(self, name: str) -> Any:
            return getattr(sys.stderr, name)

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(report, "sys", type("system", (), {"stderr": Terminal()}))
    shown = generate("bells").stderr
    assert "2/2" in shown
    assert shown.endswith("\r")
    assert generate("bells", "-q").stderr == ""


def test_an_interrupt_leaves_nothing_behind(
    generate: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from riffusion_rt.pipeline import Riffusion

    def interrupted(self: Riffusion, request: Any) -> Any:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(Riffusion, "iterate", interrupted)
    result = generate("bells", code=130)
    assert result.output == "riffusion-rt: Interrupted\n"
    assert written(tmp_path) == []


REFUSALS: dict[str, tuple[str, ...]] = {
    "steps must be": ("--steps", "0"),
    "guidance must be": ("--guidance", "nan"),
    "seed must be": ("--seed", "-1"),
    "count must be": ("--count", "0"),
    "threads must be": ("--threads", "0"),
    "no sampler 'dpm'": ("--sampler", "dpm"),
    "A strength needs": ("--strength", "0.5"),
    "A mask needs": ("--mask", "absent.png"),
    "Cannot write audio as .aac": ("-o", "x.aac"),
    "Cannot write audio without a suffix": ("-o", "x"),
    "Not a directory": ("-o", "file/x.wav"),
    "There is no model": ("--model", "quux"),
    "Did you mean `--model riffusion-mini": ("--model", "rifusion-mini"),
    "riffusion-rt pull someone/techno": ("--model", "someone/techno"),
    "no riffusion.json": ("--model", "."),
    "absent.png does not exist": ("--seed-image", "absent.png"),
    "as a picture": ("--seed-image", "file"),
    "is not a valid integer": ("--seed", "many"),
    "quantum": ("--device", "quantum"),
}


@pytest.mark.parametrize("said", REFUSALS)
def test_bad_input_is_one_line_and_leaves_nothing_behind(
    said: str, generate: Callable[..., Result], tmp_path: Path, toy_bundle: Path
) -> None:
    (tmp_path / "file").write_text("no folder, no picture")
    result = run("generate", "bells", *QUICK, "--model", toy_bundle, *REFUSALS[said], code=2)
    _check_refused(result, said, tmp_path)


def _check_refused(result: Result, said: str, folder: Path) -> None:
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert [name for name in written(folder) if name.endswith((".wav", ".png", ".part"))] == []


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "version", "manifest"])
def test_a_damaged_bundle_is_refused(
    damage: str, toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    graph, manifest = bundle / "unet" / "model.onnx", bundle / "riffusion.json"
    if damage == "truncated":
        graph.write_bytes(graph.read_bytes()[:-10])
    elif damage == "altered":
        graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    elif damage == "missing":
        graph.unlink()
    elif damage == "version":
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**content, "format_version": 999}))
    else:
        manifest.write_text("{")
    result = run("generate", "bells", *QUICK, "--model", bundle, code=2)
    _check_refused(result, "riffusion-rt: ", tmp_path)


def test_the_installed_command_does_the_same(toy_bundle: Path, tmp_path: Path) -> None:
    arguments = ["generate", "bells", *QUICK, "--model", str(toy_bundle), "-o", "a.wav", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "riffusion_rt", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout)["clips"][0]["audio"] == "a.wav"
    assert written(tmp_path) == ["a.png", "a.wav"]
