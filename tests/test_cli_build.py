"""build promises engines in the cache, found again at the second command, or one line that says what is missing.

No TensorRT is needed: ``stand_in_tensorrt`` takes its place, and builds nothing.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from riffusion_engine import engine_plan
from riffusion_engine.engine_library import EngineLibrary
from riffusion_rt.cli import main


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Puts the stand-in where TensorRT-RTX would be, here and in children, and an empty cache."""
    shutil.copy(Path(__file__).parent / "stand_in_tensorrt.py", tmp_path / "tensorrt_rtx.py")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STAND_IN_LOG", str(tmp_path / "builds"))
    monkeypatch.setenv("RIFFUSION_CACHE", str(tmp_path / "cache"))
    yield
    sys.modules.pop("tensorrt_rtx", None)


FOUND = {"trt": None, "trt-rtx": "tensorrt_rtx"}
"""Which module each device's library is found as, once the stand-in is in place."""


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


def built(*arguments: str | Path) -> list[dict[str, Any]]:
    engines: list[dict[str, Any]] = json.loads(run("build", *arguments, "--json").stdout)["engines"]
    return engines


def test_every_graph_is_built_once_for_every_target(toy_bundle: Path) -> None:
    targets = ("--target", "sm89", "--target", "sm120")
    first, second = built(toy_bundle, *targets), built(toy_bundle, *targets)
    asked = {(engine["component"], engine["target"]) for engine in first}
    components = {engine["component"] for engine in first}
    assert components >= {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    assert asked == {(component, target) for component in components for target in ("sm89", "sm120")}
    assert not any(engine["hit"] for engine in first)
    assert all(engine["hit"] for engine in second)
    assert [engine["plan_sha256"] for engine in first] == [engine["plan_sha256"] for engine in second]


def test_options_reach_the_engine(toy_bundle: Path) -> None:
    (engine,) = built(
        toy_bundle, "--target", "sm89", "--component", "unet", "--batch", "1-3,8", "--chunks", "1-2"
    )
    assert engine["batches"] == [1, 2, 3, 8]
    run("build", toy_bundle, "--target", "sm89", "--component", "unet", "-q", "--tf32")
    headers = [
        entry["header"]["recipe"] for entry in json.loads(run("cache", "ls", "--json").stdout)["engines"]
    ]
    assert sorted(recipe["tf32"] for recipe in headers) == [False, True]


def test_quiet_says_nothing_and_people_get_lines(toy_bundle: Path) -> None:
    arguments = ("build", toy_bundle, "--target", "sm89", "--component", "unet")
    assert run(*arguments, "-q").output == ""
    assert "unet sm89" in run(*arguments).stdout
    assert "in the cache" in run(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "sm90"), "sm90"),
        (("--target", "sm89", "--component", "drums"), "no drums graph"),
        (("--target", "sm89", "--batch", "2-1"), "--batch 2-1"),
        (("--target", "sm89", "--batch", "many"), "--batch many"),
        (("--target", "sm89", "--batch", "0"), "--batch"),
        (("--target", "sm89", "--width", "4096"), "columns"),
        (("--device", "trt", "--target", "sm89"), "TensorRT is not installed"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    arguments: tuple[str, ...], said: str, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineLibrary, "find", lambda library: FOUND[library.device])
    result = run("build", toy_bundle, *arguments, code=2)
    assert result.stdout == "" and said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_native_without_a_gpu_names_the_targets(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_plan, "native_target", lambda: None)
    result = run("build", toy_bundle, "--device", "trt-rtx", code=2)
    assert "--target sm75|sm80|sm86|sm89|sm120|sm121" in result.stderr


def test_a_crash_in_native_code_is_one_line(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_DOES", "die")
    result = run("build", toy_bundle, "--target", "sm89", "--component", "unet", code=2)
    assert "SIGABRT" in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_cache_is_listed_checked_and_emptied(toy_bundle: Path) -> None:
    engines = built(toy_bundle, "--target", "sm89")
    listed = json.loads(run("cache", "ls", "--json").stdout)["engines"]
    assert {entry["path"] for entry in listed} == {engine["path"] for engine in engines}
    run("cache", "verify")
    assert len(run("cache", "ls").stdout.splitlines()) == 1 + len(engines)
    assert json.loads(run("cache", "prune", "--json").stdout)["removed"] == []
    assert f"Would remove {len(engines)} engines" in run("cache", "prune", "--all", "--dry-run").stdout
    run("cache", "prune", "--all", "-q")
    assert json.loads(run("cache", "ls", "--json").stdout)["engines"] == []


def test_a_damaged_engine_is_named_with_the_command_that_mends_it(toy_bundle: Path) -> None:
    (engine,) = built(toy_bundle, "--target", "sm89", "--component", "unet")
    path = Path(engine["path"])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    error = run("cache", "verify", code=2).stderr
    assert (
        f"riffusion-rt build {toy_bundle} --device trt-rtx --target sm89 --component unet --batch 1,2"
        in error
    )
    (again,) = built(toy_bundle, "--target", "sm89", "--component", "unet")
    assert not again["hit"]
    run("cache", "verify")


def test_an_engine_of_a_changed_bundle_is_stale_and_pruned(toy_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy_bundle, bundle)
    built(bundle, "--target", "sm89", "--component", "unet")
    manifest = json.loads((bundle / "riffusion.json").read_text())
    manifest["files"]["unet/model.onnx"]["sha256"] = "0" * 64
    (bundle / "riffusion.json").write_text(json.dumps(manifest))
    assert "stale: unet/model.onnx changed" in run("cache", "ls").stdout
    assert len(json.loads(run("cache", "prune", "--json").stdout)["removed"]) == 1
