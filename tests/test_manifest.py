"""riffusion.json: typed, versioned, and checked against the files of its bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from riffusion_engine.errors import BundleError, OutputError
from riffusion_engine.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    FileSpec,
    GraphSpec,
    LatentSpec,
    Manifest,
    SamplingDefaults,
    SourceSpec,
    TensorSpec,
    file_spec,
)
from riffusion_engine.spectrogram_params import SpectrogramParams


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle of two small files, and a manifest that fits them."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.onnx").write_bytes(b"a graph")
    (tmp_path / "LICENSE").write_bytes(b"free")
    paths = ("unet/model.onnx", "LICENSE")
    Manifest(
        name="tiny",
        graphs={
            "unet": GraphSpec(
                path="unet/model.onnx",
                inputs=(TensorSpec(name="sample", dtype="float32", shape=("batch", 4, 8, 8)),),
                outputs=(TensorSpec(name="out_sample", dtype="float32", shape=("batch", 4, 8, 8)),),
                weights_dtype="float16",
                compute_dtype="float32",
                parity={"batch 1": 1e-6},
            )
        },
        files={path: file_spec(tmp_path / path) for path in paths},
        latent=LatentSpec(channels=4, height=8, width=8, scale=0.18215, shift=0.0, vae_factor=8),
        spectrogram=SpectrogramParams(bands=64, stereo=True),
        defaults=SamplingDefaults(sampler="ddim", steps=20, guidance=7.0, strength=0.75),
        source=SourceSpec(checkpoint="tiny", licence="CC0-1.0"),
        exporter={"torch": "2.13.0"},
    ).write(tmp_path)
    return tmp_path


def _edit(bundle: Path, **changes: Any) -> None:
    path = bundle / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_manifest_reads_back_as_it_was_written(bundle: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(bundle)
    assert manifest.format_version == FORMAT_VERSION
    assert manifest.graphs["unet"].inputs[0].shape == ("batch", 4, 8, 8)
    assert manifest.spectrogram == SpectrogramParams(bands=64, stereo=True)
    copy = tmp_path / "copy"
    manifest.write(copy)
    assert Manifest.read(copy) == manifest


def test_a_sound_bundle_passes_every_check(bundle: Path) -> None:
    Manifest.read(bundle).verify(bundle)


def test_fields_of_newer_writers_are_passed_over(bundle: Path) -> None:
    _edit(bundle, mood="sunny")
    assert Manifest.read(bundle).name == "tiny"


def test_a_manifest_cannot_be_changed(bundle: Path) -> None:
    with pytest.raises(AttributeError):
        Manifest.read(bundle).name = "other"  # type: ignore[misc]


def _remove(bundle: Path) -> None:
    (bundle / "unet" / "model.onnx").unlink()


def _truncate(bundle: Path) -> None:
    (bundle / "unet" / "model.onnx").write_bytes(b"a gra")


def _lengthen(bundle: Path) -> None:
    (bundle / "unet" / "model.onnx").write_bytes(b"a graph and more")


def _alter(bundle: Path) -> None:
    (bundle / "unet" / "model.onnx").write_bytes(b"a grape")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_remove, "missing"), (_truncate, "truncated"), (_lengthen, "longer"), (_alter, "altered")],
)
def test_damage_is_named_with_its_file(damage: Any, said: str, bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    damage(bundle)
    with pytest.raises(BundleError, match=said) as caught:
        manifest.verify(bundle)
    assert "unet/model.onnx" in caught.value.message
    assert "riffusion-rt export" in caught.value.hint


def test_sizes_alone_can_be_checked(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    _alter(bundle)
    manifest.verify(bundle, hashes=False)
    _truncate(bundle)
    with pytest.raises(BundleError, match="truncated"):
        manifest.verify(bundle, hashes=False)


def test_a_newer_format_asks_for_an_upgrade(bundle: Path) -> None:
    _edit(bundle, format_version=FORMAT_VERSION + 1, latent="of another kind")
    with pytest.raises(BundleError, match=f"format version {FORMAT_VERSION + 1}") as caught:
        Manifest.read(bundle)
    assert "pip install -U riffusion-rt" in caught.value.hint


def test_an_older_format_asks_for_a_new_export(bundle: Path) -> None:
    _edit(bundle, format_version=0)
    with pytest.raises(BundleError, match="format version 0") as caught:
        Manifest.read(bundle)
    assert "riffusion-rt export" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", "\x00\xff", '{"format_version": "one"}', '{"format_version": 1}'],
)
def test_what_is_not_a_manifest_is_refused_in_one_line(text: str, bundle: Path) -> None:
    (bundle / MANIFEST_NAME).write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match=r"riffusion\.json") as caught:
        Manifest.read(bundle)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"latent": {"channels": 0, "height": 8, "width": 8, "scale": 1.0, "shift": 0.0, "vae_factor": 8}},
        {"name": 7},
        {"files": {"LICENSE": {"sha256": "abc", "size": 4}}},
        {"files": {"LICENSE": {"sha256": "0" * 64, "size": -1}}},
        {"spectrogram": {"bands": "many"}},
    ],
)
def test_values_of_the_wrong_kind_are_refused(changes: dict[str, Any], bundle: Path) -> None:
    _edit(bundle, **changes)
    with pytest.raises(BundleError, match="not a valid manifest"):
        Manifest.read(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "unet/../../secret", "C:\\weights", ""])
def test_a_manifest_cannot_point_outside_of_its_bundle(path: str, bundle: Path) -> None:
    _edit(bundle, files={path: msgspec.to_builtins(FileSpec(sha256="0" * 64, size=0))})
    with pytest.raises(BundleError, match="outside of the bundle"):
        Manifest.read(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no riffusion\.json") as caught:
        Manifest.read(tmp_path)
    assert f"riffusion-rt export {tmp_path}" in caught.value.hint


def test_a_missing_folder_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle folder"):
        Manifest.read(tmp_path / "nowhere")


def test_a_graph_that_is_not_there_is_named(bundle: Path) -> None:
    with pytest.raises(BundleError, match="no vocoder graph") as caught:
        Manifest.read(bundle).graph("vocoder")
    assert "unet" in caught.value.message


def test_a_place_that_cannot_be_written_is_an_output_error(bundle: Path) -> None:
    with pytest.raises(OutputError):
        Manifest.read(bundle).write(bundle / "LICENSE")
