"""doctor promises to say what works, what does not, and what mends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from riffusion_rt import models
from riffusion_rt.cli import main


def run(*arguments: str, code: int) -> Result:
    result = CliRunner().invoke(main, ["doctor", *arguments], prog_name="riffusion-rt")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def embedded(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package whose embedded model is the toy one."""
    (tmp_path / models.DEFAULT_MODEL).symlink_to(toy_bundle, target_is_directory=True)
    monkeypatch.setattr(models, "_BUNDLES", tmp_path)
    return tmp_path / models.DEFAULT_MODEL


def test_a_sound_installation_is_ready(embedded: Path) -> None:
    content = json.loads(run("--json", code=0).stdout)
    assert content["ready"] is True
    assert content["model"] == {
        "name": "riffusion-mini",
        "ok": True,
        "path": str(embedded),
        "licence": "CC0-1.0",
    }
    devices = {device["name"]: device for device in content["devices"]}
    assert devices["cpu"]["available"] is True
    assert all(device["reason"] for device in devices.values())
    assert all(device["hint"] for device in devices.values() if not device["available"])
    assert content["versions"]["numpy"]


def test_the_report_for_people_names_every_device(embedded: Path) -> None:
    lines = run(code=0).stdout.splitlines()
    assert any(line.startswith("device cpu: ok, ") for line in lines)
    assert "model riffusion-mini: verified" in lines
    assert lines[-1] == "Ready to make music."


def test_a_missing_model_is_reported_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_BUNDLES", tmp_path)
    content = json.loads(run("--json", code=1).stdout)
    assert content["ready"] is False
    assert "pip install" in content["model"]["hint"]
    assert run(code=1).stdout.splitlines()[-1].startswith("No music can be made here yet")


def test_without_a_backend_nothing_is_ready(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from riffusion_engine import devices

    none = [devices.DeviceReport("cpu", False, "no ONNX Runtime", "pip install 'riffusion-rt[cpu]'")]
    monkeypatch.setattr(devices, "probe_devices", lambda: none)
    lines = run(code=1).stdout.splitlines()
    assert "device cpu: no, no ONNX Runtime. pip install 'riffusion-rt[cpu]'" in lines
