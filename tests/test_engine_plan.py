"""Plans promise static shapes from the manifest, and a key that changes with everything that decides an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from riffusion_engine import engine_plan
from riffusion_engine.engine_library import ENGINE_LIBRARIES, RTX_TARGETS
from riffusion_engine.engine_plan import EngineRecipe, plan_engine, source_files
from riffusion_engine.errors import BundleError, DeviceError, RequestError
from riffusion_engine.manifest import FileSpec, Manifest

RTX = ENGINE_LIBRARIES["trt-rtx"]
TRT = ENGINE_LIBRARIES["trt"]


@pytest.fixture
def manifest(toy_bundle: Path) -> Manifest:
    return Manifest.read(toy_bundle)


def plan(manifest: Manifest, component: str = "unet", **options: Any) -> EngineRecipe:
    return plan_engine(manifest, component, RTX, **{"library_version": "1", "target": "sm89", **options})


def test_every_batch_is_a_profile_of_fixed_shapes(manifest: Manifest) -> None:
    recipe = plan(manifest, batches=(1, 2, 8))
    assert recipe.batches == (1, 2, 8)
    for batch, shapes in zip((1, 2, 8), recipe.profiles, strict=True):
        assert shapes == {
            "sample": (batch, 4, 8, 8),
            "timestep": (batch,),
            "encoder_hidden_states": (batch, 77, 32),
        }


def test_long_prompts_are_profiles_too_where_a_graph_reads_them(manifest: Manifest) -> None:
    tokens = [shapes["encoder_hidden_states"][:2] for shapes in plan(manifest, chunks=(1, 2)).profiles]
    assert tokens == [(1, 77), (2, 77), (1, 154), (2, 154)]
    assert len(plan(manifest, "vae_decoder", chunks=(1, 2)).profiles) == 2


def test_an_engine_is_built_from_the_graph_and_its_weights_and_no_settings(manifest: Manifest) -> None:
    sources = plan(manifest, "vae_decoder").sources
    assert sources == {
        path: manifest.files[path].sha256
        for path in ("vae_decoder/diffusion_pytorch_model.safetensors", "vae_decoder/model.onnx")
    }


def test_the_key_changes_with_all_that_decides_an_engine(manifest: Manifest) -> None:
    recipe = plan(manifest)
    others = [
        plan(manifest, batches=(1, 3)),
        plan(manifest, chunks=(2,)),
        plan(manifest, target="sm120"),
        plan(manifest, library_version="2"),
        plan(manifest, tf32=True),
        plan(manifest, "vae_decoder"),
        plan_engine_of_changed_weights(manifest),
        msgspec.structs.replace(recipe, system="windows"),
        msgspec.structs.replace(recipe, machine="aarch64"),
        msgspec.structs.replace(recipe, builder_version=recipe.builder_version + 1),
    ]
    assert len({recipe.key, *(other.key for other in others)}) == 1 + len(others)
    assert recipe.key == plan(manifest, batches=(2, 1, 1)).key


def plan_engine_of_changed_weights(manifest: Manifest) -> EngineRecipe:
    path = "unet/diffusion_pytorch_model.safetensors"
    files = {**manifest.files, path: FileSpec(sha256="0" * 64, size=manifest.files[path].size)}
    return plan(msgspec.structs.replace(manifest, files=files))


@pytest.mark.parametrize("batches", [(), (0,), (1, 257), tuple(range(1, 34))])
def test_batches_out_of_range_are_refused(batches: tuple[int, ...], manifest: Manifest) -> None:
    with pytest.raises(RequestError, match=r"batch|shapes"):
        plan(manifest, batches=batches)


def test_a_fixed_canvas_takes_its_own_width_only(manifest: Manifest) -> None:
    columns = manifest.latent.width * manifest.latent.vae_factor
    assert plan(manifest, width=columns).profiles == plan(manifest).profiles
    with pytest.raises(RequestError, match=f"{columns} columns") as caught:
        plan(manifest, width=2 * columns)
    assert "windows" in caught.value.hint


def test_an_open_canvas_takes_any_width_of_whole_cells(manifest: Manifest) -> None:
    graph = manifest.graph("unet")
    sample = msgspec.structs.replace(graph.inputs[0], shape=("batch", 4, 8, "latent_width"))
    graph = msgspec.structs.replace(graph, inputs=(sample, *graph.inputs[1:]))
    wide = msgspec.structs.replace(manifest, graphs={**manifest.graphs, "unet": graph})
    factor = manifest.latent.vae_factor
    assert plan(wide, width=20 * factor).profiles[0]["sample"] == (1, 4, 8, 20)
    with pytest.raises(RequestError, match="multiple"):
        plan(wide, width=20 * factor + 1)


def test_an_axis_that_no_profile_can_fix_is_refused(manifest: Manifest) -> None:
    graph = manifest.graph("unet")
    sample = msgspec.structs.replace(graph.inputs[0], shape=("batch", 4, "mood", 8))
    graph = msgspec.structs.replace(graph, inputs=(sample, *graph.inputs[1:]))
    with pytest.raises(BundleError, match="mood"):
        plan(msgspec.structs.replace(manifest, graphs={**manifest.graphs, "unet": graph}))


def test_a_graph_without_a_hash_is_refused(manifest: Manifest) -> None:
    with pytest.raises(BundleError, match="no hash"):
        source_files(msgspec.structs.replace(manifest, files={}), manifest.graph("unet"))


def test_rtx_builds_for_named_gpus_without_one(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_plan, "native_target", lambda: None)
    assert {plan(manifest, target=target).target for target in RTX_TARGETS} == set(RTX_TARGETS)
    with pytest.raises(DeviceError, match="no GPU") as caught:
        plan(manifest, target="native")
    assert "sm89" in caught.value.hint
    with pytest.raises(DeviceError, match="sm90"):
        plan(manifest, target="sm90")


def test_native_is_the_gpu_that_is_here(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_plan, "native_target", lambda: "sm89")
    assert plan(manifest, target="native").key == plan(manifest, target="sm89").key


def test_tensorrt_builds_on_the_gpu_that_runs_the_engine(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_plan, "native_target", lambda: "sm90")
    assert plan_engine(manifest, "unet", TRT, library_version="10").target == "sm90"
    with pytest.raises(DeviceError, match="sm90, not sm89"):
        plan_engine(manifest, "unet", TRT, library_version="10", target="sm89")
    monkeypatch.setattr(engine_plan, "native_target", lambda: None)
    with pytest.raises(DeviceError, match="no GPU"):
        plan_engine(manifest, "unet", TRT, library_version="10", target="sm89")
