"""An engine file is read and judged by its header; what is damaged, foreign or stale never reaches native code."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from riffusion_engine import engine_header
from riffusion_engine.engine_header import (
    MAGIC,
    PAGE,
    EngineHeader,
    build_command,
    map_plan,
    read_header,
    require_current,
    require_usable,
    sha256_of,
    verify_engine,
    write_engine,
)
from riffusion_engine.engine_plan import EngineRecipe
from riffusion_engine.errors import EngineError
from riffusion_engine.manifest import TensorSpec

PLAN = bytes(range(256)) * 64

RECIPE = EngineRecipe(
    component="unet",
    library="tensorrt_rtx",
    library_version="1.7",
    target="sm89",
    system="linux",
    machine="x86_64",
    sources={"unet/model.onnx": "0" * 64, "unet/weights": "1" * 64},
    inputs=(TensorSpec(name="sample", dtype="float16", shape=("batch", 4)),),
    outputs=(TensorSpec(name="out", dtype="float16", shape=("batch", 4)),),
    weights_dtype="float16",
    compute_dtype="float16",
    profiles=({"sample": (1, 4)}, {"sample": (2, 4)}),
)
HEADER = EngineHeader(
    name="toy",
    bundle="/music/my bundle",
    recipe=RECIPE,
    plan_sha256=sha256_of(PLAN),
    plan_bytes=len(PLAN),
    build_s=1.0,
    peak_bytes=1,
)
MEND = "riffusion-rt build '/music/my bundle' --device trt-rtx --target sm89 --component unet --batch 1,2"


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "unet.engine"
    write_engine(path, HEADER, PLAN)
    return path


def test_what_was_written_is_read_back(engine: Path) -> None:
    assert read_header(engine) == HEADER == verify_engine(engine)
    header, mapped, start = map_plan(engine)
    with mapped:
        assert header == HEADER
        assert start % PAGE == 0
        assert mapped[start:] == PLAN


def test_a_damaged_plan_is_refused_with_the_command_that_builds_it_again(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[-100] ^= 1
    engine.write_bytes(content)
    assert read_header(engine) == HEADER
    with pytest.raises(EngineError, match="damaged") as caught:
        map_plan(engine)
    assert MEND in caught.value.hint


@pytest.mark.parametrize(("change", "said"), [(lambda c: c[:-1], "cut off"), (lambda c: c + b"x", "longer")])
def test_a_wrong_size_is_seen_without_reading_the_plan(
    change: Any, said: str, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.write_bytes(change(engine.read_bytes()))
    monkeypatch.setattr(engine_header, "sha256_of", lambda plan: pytest.fail("the plan was read"))
    with pytest.raises(EngineError, match=said) as caught:
        verify_engine(engine)
    assert MEND in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\x08\x07ONNX" * 99,
        MAGIC,
        MAGIC + b"\xff" * 8,
        MAGIC + (2**40).to_bytes(8, "little") + b"{}",
        MAGIC + (99).to_bytes(8, "little") + b"{}",
        MAGIC + (2).to_bytes(8, "little") + b"{}",
        MAGIC + (4).to_bytes(8, "little") + b"\xff\xfe{}",
        MAGIC + (21).to_bytes(8, "little") + b'{"format_version": 1}',
    ],
)
def test_what_is_no_engine_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.engine"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"some\.engine") as caught:
        read_header(path)
    assert "riffusion-rt build" in caught.value.hint


def test_a_missing_file_is_an_engine_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="Cannot read"):
        read_header(tmp_path / "none.engine")


def test_another_format_version_is_refused_before_its_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "new.engine"
    text = b'{"format_version": 2, "recipe": "of another kind"}'
    path.write_bytes(MAGIC + len(text).to_bytes(8, "little") + text)
    with pytest.raises(EngineError, match="format version 2"):
        read_header(path)


@pytest.mark.parametrize(
    ("here", "said"),
    [
        ({"library": "tensorrt"}, "another library: tensorrt_rtx, here is tensorrt"),
        ({"library_version": "1.8"}, "another library version: 1.7, here is 1.8"),
        ({"target": "sm120"}, "another GPU: sm89, here is sm120"),
        ({"target": None}, "another GPU: sm89, here is none"),
    ],
)
def test_a_foreign_engine_is_refused_by_what_is_foreign_in_it(
    here: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_header, "this_platform", lambda: ("linux", "x86_64"))
    ours = {"library": "tensorrt_rtx", "library_version": "1.7", "target": "sm89"}
    require_usable(Path("a.engine"), HEADER, **ours)
    with pytest.raises(EngineError, match=said) as caught:
        require_usable(Path("a.engine"), HEADER, **{**ours, **here})
    assert "riffusion-rt build '/music/my bundle' --target native" in caught.value.hint


@pytest.mark.parametrize("platform", [("windows", "x86_64"), ("linux", "aarch64")])
def test_an_engine_of_another_platform_is_foreign(
    platform: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_header, "this_platform", lambda: platform)
    with pytest.raises(EngineError, match=r"operating system|processor"):
        require_usable(Path("a.engine"), HEADER, library="tensorrt_rtx", library_version="1.7", target="sm89")


def test_an_engine_whose_bundle_changed_is_stale(tmp_path: Path) -> None:
    require_current(Path("a.engine"), HEADER, dict(RECIPE.sources))
    for sources in ({**RECIPE.sources, "unet/weights": "2" * 64}, {"unet/model.onnx": "0" * 64}):
        with pytest.raises(EngineError, match=r"stale: unet/weights") as caught:
            require_current(Path("a.engine"), HEADER, sources)
        assert MEND in caught.value.hint


def test_the_mending_command_asks_for_the_same_engine() -> None:
    recipe = msgspec.structs.replace(RECIPE, library="tensorrt", chunks=(1, 2), width=768, tf32=True)
    assert build_command("b", recipe) == (
        "riffusion-rt build b --device trt --target sm89 --component unet --batch 1,2 --chunks 1,2 --width 768 --tf32"
    )


def test_hashing_takes_a_mapped_plan(engine: Path) -> None:
    with engine.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sha256_of(mapped) == sha256_of(engine.read_bytes())
