"""The builder tells how far it is; with TensorRT-RTX at hand it builds every graph of a bundle without a GPU."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from riffusion_engine.build_process import build_engine
from riffusion_engine.engine_builder import BuildFraction
from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_library import ENGINE_LIBRARIES
from riffusion_engine.engine_plan import plan_engine
from riffusion_engine.errors import EngineError
from riffusion_engine.manifest import Manifest, file_spec

RTX = ENGINE_LIBRARIES["trt-rtx"]
needs_rtx = pytest.mark.skipif(
    RTX.find() is None, reason="TensorRT-RTX is not installed (pip install 'riffusion-rt[trt-rtx]')"
)


def test_phases_inside_phases_count_as_parts_of_a_step() -> None:
    told: list[float] = []
    fraction = BuildFraction(lambda done, stage: told.append(done) is None)
    fraction.start("whole", None, 4)
    fraction.step("whole", 0)
    fraction.start("part", "whole", 2)
    fraction.start("detail", "part", 5)
    fraction.step("detail", 4)
    fraction.finish("detail")
    fraction.step("part", 0)
    fraction.step("part", 1)
    fraction.finish("part")
    fraction.step("whole", 1)
    assert told == pytest.approx([1 / 4, 3 / 8, 3 / 8, 1 / 2, 1 / 2])


def test_progress_never_falls_back() -> None:
    told: list[float] = []
    fraction = BuildFraction(lambda done, stage: told.append(done) is None)
    fraction.start("whole", None, 2)
    for _ in range(3):
        fraction.start("again", "whole", 2)
        fraction.step("again", 1)
        fraction.finish("again")
    fraction.step("never started", 7)
    assert told == sorted(told) and max(told) <= 1


def test_progress_may_come_from_many_threads() -> None:
    told: list[float] = []
    fraction = BuildFraction(lambda done, stage: told.append(done) is None)
    fraction.start("whole", None, 400)
    workers = [
        threading.Thread(target=lambda start=start: [fraction.step("whole", start + i) for i in range(100)])
        for start in range(0, 400, 100)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(told) == 400 and told == sorted(told) and told[-1] == 1


def test_who_watches_may_stop_the_build() -> None:
    fraction = BuildFraction(lambda done, stage: done < 0.5)
    fraction.start("whole", None, 4)
    assert [fraction.step("whole", step) for step in range(3)] == [True, False, False]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCache]:
    yield EngineCache(tmp_path_factory.mktemp("engines"))


@needs_rtx
@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_decoder", "vae_encoder"])
@pytest.mark.parametrize("target", ["sm89", "sm120"])
def test_rtx_builds_every_graph_ahead_of_time(
    component: str, target: str, toy_bundle: Path, cache: EngineCache
) -> None:
    manifest = Manifest.read(toy_bundle)
    recipe = plan_engine(
        manifest, component, RTX, library_version=RTX.version(), target=target, batches=(1, 2)
    )
    last = list(build_engine(toy_bundle, manifest, recipe, cache=cache))[-1]
    assert last.header is not None and last.path is not None
    # The weights are in it, in the precision of the arithmetic.
    weights = next(
        spec.size
        for path, spec in manifest.files.items()
        if path.startswith(component) and "safetensors" in path
    )
    assert last.header.plan_bytes > weights
    assert cache.look_up(recipe) == last.header


@needs_rtx
def test_a_graph_that_rtx_cannot_read_is_refused_in_its_words(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    graph = bundle / "unet" / "model.onnx"
    graph.write_bytes(b"no graph" * 9)
    manifest = Manifest.read(bundle)
    manifest.files["unet/model.onnx"] = file_spec(graph)
    recipe = plan_engine(manifest, "unet", RTX, library_version=RTX.version(), target="sm89")
    with pytest.raises(EngineError, match=r"cannot read .*unet/model\.onnx") as caught:
        list(build_engine(bundle, manifest, recipe, cache=EngineCache(tmp_path / "cache")))
    assert "\n" not in str(caught.value)
