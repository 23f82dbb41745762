"""Builds run in a process of their own: once for an engine, then found, and no worse than an error if it dies.

No TensorRT is needed: ``stand_in_tensorrt`` takes its place in the child, and builds nothing.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from riffusion_engine.build_process import WAITING, BuildProgress, build_engine
from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_library import ENGINE_LIBRARIES
from riffusion_engine.engine_plan import EngineRecipe, plan_engine
from riffusion_engine.errors import BundleError, EngineError
from riffusion_engine.manifest import Manifest

RTX = ENGINE_LIBRARIES["trt-rtx"]


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Puts the stand-in where TensorRT-RTX would be, here and in children; a file, a line for each of its builds."""
    shutil.copy(Path(__file__).parent / "stand_in_tensorrt.py", tmp_path / "tensorrt_rtx.py")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "builds"))
    yield tmp_path / "builds"
    sys.modules.pop("tensorrt_rtx", None)


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


def recipe_of(bundle: Path, component: str = "unet") -> EngineRecipe:
    return plan_engine(
        Manifest.read(bundle), component, RTX, library_version=RTX.version(), target="sm89", batches=(1, 2)
    )


def build(bundle: Path, cache: EngineCache, component: str = "unet") -> list[BuildProgress]:
    return list(build_engine(bundle, Manifest.read(bundle), recipe_of(bundle, component), cache=cache))


def test_the_second_build_finds_the_first(builds: Path, cache: EngineCache, toy_bundle: Path) -> None:
    first, second = build(toy_bundle, cache)[-1], build(toy_bundle, cache)[-1]
    assert (first.hit, second.hit) == (False, True)
    assert first.header == second.header
    assert first.path == second.path == cache.path(recipe_of(toy_bundle))
    assert len(builds.read_text().splitlines()) == 1


def test_the_builder_is_told_the_recipe(builds: Path, cache: EngineCache, toy_bundle: Path) -> None:
    path = build(toy_bundle, cache, "vae_decoder")[-1].path
    assert path is not None
    plan = path.read_bytes().rpartition(b"no engine: ")[2]
    fixed = '{"latent_sample": [[%d, 4, 8, 8], [%d, 4, 8, 8], [%d, 4, 8, 8]]}'
    calls = f'[2, [["clear", "TF32"], ["SM89", 0], {fixed % (1, 1, 1)}, {fixed % (2, 2, 2)}]]'
    assert plan.decode() == calls


def test_progress_rises_to_one_and_says_what_is_done(
    builds: Path, cache: EngineCache, toy_bundle: Path
) -> None:
    told = build(toy_bundle, cache)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert {0.25, 0.5, 0.75, 1.0} <= set(fractions)
    assert told[-1].stage == "built"
    assert told[-1].header is not None and told[-1].header.peak_bytes > 1e6


@pytest.mark.parametrize("damage", [lambda c: c[:-1] + b"!", lambda c: c[:-9], lambda c: b"junk"])
def test_a_damaged_engine_is_built_anew(
    damage: Any, builds: Path, cache: EngineCache, toy_bundle: Path
) -> None:
    path = build(toy_bundle, cache)[-1].path
    assert path is not None
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    again = build(toy_bundle, cache)[-1]
    assert not again.hit
    assert again.header is not None and again.header.plan_sha256.encode() in sound


def test_of_two_builds_of_one_engine_one_waits_and_finds(
    builds: Path, cache: EngineCache, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "crawl")
    told: list[list[BuildProgress]] = []
    second = threading.Thread(target=lambda: told.append(build(toy_bundle, cache)))
    first = build_engine(toy_bundle, Manifest.read(toy_bundle), recipe_of(toy_bundle), cache=cache)
    next(first)  # The lock is held from here on.
    second.start()
    last = list(first)[-1]
    second.join()
    (waited,) = told
    assert WAITING in [progress.stage for progress in waited]
    assert waited[-1].hit and not last.hit
    assert len(builds.read_text().splitlines()) == 1


def test_two_processes_build_one_engine_once(
    builds: Path, cache: EngineCache, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "crawl")
    monkeypatch.setenv("RIFFUSION_CACHE", str(cache.folder))
    command = ["build", str(toy_bundle), "--target", "sm89", "--component", "unet", "--json"]
    commands = [
        subprocess.Popen([sys.executable, "-m", "riffusion_rt", *command], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    reports = [process.communicate()[0].decode() for process in commands]
    assert [process.returncode for process in commands] == [0, 0]
    assert sorted(report.count('"hit": true') for report in reports) == [0, 1]
    assert len(builds.read_text().splitlines()) == 1


def test_a_crash_of_native_code_is_an_error_with_its_last_words(
    builds: Path, cache: EngineCache, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "die")
    with pytest.raises(EngineError, match="unet ended by SIGABRT: the last words of native code") as caught:
        build(toy_bundle, cache)
    assert "riffusion-rt build" in caught.value.hint
    assert list(cache.engines.glob("*.engine")) == []
    monkeypatch.delenv("STAND_IN_DOES")
    assert build(toy_bundle, cache)[-1].header


def test_a_refusal_is_told_in_the_librarys_words_on_one_line(
    builds: Path, cache: EngineCache, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "refuse")
    with pytest.raises(EngineError, match="for sm89: no kernel for this"):
        build(toy_bundle, cache)


def test_what_a_library_prints_is_neither_shown_nor_taken_for_an_event(
    builds: Path,
    cache: EngineCache,
    toy_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "chat")
    assert build(toy_bundle, cache)[-1].header
    assert capfd.readouterr() == ("", "")


def test_who_stops_listening_ends_the_build_and_frees_the_lock(
    builds: Path, cache: EngineCache, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "crawl")
    progress = build_engine(toy_bundle, Manifest.read(toy_bundle), recipe_of(toy_bundle), cache=cache)
    assert isinstance(progress, Iterator)
    while next(progress).fraction < 0.5:
        pass
    progress.close()  # type: ignore[attr-defined]
    assert not builds.exists()
    assert not cache.path(recipe_of(toy_bundle)).exists()
    with cache.locked(recipe_of(toy_bundle)) as acquiring:
        assert list(acquiring) == []


def test_an_altered_bundle_is_not_built_from(
    builds: Path, cache: EngineCache, toy_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    weights = bundle / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="altered"):
        build(bundle, cache)
    weights.unlink()
    with pytest.raises(BundleError, match="missing"):
        build(bundle, cache)
    assert not builds.exists()
