"""The cache finds engines by what they were built of, and says of the others why they are of no use."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from riffusion_engine import engine_cache
from riffusion_engine.engine_cache import EngineCache, cache_folder
from riffusion_engine.engine_header import EngineHeader, sha256_of, write_engine
from riffusion_engine.engine_library import ENGINE_LIBRARIES
from riffusion_engine.engine_plan import EngineRecipe, plan_engine
from riffusion_engine.errors import EngineError, OutputError
from riffusion_engine.manifest import Manifest

PLAN = b"no engine" * 100
INSTALLED = {"tensorrt_rtx": "1.7"}


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def recipe(toy_bundle: Path) -> EngineRecipe:
    return plan_engine(
        Manifest.read(toy_bundle), "unet", ENGINE_LIBRARIES["trt-rtx"], library_version="1.7", target="sm89"
    )


def keep(cache: EngineCache, recipe: EngineRecipe, bundle: Path) -> Path:
    header = EngineHeader(
        name="toy",
        bundle=str(bundle),
        recipe=recipe,
        plan_sha256=sha256_of(PLAN),
        plan_bytes=len(PLAN),
        build_s=1.0,
        peak_bytes=1,
    )
    write_engine(cache.path(recipe), header, PLAN)
    return cache.path(recipe)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_the_folder_is_the_users_choice_or_the_platforms(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RIFFUSION_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("RIFFUSION_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "riffusion-rt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "riffusion-rt"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "riffusion-rt"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert cache_folder() == tmp_path / "riffusion-rt" / "Cache"


def test_an_engine_is_found_by_its_recipe_only(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    assert cache.look_up(recipe) is None
    keep(cache, recipe, toy_bundle)
    found = cache.look_up(recipe)
    assert found is not None and found.recipe == recipe
    assert cache.look_up(msgspec.structs.replace(recipe, target="sm120")) is None


def test_a_damaged_engine_is_not_given_out(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    damage(keep(cache, recipe, toy_bundle))
    with pytest.raises(EngineError, match="damaged"):
        cache.look_up(recipe)


def test_an_engine_under_anothers_name_is_not_given_out(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    other = msgspec.structs.replace(recipe, target="sm120")
    keep(cache, recipe, toy_bundle).rename(cache.path(other))
    with pytest.raises(EngineError, match="not the engine that its name says") as caught:
        cache.look_up(other)
    assert "--target sm120" in caught.value.hint
    (entry,) = cache.entries()
    assert "name" in entry.fault


def test_faults_are_named_with_the_command_that_mends_them(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    sound = keep(cache, recipe, toy_bundle)
    broken = keep(cache, msgspec.structs.replace(recipe, chunks=(2,)), toy_bundle)
    damage(broken)
    old = keep(cache, msgspec.structs.replace(recipe, library_version="1.6"), toy_bundle)
    stale = keep(
        cache,
        msgspec.structs.replace(recipe, sources={**recipe.sources, "unet/model.onnx": "0" * 64}),
        toy_bundle,
    )
    faults = {entry.path: entry for entry in cache.entries(hashes=True, installed=INSTALLED)}
    assert faults[sound].fault == ""
    assert "SHA-256" in faults[broken].fault
    assert "1.6, installed is 1.7" in faults[old].fault
    assert "unet/model.onnx changed" in faults[stale].fault
    assert all("riffusion-rt build" in faults[path].mend for path in (broken, old, stale))
    # Without hashes a flipped bit of the plan is not seen, and costs nothing.
    assert {entry.path for entry in cache.entries(installed=INSTALLED) if entry.fault} == {old, stale}


def test_pruning_takes_what_is_of_no_use_and_leaves_the_rest(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    sound = keep(cache, recipe, toy_bundle)
    old = keep(cache, msgspec.structs.replace(recipe, library_version="1.6"), toy_bundle)
    (cache.engines / "junk.engine").write_bytes(b"junk")
    dead, living = cache.engines / ".a.engine.x.part", cache.engines / ".b.engine.x.part"
    for scratch in (dead, living):
        scratch.write_bytes(b"half")
    os.utime(dead, (0, 0))
    assert len(cache.prune(installed=INSTALLED, dry_run=True)) == 2
    assert old.exists()
    assert {entry.path.name for entry in cache.prune(installed=INSTALLED)} == {old.name, "junk.engine"}
    assert sorted(path.name for path in cache.engines.iterdir()) == sorted([sound.name, living.name])
    assert [entry.path for entry in cache.prune(everything=True)] == [sound]


def test_pruning_by_age_counts_from_the_last_use(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    used = keep(cache, recipe, toy_bundle)
    unused = keep(cache, msgspec.structs.replace(recipe, target="sm120"), toy_bundle)
    long_ago = time.time() - 40 * 86_400
    for path in (used, unused):
        os.utime(path, (long_ago, long_ago))
    assert cache.look_up(recipe) is not None
    assert [entry.path for entry in cache.prune(unused_days=30)] == [unused]
    assert used.exists()


def test_a_lock_that_is_held_survives_pruning(cache: EngineCache, recipe: EngineRecipe) -> None:
    with cache.locked(recipe) as acquiring:
        assert list(acquiring) == []
        (lock,) = cache.engines.glob("*.lock")
        cache.prune()
        assert lock.exists()
    cache.prune()
    assert not lock.exists()


def test_an_unwritable_cache_names_the_variable(tmp_path: Path, recipe: EngineRecipe) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(OutputError, match="cache") as caught,
        EngineCache(tmp_path / "file").locked(recipe) as acquiring,
    ):
        list(acquiring)
    assert "RIFFUSION_CACHE" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target": "sm120"}, "another GPU: sm120, here is sm89"),
        ({"library_version": "1.6"}, "another library version: 1.6, here is 1.7"),
        ({"machine": "another"}, "another processor"),
        ({"sources": {"unet/model.onnx": "0" * 64}}, "earlier state of this bundle"),
    ],
)
def test_what_is_missing_is_told_by_the_nearest_engine(
    change: dict[str, object],
    reason: str,
    cache: EngineCache,
    recipe: EngineRecipe,
    toy_bundle: Path,
    tmp_path: Path,
) -> None:
    keep(cache, msgspec.structs.replace(recipe, **change), tmp_path / "gone")
    assert cache.usable(recipe) == []
    error = cache.why_missing(recipe, toy_bundle)
    assert reason in error.message
    assert f"riffusion-rt build {toy_bundle} --device trt-rtx --target sm89 --component unet" in error.hint


def test_engines_of_other_shapes_are_usable(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    profiles = ({name: (8, *shape[1:]) for name, shape in recipe.profiles[0].items()},)
    path = keep(cache, msgspec.structs.replace(recipe, profiles=profiles), toy_bundle)
    assert [entry.path for entry in cache.usable(recipe)] == [path]


def test_a_cut_off_engine_is_named_when_nothing_else_is_there(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path
) -> None:
    path = keep(cache, recipe, toy_bundle)
    path.write_bytes(path.read_bytes()[:-50])
    assert "cut off" in cache.why_missing(recipe, toy_bundle).message


def test_versions_of_what_does_not_load_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_cache.installed_versions().keys() <= {"tensorrt", "tensorrt_rtx"}
    monkeypatch.setattr(engine_cache, "ENGINE_LIBRARIES", {})
    assert engine_cache.installed_versions() == {}


def test_of_several_engines_that_do_not_fit_the_nearest_is_told(
    cache: EngineCache, recipe: EngineRecipe, toy_bundle: Path, tmp_path: Path
) -> None:
    old = {"unet/model.onnx": "0" * 64}
    keep(cache, msgspec.structs.replace(recipe, target="sm120", sources=old), tmp_path / "gone")
    keep(cache, msgspec.structs.replace(recipe, sources=old), tmp_path / "gone")
    assert "earlier state of this bundle" in cache.why_missing(recipe, toy_bundle).message
