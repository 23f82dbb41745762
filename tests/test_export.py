"""A diffusers checkpoint becomes a bundle: near to torch, one set of weights, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
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
    MODEL_WEIGHTS,
    VAE_PARTS,
    checkpoint_from_bundle,
    load_autoencoder,
    load_checkpoint,
    open_checkpoint,
)
from riffusion_export.component import STEPS, FinishedPart, Step, write_part
from riffusion_export.facts import V1_DEFAULTS, read_facts
from riffusion_export.lora import LoraRequest
from riffusion_export.parity import relative_l2
from riffusion_export.precision import parse_precisions
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
    stages = [step.stage for step in progress]
    assert stages[:5] == [*(f"text_encoder: {step}" for step in STEPS), "unet: weights"]
    assert stages[-3:] == ["vocoder", "hashes", "done"]
    assert {stage.partition(":")[0] for stage in stages[:-3]} == set(GRAPHS)
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
    assert manifest.graph("vocoder").compute_dtype == "float32"
    for name in GRAPHS:
        graph = manifest.graph(name)
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
    assert [next(steps).stage, next(steps).stage] == ["text_encoder: weights", "text_encoder: torch"]
    steps.close()
    assert not list(tmp_path.iterdir())


def test_an_export_given_up_later_goes_on_with_the_next_network(toy_checkpoint: Path, tmp_path: Path) -> None:
    def until_the_unet(**options: Any) -> tuple[list[ExportProgress], float]:
        steps = export_bundle(toy_checkpoint, tmp_path / "bundle", **options)
        seen = []
        for step in steps:
            seen.append(step)
            if step.stage == "unet: weights":
                break
        steps.close()
        (folder,) = tmp_path.iterdir()
        return seen, (folder / "text_encoder" / "model.onnx").stat().st_mtime

    first, made = until_the_unet()
    again, kept = until_the_unet()
    assert (len(first), len(again)) == (5, 2)
    assert again[0].note == "text_encoder was finished before"
    assert kept == made
    other, _ = until_the_unet(weights="float32")
    assert len(other) == 5


def test_a_network_beyond_float16_is_refused_or_stays_in_float32(checkpoint: Path, tmp_path: Path) -> None:
    """ONNX Runtime's CPU computes float16 graphs in float32 and overflows nowhere: activations show it."""
    _scale_last_norm(checkpoint, 60_000)
    with pytest.raises(ExportError, match="beyond float16") as caught:
        _write_text_encoder(checkpoint, tmp_path, "float16")
    assert "text_encoder=float32" in caught.value.hint
    steps, done = _write_text_encoder(checkpoint, tmp_path, "auto")
    assert any("computes in float32" in step.note for step in steps)
    assert done.graphs["text_encoder"].compute_dtype == "float32"
    assert done.graphs["text_encoder"].weights_dtype == "float16"


def test_weights_beyond_float16_are_refused_or_kept(checkpoint: Path, tmp_path: Path) -> None:
    _scale_last_norm(checkpoint, 1e6)
    with pytest.raises(ExportError, match="a weight of 1000000, beyond float16") as caught:
        _write_text_encoder(checkpoint, tmp_path, "float32")
    assert "--weights float32" in caught.value.hint
    _, done = _write_text_encoder(checkpoint, tmp_path, "auto")
    assert done.graphs["text_encoder"].weights_dtype == "float32"


def test_weights_that_are_not_numbers_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    _scale_last_norm(checkpoint, float("nan"))
    with pytest.raises(ExportError, match="NaN or infinite"):
        _write_text_encoder(checkpoint, tmp_path, "float32")


def test_auto_is_float16_where_it_can_be(toy_checkpoint: Path, tmp_path: Path) -> None:
    steps, done = _write_text_encoder(toy_checkpoint, tmp_path, "auto")
    assert not any(step.note for step in steps)
    assert done.graphs["text_encoder"].compute_dtype == "float16"


def test_bfloat16_takes_and_gives_float32(toy_checkpoint: Path, tmp_path: Path) -> None:
    _, done = _write_text_encoder(toy_checkpoint, tmp_path, "bfloat16")
    graph = done.graphs["text_encoder"]
    assert (graph.compute_dtype, graph.weights_dtype) == ("bfloat16", "bfloat16")
    assert {spec.dtype for spec in graph.outputs} == {"float32"}
    assert 1e-4 < max(graph.parity.values()) < 5e-2
    initializers = onnx.load(tmp_path / "text_encoder" / "model.onnx").graph.initializer
    kinds = {
        tensor.data_type for tensor in initializers if tensor.external_data or len(tensor.raw_data) > 1024
    }
    assert onnx.TensorProto.BFLOAT16 in kinds


