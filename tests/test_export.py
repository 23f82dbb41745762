"""A diffusers checkpoint becomes a bundle: near to torch, one set of weights, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from riffusion_engine.errors import ExportError, OutputError
from riffusion_engine.manifest import Manifest
from riffusion_engine.session import open_session
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.bundle import ExportProgress, export_bundle
from riffusion_export.checkpoint import (
    V1_DEFAULTS,
    VAE_PARTS,
    checkpoint_from_bundle,
    load_autoencoder,
    load_checkpoint,
    read_facts,
)
from riffusion_export.parity import relative_l2
from riffusion_export.toy import write_toy_checkpoint

GRAPHS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
LARGEST_CONSTANT = 1024
"""Bytes that a graph may keep of any one constant: the timestep's frequencies, not weights."""


@pytest.fixture
def checkpoint(toy_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint of one's own to change."""
    return shutil.copytree(toy_checkpoint, tmp_path / "checkpoint")


def _export(checkpoint: Path, output: Path, **options: Any) -> list[ExportProgress]:
    return list(export_bundle(checkpoint, output, **options))


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_was_measured_against_torch(name: str, toy_bundle: Path) -> None:
    graph = Manifest.read(toy_bundle).graph(name)
    assert set(graph.parity) == {"batch 1", "batch 3"}
    assert 0 < max(graph.parity.values()) < 1e-5


def test_a_session_predicts_what_diffusers_predicts(toy_bundle: Path, toy_checkpoint: Path) -> None:
    """The same as the parity in the manifest, through other code: diffusers from the checkpoint, our own session."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(toy_checkpoint / "unet").half().float().eval()
    draw = torch.Generator().manual_seed(5)
    sample = torch.randn(5, 4, 8, 8, generator=draw)
    states = torch.randn(5, 77, 32, generator=draw)
    steps = torch.tensor([1.0, 250.5, 500.0, 750.0, 999.0])
    with torch.no_grad():
        expected = unet(sample, steps, states).sample.numpy()
    feeds = {"sample": sample.numpy(), "timestep": steps.numpy(), "encoder_hidden_states": states.numpy()}
    with open_session(
        toy_bundle, Manifest.read(toy_bundle).graph("unet"), device="cpu", threads=1
    ) as session:
        assert relative_l2(session.run(feeds)["out_sample"], expected) < 1e-5


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_keep_no_weights_of_their_own(name: str, toy_bundle: Path) -> None:
    graph = onnx.load(toy_bundle / name / "model.onnx", load_external_data=False).graph
    inside = [
        tensor for tensor in graph.initializer if tensor.data_type in FLOATS and not tensor.external_data
    ]
    outside = [tensor for tensor in graph.initializer if tensor.external_data]
    assert outside
    assert all(tensor.ByteSize() < LARGEST_CONSTANT for tensor in inside)
    for tensor in outside:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert entries["location"].endswith(".safetensors")
        assert (toy_bundle / name / entries["location"]).is_file()


def test_initializers_bear_the_names_of_the_weights(toy_bundle: Path) -> None:
    from safetensors import safe_open

    graph = onnx.load(toy_bundle / "unet" / "model.onnx").graph
    loaded = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    with safe_open(toy_bundle / "unet" / "diffusion_pytorch_model.safetensors", "np") as weights:
        shared = [key for key in weights.keys() if key in loaded]  # noqa: SIM118 (no mapping)
        assert len(shared) > 0.7 * len(list(weights.keys()))  # Equal ones, such as zero biases, are merged.
        for key in shared:
            np.testing.assert_array_equal(loaded[key], weights.get_tensor(key))


def test_attention_stays_whole_and_group_norm_becomes_what_backends_have(toy_bundle: Path) -> None:
    kinds = {node.op_type for node in onnx.load(toy_bundle / "unet" / "model.onnx").graph.node}
    assert {"Attention", "InstanceNormalization"} <= kinds
    assert not kinds & {"Softmax", "GroupNormalization"}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_carries_no_trace_of_the_machine_that_made_it(name: str, toy_bundle: Path) -> None:
    raw = (toy_bundle / name / "model.onnx").read_bytes()
    for trace in (b"site-packages", str(Path(__file__).parents[1]).encode(), b".py"):
        assert trace not in raw


def test_only_the_batch_and_the_prompt_have_a_free_size(toy_bundle: Path) -> None:
    free = {
        axis
        for graph in Manifest.read(toy_bundle).graphs.values()
        for spec in (*graph.inputs, *graph.outputs)
        for axis in spec.shape
        if isinstance(axis, str)
    }
    assert free == {"batch", "timestep_batch", "tokens"}


def test_the_bundle_fits_its_manifest(toy_bundle: Path) -> None:
    manifest = Manifest.read(toy_bundle)
    manifest.verify(toy_bundle)
    assert manifest.name == "toy-0"
    assert manifest.latent.vae_factor * manifest.latent.height == manifest.spectrogram.bands == 64
    assert manifest.source.licence == "CC0-1.0"
    assert "LICENSE" in manifest.files
    assert {"torch", "diffusers", "riffusion-rt"} <= set(manifest.exporter)


def test_diffusers_and_transformers_load_the_bundle_itself(toy_bundle: Path, toy_checkpoint: Path) -> None:
    from diffusers import StableDiffusionPipeline

    vae = load_autoencoder(toy_bundle)
    pipeline = StableDiffusionPipeline.from_pretrained(toy_bundle, vae=vae)
    original = load_checkpoint(toy_checkpoint)
    for part, network in (
        ("unet", original.unet),
        ("text_encoder", original.text_encoder),
        ("vae", original.autoencoder),
    ):
        loaded = getattr(pipeline, part).state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(loaded[key].float(), value.half().float()), (part, key)


def test_a_bundle_becomes_an_ordinary_checkpoint_again(toy_bundle: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    checkpoint = tmp_path / "checkpoint"
    checkpoint_from_bundle(toy_bundle, checkpoint)
    assert not list(checkpoint.rglob("*.onnx"))
    assert StableDiffusionPipeline.from_pretrained(checkpoint).vae is not None
    again, source = load_checkpoint(checkpoint), load_checkpoint(toy_bundle)
    assert (again.facts, again.latent) == (source.facts, source.latent)
    for key, value in source.autoencoder.state_dict().items():
        assert torch.equal(again.autoencoder.state_dict()[key].float(), value)


def test_a_bundle_is_not_unpacked_over_something_else(toy_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="there already"):
        checkpoint_from_bundle(toy_bundle, tmp_path)
    with pytest.raises(ExportError, match="not a bundle"):
        checkpoint_from_bundle(tmp_path, tmp_path / "new")


def test_float16_replaces_an_older_bundle_and_tells_how_far_it_is(
    checkpoint: Path, toy_bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = shutil.copytree(toy_bundle, tmp_path / "bundle")
    (output / "stale").touch()
    (checkpoint / "tokenizer" / "tokenizer.json").unlink()
    progress = _export(checkpoint, output, precision="float16", name="half")

    assert capfd.readouterr() == ("", "")
    assert [step.stage for step in progress] == ["weights", *GRAPHS, "hashes", "done"]
    fractions = [step.fraction for step in progress]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)

    manifest = Manifest.read(output)
    manifest.verify(output)
    assert not (output / "stale").exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"checkpoint", "bundle"}
    assert manifest.name == "half"
    kinds = {node.op_type for node in onnx.load(output / "unet" / "model.onnx").graph.node}
    assert {"Attention", "GroupNormalization"} <= kinds  # Whole, for GPUs to fuse.
    vocabularies = [
        json.loads((bundle / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
        for bundle in (toy_bundle, output)
    ]
    assert vocabularies[0] == vocabularies[1]
    for name, graph in manifest.graphs.items():
        assert graph.compute_dtype == graph.weights_dtype == "float16"
        floats = {spec.name: spec.dtype for spec in graph.inputs if spec.dtype.startswith("float")}
        assert set(floats.values()) <= {"float16", "float32"}
        assert floats.get("timestep", "float32") == "float32"
        assert 1e-5 < max(graph.parity.values()) < 1e-2, name


def test_a_graph_too_far_from_torch_is_refused_and_nothing_is_left(
    toy_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="away from torch"):
        _export(toy_checkpoint, tmp_path / "bundle", parity_limit=1e-12)
    assert not list(tmp_path.iterdir())


def test_an_export_given_up_leaves_nothing(toy_checkpoint: Path, tmp_path: Path) -> None:
    steps = export_bundle(toy_checkpoint, tmp_path / "bundle")
    assert [next(steps).stage, next(steps).stage] == ["weights", "text_encoder"]
    steps.close()
    assert not list(tmp_path.iterdir())


def _drop(name: str) -> Callable[[Path], None]:
    def damage(checkpoint: Path) -> None:
        path = checkpoint / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _truncate_unet(checkpoint: Path) -> None:
    path = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _call_it_sdxl(checkpoint: Path) -> None:
    (checkpoint / "text_encoder_2").mkdir()


def _name_another_class(checkpoint: Path) -> None:
    _edit(checkpoint / "unet" / "config.json", _class_name="FluxTransformer2DModel")


def _break_config(checkpoint: Path) -> None:
    (checkpoint / "unet" / "config.json").write_text("{")


def _state_wrong_bands(checkpoint: Path) -> None:
    _edit(checkpoint / "spectrogram.json", bands=512)


def _state_nonsense(checkpoint: Path) -> None:
    _edit(checkpoint / "spectrogram.json", bands="many")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_drop("unet"), "no unet/config.json"),
        (_drop("vae/config.json"), "no vae/config.json"),
        (_drop("scheduler"), "scheduler"),
        (_drop("tokenizer"), "no tokenizer"),
        (_drop("text_encoder/model.safetensors"), "text_encoder cannot be loaded"),
        (_drop("tokenizer/vocab.json"), None),
        (_truncate_unet, "unet cannot be loaded"),
        (_call_it_sdxl, "SDXL"),
        (_name_another_class, "FluxTransformer2DModel"),
        (_break_config, "cannot be read"),
        (_state_wrong_bands, "64 rows"),
        (_state_nonsense, "spectrogram.json cannot be read"),
    ],
)
def test_a_checkpoint_that_cannot_be_exported_says_why(
    damage: Callable[[Path], None], said: str | None, checkpoint: Path, tmp_path: Path
) -> None:
    damage(checkpoint)
    steps = export_bundle(checkpoint, tmp_path / "bundle")
    if said is None:  # A tokenizer.json alone is enough.
        assert [next(steps).stage, next(steps).stage] == ["weights", "text_encoder"]
        steps.close()
    else:
        with pytest.raises(ExportError, match=said) as caught:
            list(steps)
        assert "\n" not in str(caught.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"checkpoint"}


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere"):
        _export(tmp_path / "nowhere", tmp_path / "bundle")


@pytest.mark.parametrize(
    "options",
    [{"weights": "int8"}, {"precision": "bfloat16"}, {"weights": "float32", "precision": "float16"}],
)
def test_unknown_precisions_are_refused(
    options: dict[str, str], toy_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError):
        _export(toy_checkpoint, tmp_path / "bundle", **options)


def test_what_is_not_a_bundle_is_never_replaced(toy_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "cat.jpg").touch()
    file = tmp_path / "file"
    file.touch()
    for output in (folder, file, toy_checkpoint):
        with pytest.raises(ExportError):
            _export(toy_checkpoint, output)
    assert (folder / "cat.jpg").exists()
    assert file.exists()


def test_a_place_that_cannot_be_written_is_an_output_error(toy_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError) as caught:
        _export(toy_checkpoint, tmp_path / "file" / "bundle")
    assert "-o BUNDLE" in caught.value.hint


def test_a_checkpoint_that_says_nothing_gets_the_first_models_numbers(checkpoint: Path) -> None:
    (checkpoint / "spectrogram.json").unlink()
    facts = read_facts(checkpoint)
    assert facts.spectrogram == SpectrogramParams()
    assert facts.defaults == V1_DEFAULTS
    assert (facts.name, facts.licence) == ("checkpoint", "unknown")


def test_a_trainers_facts_are_taken_over(checkpoint: Path) -> None:
    stated = {"name": "riff", "licence": "MIT", "stereo": True, "f_max": 20_000, "defaults": {"steps": 8}}
    (checkpoint / "riffusion_train.json").write_text(json.dumps(stated))
    facts = read_facts(checkpoint)
    assert (facts.name, facts.licence) == ("riff", "MIT")
    assert facts.spectrogram == SpectrogramParams(stereo=True, f_max=20_000)
    assert (facts.defaults.steps, facts.defaults.guidance) == (8, V1_DEFAULTS.guidance)


def test_the_halves_of_the_autoencoder_make_a_whole(toy_checkpoint: Path) -> None:
    keys = load_autoencoder(toy_checkpoint).state_dict().keys()
    for key in keys:
        assert sum(key.startswith(prefixes) for prefixes in VAE_PARTS.values()) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_are_found_by_value_whatever_the_exporter_made_of_them(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """A linear layer over three axes is exported with its weight transposed and renamed."""
    import onnx_ir
    import onnxruntime
    from safetensors.torch import save_file

    from riffusion_export.checkpoint import quiet
    from riffusion_export.weights import point_into_safetensors

    torch.manual_seed(0)
    layer = nn.Linear(48, 32).to(dtype).float().eval()
    weights = tmp_path / "odd offset.safetensors"
    save_file(
        {"a": torch.ones(3, dtype=dtype), **{k: v.to(dtype) for k, v in layer.state_dict().items()}}, weights
    )
    example = torch.randn(2, 5, 48)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(layer, (example,), dynamo=True, opset_version=23, verbose=False)
    placement = point_into_safetensors(program.model, weights)
    onnx_ir.save(program.model, tmp_path / "model.onnx")
    assert placement.inside < LARGEST_CONSTANT
    assert placement.outside == sum(value.numel() * dtype.itemsize for value in layer.state_dict().values())
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    assert relative_l2(out, layer(example).detach().numpy()) < 1e-6


def test_a_toy_is_the_same_for_the_same_seed(toy_checkpoint: Path, tmp_path: Path) -> None:
    size = sum(path.stat().st_size for path in toy_checkpoint.rglob("*") if path.is_file())
    assert size < 2_000_000
    for name, seed, same in (("again", 0, True), ("other", 1, False)):
        write_toy_checkpoint(tmp_path / name, seed)
        path = "unet/diffusion_pytorch_model.safetensors"
        assert ((tmp_path / name / path).read_bytes() == (toy_checkpoint / path).read_bytes()) == same
