"""The rooms stay apart: what each may import, and what importing the runtime may cost."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "accelerate"}
ROOMS = {
    "engine/riffusion_engine": HEAVY | {"riffusion_rt", "riffusion_export", "riffusion_train"},
    "riffusion_rt": HEAVY | {"riffusion_train"},
    "export/riffusion_export": {"riffusion_train"},
    "training/riffusion_train": set(),
}
OPENS_THE_TRAINING_ROOM = {"riffusion_rt/cli/dataset.py", "riffusion_rt/cli/finetune.py"}
"""Verbs that open another room when they run; the rest of the runtime knows nothing of it."""
CODEC = {
    "audio_file",
    "picture_sound",
    "resampling",
    "spectrogram",
    "spectrogram_image",
    "inverse_mel",
    "phase",
    "phase_refine",
    "phase_start",
    "phase_stft",
}
"""What training and export may know of the runtime: how sound becomes a picture and back."""
SAMPLING = {"noise_schedule", "samplers"}
"""What training may know beyond that: how the runtime draws, for a decoder that learns from what is drawn."""
GENERIC_NAMES = {"utils", "util", "helpers", "common", "base", "manager", "core", "misc"}


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    trespasses = {
        f.relative_to(ROOT).as_posix(): found for f in files if (found := _imports(f) & ROOMS[room])
    }
    opening = {file for file, found in trespasses.items() if found == {"riffusion_train"}}
    assert set(trespasses) - (opening & OPENS_THE_TRAINING_ROOM) == set()


@pytest.mark.parametrize(
    ("room", "known"), [("export/riffusion_export", CODEC), ("training/riffusion_train", CODEC | SAMPLING)]
)
def test_training_and_export_know_little_of_the_runtime(room: str, known: set[str]) -> None:
    modules = {
        f"{node.module}.{node.names[0].name}" if node.module == "riffusion_rt" else node.module
        for path in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "riffusion_rt"
    }
    assert {module.split(".")[1] for module in modules} <= known


@pytest.mark.parametrize("room", ROOMS)
def test_files_are_named_after_stages(room: str) -> None:
    names = {f.stem for f in (ROOT / room).rglob("*.py")}
    assert not names & GENERIC_NAMES


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_the_runtime_loads_neither_torch_nor_a_backend() -> None:
    loaded = _loaded_after("import riffusion_rt")
    assert "riffusion_rt" in loaded
    assert not loaded & (HEAVY | {"onnxruntime", "scipy", "soundfile", "PIL", "tokenizers", "click"})


def test_making_the_pipeline_class_loads_no_torch() -> None:
    loaded = _loaded_after("from riffusion_rt import Riffusion")
    assert "numpy" in loaded
    assert not loaded & (HEAVY | {"onnxruntime", "scipy", "soundfile", "tokenizers"})


def test_every_public_name_is_there() -> None:
    import riffusion_rt

    for name in riffusion_rt.__all__:
        assert getattr(riffusion_rt, name) is not None
    with pytest.raises(AttributeError):
        _ = riffusion_rt.no_such_name