def test_a_lora_is_fused_into_the_weights_that_are_written(toy_checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    name = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    halves = {f"{name}.lora_down.weight": torch.ones(2, 32), f"{name}.lora_up.weight": torch.ones(32, 2)}
    save_file(halves, tmp_path / "style.safetensors")
    steps = export_bundle(
        toy_checkpoint, tmp_path / "bundle", loras=[LoraRequest(tmp_path / "style.safetensors", 0.5)]
    )
    next(step for step in steps if step.stage == "unet: weights")
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    layer = "encoder.layers.0.self_attn.q_proj.weight"
    before, after = (
        next(
            value
            for key, value in load_file(path / "text_encoder" / "model.safetensors").items()
            if layer in key
        )
        for path in (toy_checkpoint, folder)
    )
    torch.testing.assert_close(after.float(), before + 1.0, atol=2e-3, rtol=0)
    steps.close()


def _write_text_encoder(checkpoint: Path, bundle: Path, precision: str) -> tuple[list[Step], FinishedPart]:
    done: list[FinishedPart] = []

    def writing() -> Iterator[Step]:
        source = open_checkpoint(checkpoint)
        done.append((yield from write_part(source, "text_encoder", bundle, parse_precisions(precision))))

    return list(writing()), done[0]


def _scale_last_norm(checkpoint: Path, scale: float) -> None:
    from safetensors.torch import load_file, save_file

    path = checkpoint / "text_encoder" / "model.safetensors"
    state = load_file(path)
    key = next(key for key in state if key.endswith("final_layer_norm.weight"))
    save_file({**state, key: torch.full_like(state[key], scale)}, path, metadata={"format": "pt"})


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
        assert next(steps).stage == "text_encoder: weights"
        steps.close()
    else:
        with pytest.raises(ExportError, match=said) as caught:
            list(steps)
        assert "\n" not in str(caught.value)
    assert {entry.name for entry in tmp_path.iterdir()} == {"checkpoint"}


def test_weights_may_be_halves_or_pickles(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = checkpoint / "unet" / MODEL_WEIGHTS
    state = load_file(plain)
    plain.unlink()
    halves = {key: value.half() for key, value in state.items()}
    save_file(halves, checkpoint / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"format": "pt"})
    loaded = open_checkpoint(checkpoint).load("unet").state_dict()
    assert all(torch.equal(loaded[key], halves[key].float()) for key in state)
    torch.save(state, checkpoint / "unet" / "diffusion_pytorch_model.bin")
    loaded = open_checkpoint(checkpoint).load("unet").state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model", "text_encoder/pytorch_model"])
def test_pickled_weights_that_hold_code_are_refused_and_not_run(
    name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    part = name.partition("/")[0]
    for path in (checkpoint / part).glob("*.safetensors"):
        path.unlink()
    torch.save({"weight": _Trap()}, checkpoint / f"{name}.bin")
    with pytest.raises(ExportError, match=f"{part} cannot be loaded"):
        open_checkpoint(checkpoint).load(part)
    assert not Path("sprung").exists()


def test_a_weight_that_is_missing_is_not_made_up(checkpoint: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part, name in (("unet", MODEL_WEIGHTS), ("text_encoder", "model.safetensors")):
        path = checkpoint / part / name
        state = load_file(path)
        state.pop(next(key for key in state if key.endswith("weight")))
        save_file(state, path, {"format": "pt"})
        with pytest.raises(ExportError, match=f"{part} cannot be loaded: it lacks"):
            open_checkpoint(checkpoint).load(part)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="nowhere"):
        _export(tmp_path / "nowhere", tmp_path / "bundle")


@pytest.mark.parametrize(
    "options",
    [{"weights": "int8"}, {"precision": "int8"}, {"weights": "float32", "precision": "float16"}],
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


def test_a_bundle_does_not_tell_where_it_was_made(toy_bundle: Path, toy_checkpoint: Path) -> None:
    told = [path for path in toy_bundle.rglob("*.json") if str(toy_checkpoint) in path.read_text()]
    assert told == []
