"""This installation in, what works and what mends the rest out."""

from __future__ import annotations

import platform
import sys
from typing import Any

import click

from riffusion_engine.errors import RiffusionError
from riffusion_rt.cli.report import Report, reporting

_PACKAGES = (
    "riffusion-rt",
    "numpy",
    "scipy",
    "msgspec",
    "pillow",
    "soundfile",
    "tokenizers",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "torch",
    "diffusers",
)
"""What the doctor looks for: the runtime's parts, its backends, and what an export needs."""


@click.command("doctor", short_help="What works here, and what mends the rest.")
@reporting
def command(as_json: bool, quiet: bool) -> None:
    """Check versions, devices and the embedded model. Exit code 1 if no music can be made."""
    report = Report(as_json, quiet)
    versions = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
    devices = _devices()
    model = _embedded_model()

    report.line(f"{platform.system()} {platform.machine()}, Python {versions['python']} ({sys.executable})")
    installed = (f"{name} {version}" for name, version in versions.items() if version)
    report.line(f"packages: {', '.join(installed)}")
    for device in devices:
        mark = "ok" if device["available"] else "no"
        mend = "" if device["available"] or not device["hint"] else f". {device['hint']}"
        report.line(f"device {device['name']}: {mark}, {device['reason']}{mend}")
    state = "verified" if model["ok"] else f"{model['error']}. {model['hint']}"
    report.line(f"model {model['name']}: {state}")

    plays = model["ok"] and any(device["available"] for device in devices)
    report.line("Ready to make music." if plays else "No music can be made here yet: see the lines above.")
    report.document(
        {
            "ready": plays,
            "platform": platform.platform(),
            "versions": versions,
            "devices": devices,
            "model": model,
        }
    )
    if not plays:
        click.get_current_context().exit(1)


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    from riffusion_engine.devices import probe_devices

    return [
        {
            "name": device.name,
            "available": device.available,
            "reason": device.reason.rstrip("."),
            "hint": device.hint.rstrip("."),
        }
        for device in probe_devices()
    ]


def _embedded_model() -> dict[str, Any]:
    from riffusion_engine.manifest import Manifest
    from riffusion_rt.models import DEFAULT_MODEL, locate_model

    try:
        bundle = locate_model(DEFAULT_MODEL)
        manifest = Manifest.read(bundle)
        manifest.verify(bundle)
    except RiffusionError as error:
        return {"name": DEFAULT_MODEL, "ok": False, "error": error.message, "hint": error.hint}
    return {"name": DEFAULT_MODEL, "ok": True, "path": bundle, "licence": manifest.source.licence}
