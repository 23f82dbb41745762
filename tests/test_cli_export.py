"""export promises a bundle that plays, or one line that says what is missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from riffusion_export.lora import LoraRequest
from riffusion_rt.cli import main


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def exports(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for the exporter, which has its own tests: records what it is asked for and copies a bundle."""
    from riffusion_export import bundle

    asked: list[dict[str, Any]] = []

    def export_bundle(checkpoint: Path, output: Path, **options: Any) -> Iterator[bundle.ExportProgress]:
        asked.append({"checkpoint": checkpoint, **options})
        yield bundle.ExportProgress("unet: graph", 0.5, "the unet is tired")
        shutil.copytree(toy_bundle, output)
        yield bundle.ExportProgress("done", 1.0)

    monkeypatch.setattr(bundle, "export_bundle", export_bundle)
    return asked


def test_a_checkpoint_becomes_a_bundle(exports: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    result = run(tmp_path / "checkpoint", "-o", tmp_path / "bundle", "--json")
    content = json.loads(result.stdout)
    assert content["bundle"] == str(tmp_path / "bundle")
    assert set(content["parity"]) >= {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    assert content["bytes"] > 0
    (asked,) = exports
    assert asked == {
        "checkpoint": tmp_path / "checkpoint",
        "name": None,
        "weights": "float16",
        "precision": "float32",
        "loras": [],
        "like": None,
    }


def test_options_reach_the_exporter(exports: list[dict[str, Any]], tmp_path: Path) -> None:
    arguments = ("--name", "techno", "--precision", "unet=float16", "--weights", "float32")
    loras = ("--lora", "a.safetensors:0.5", "--lora", "b.safetensors")
    run(tmp_path, "-o", tmp_path / "b", *arguments, *loras)
    assert exports[0] | {"checkpoint": None} == {
        "checkpoint": None,
        "name": "techno",
        "precision": "unet=float16",
        "weights": "float32",
        "loras": [LoraRequest(Path("a.safetensors"), 0.5), LoraRequest(Path("b.safetensors"), 1.0)],
        "like": None,
    }


def test_a_single_file_takes_its_tokenizer_from_a_folder(
    exports: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "model.ckpt").touch()
    run(tmp_path / "model.ckpt", "--like", tmp_path, "-o", tmp_path / "b")
    assert (exports[0]["checkpoint"], exports[0]["like"]) == (tmp_path / "model.ckpt", tmp_path)


def test_a_single_file_alone_asks_for_the_first_models_settings(
    exports: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.ckpt").touch()
    result = run(tmp_path / "model.ckpt", "-o", tmp_path / "b", code=2)
    assert "riffusion-rt pull --settings-only riffusion/riffusion-model-v1" in result.stderr
    assert not exports


def test_what_the_exporter_has_to_say_is_reported(exports: list[dict[str, Any]], tmp_path: Path) -> None:
    assert "Note: the unet is tired\n" in run(tmp_path, "-o", tmp_path / "b").stdout


def test_a_checkpoint_in_the_hubs_cache_keeps_its_name(
    exports: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--techno"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    run("someone/techno", "-o", tmp_path / "b")
    assert (exports[0]["checkpoint"], exports[0]["name"]) == (snapshot, "techno")


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    from riffusion_rt.cli import export

    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    result = run(tmp_path, "-o", tmp_path / "b", code=2)
    assert result.stderr == (
        "riffusion-rt: The export needs torch. Install it with: pip install 'riffusion-rt[export,cpu]'\n"
    )


def test_what_is_no_checkpoint_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("keep me")
    for checkpoint, output in (
        ("empty", "b"),
        ("absent", "b"),
        ("full/letter.txt", "b"),
        ("empty", "full"),
        ("empty", "full/letter.txt/b"),
    ):
        result = run(tmp_path / checkpoint, "-o", tmp_path / output, code=2)
        assert result.stdout == ""
        assert result.stderr.splitlines()[-1].startswith("riffusion-rt: ")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "full", "letter.txt"]
