"""A measurement in, a JSON line out: every figure with its machine, versions and commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "riffusion-rt",
    "numpy",
    "scipy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "torch",
    "tensorrt-rtx-cu13-bindings",
    "torchaudio",
    "diffusers",
    "ray",
)


def record(suite: str, *, folder: Path = RESULTS, **figures: Any) -> Path:
    """Append ``figures`` to ``SUITE.jsonl`` in ``folder`` and return that path."""
    row = {"time": datetime.now(timezone.utc).isoformat(timespec="seconds"), **figures, **_circumstances()}
    path = folder / f"{suite}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return path


def _circumstances() -> dict[str, Any]:
    return {"machine": _machine(), "versions": _versions(), "commit": _commit()}


def _machine() -> str:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
