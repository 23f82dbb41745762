"""Finding a model promises the right folder or the next command, and never a download."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from riffusion_engine.errors import ModelNotFoundError
from riffusion_rt import models
from riffusion_rt.models import DEFAULT_MODEL, locate_checkpoint, locate_model, locate_settings


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, an empty working folder, and no network."""
    from huggingface_hub import constants

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a name lookup opened a connection")

    cache, work = tmp_path / "cache", tmp_path / "work"
    cache.mkdir()
    work.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(work)
    return cache


def _put(folder: Path, *files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).write_text("{}")
    return folder


def _put_in_cache(cache: Path, hub_id: str, *files: str) -> Path:
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    _put(repository / "refs")
    (repository / "refs" / "main").write_text("c0ffee")
    return _put(repository / "snapshots" / "c0ffee", *files)


def _error(name: str | Path) -> ModelNotFoundError:
    with pytest.raises(ModelNotFoundError) as caught:
        locate_model(name)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_default_is_the_bundle_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_BUNDLES", tmp_path / "bundles")
    assert "pip install" in _error(DEFAULT_MODEL).hint
    expected = _put(tmp_path / "bundles" / DEFAULT_MODEL, "riffusion.json")
    assert locate_model(DEFAULT_MODEL) == expected


def test_an_embedded_name_wins_over_a_folder_that_happens_to_be_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_BUNDLES", tmp_path / "bundles")
    expected = _put(tmp_path / "bundles" / DEFAULT_MODEL, "riffusion.json")
    other = _put(Path(DEFAULT_MODEL), "riffusion.json")
    assert locate_model(DEFAULT_MODEL) == expected
    assert locate_model(f"./{DEFAULT_MODEL}") == other


def test_a_bundles_folder_is_itself(tmp_path: Path) -> None:
    folder = _put(tmp_path / "mine", "riffusion.json", "model_index.json")
    assert locate_model(folder) == folder
    assert locate_model(str(folder)) == folder


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = _put(tmp_path / "mine", "riffusion.json")
    assert locate_model("~/mine") == expected


def test_a_checkpoint_without_manifest_is_answered_with_the_export_command(tmp_path: Path) -> None:
    folder = _put(tmp_path / "my checkpoint", "model_index.json")
    assert f"riffusion-rt export '{folder}' -o BUNDLE" in _error(folder).hint


def test_any_other_folder_is_no_bundle(tmp_path: Path) -> None:
    assert "no riffusion.json" in _error(tmp_path).message


def test_a_file_is_no_model(tmp_path: Path) -> None:
    _put(tmp_path, "model.ckpt")
    assert "is a file" in _error(tmp_path / "model.ckpt").message
    assert "is a file" in _error(str(tmp_path / "model.ckpt")).message


def test_a_hub_id_is_looked_up_in_the_local_cache(cache: Path) -> None:
    snapshot = _put_in_cache(cache, "someone/techno", "riffusion.json", "model_index.json")
    assert locate_model("someone/techno") == snapshot


def test_a_cached_checkpoint_is_answered_with_the_export_command(cache: Path) -> None:
    _put_in_cache(cache, "riffusion/riffusion-model-v1", "model_index.json")
    assert "riffusion-rt export riffusion/riffusion-model-v1 -o BUNDLE" in _error("riffusion-v1").hint
    assert locate_checkpoint("riffusion-v1") == locate_checkpoint("riffusion/riffusion-model-v1")
    assert locate_checkpoint(DEFAULT_MODEL) == locate_model(DEFAULT_MODEL)


def test_an_exported_folder_may_take_the_short_name_of_a_hub_model() -> None:
    folder = _put(Path("riffusion-v1"), "riffusion.json")
    assert locate_model("riffusion-v1") == folder


@pytest.mark.parametrize("name", ["someone/techno", "riffusion-v1"])
def test_what_is_not_cached_is_answered_with_the_download_command(name: str) -> None:
    assert f"riffusion-rt pull {models.HUB_MODELS.get(name, name)}" in _error(name).hint


@pytest.mark.parametrize(
    ("typed", "meant"), [("rifusion-mini", "riffusion-mini"), ("Riffusion-V1 ", "riffusion-v1")]
)
def test_a_slip_of_the_finger_is_answered_with_the_name_meant(typed: str, meant: str) -> None:
    assert f"Did you mean `--model {meant}`" in _error(typed).hint


@pytest.mark.parametrize(
    "name",
    [
        "",
        "quux",
        "a/b/c",
        "../nowhere",
        "/nowhere/at/all",
        "nowhere/",
        "a b/c",
        "~nobody/x",
        "x" * 5000,
        "a\0b",
    ],
)
def test_unknown_names_are_answered_with_what_is_known(name: str) -> None:
    assert "Known are riffusion-mini, riffusion-v1" in _error(name).hint


def test_a_checkpoint_is_a_folder_or_a_single_file(tmp_path: Path) -> None:
    folder = _put(tmp_path / "checkpoint", "model_index.json", "a.safetensors", "b.ckpt")
    for path in (folder, folder / "a.safetensors", folder / "b.ckpt"):
        assert locate_checkpoint(path) == path
        assert locate_checkpoint(str(path)) == path
    for name in (
        folder / "model_index.json",
        tmp_path / "absent.ckpt",
        "absent",
        "someone/absent",
        "./absent",
    ):
        with pytest.raises(ModelNotFoundError):
            locate_checkpoint(name)


def test_settings_are_a_folders_or_in_the_cache_without_weights(cache: Path, tmp_path: Path) -> None:
    folder = _put(tmp_path / "checkpoint", "model_index.json")
    assert locate_settings(folder) == folder
    with pytest.raises(
        ModelNotFoundError, match="riffusion-rt pull --settings-only riffusion/riffusion-model-v1"
    ):
        locate_settings("riffusion-v1")
    snapshot = _put_in_cache(cache, "riffusion/riffusion-model-v1")
    _put(snapshot / "tokenizer", "vocab.json")
    assert locate_settings("riffusion-v1") == snapshot
