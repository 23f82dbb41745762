"""A picture, a recording or a bundle in, what it says of itself out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from riffusion_engine.errors import RequestError
from riffusion_rt.cli.batch import PICTURE_SUFFIXES
from riffusion_rt.cli.report import Report, reporting

_OPTIONS = {
    "negative_prompt": "--negative",
    "seed": "--seed",
    "steps": "--steps",
    "guidance": "--guidance",
    "sampler": "--sampler",
    "seed_image": "--seed-image",
    "strength": "--strength",
    "mask": "--mask",
    "seed_audio": "--seed-audio",
    "duration_s": "--duration",
    "loop": "--loop",
    "repaint_s": "--repaint",
    "repaint_hz": "--repaint-band",
    "to_prompt": "--to",
    "with_audio": "--with",
    "alphas": "--alpha",
    "weight": "--weight",
    "clips_a_seed": "--wander",
    "glide": "--glide",
    "then": "--then",
}
"""What each setting of a request is called on the command line."""


@click.command("inspect", short_help="What a picture, a recording or a bundle says of itself.")
@click.argument("file", type=click.Path(path_type=Path))
@reporting
def command(file: Path, as_json: bool, quiet: bool) -> None:
    """Show what FILE holds: a picture's EXIF, a clip's request, a bundle's manifest."""
    report = Report(as_json, quiet)
    if not file.exists():
        raise RequestError(f"There is no file {file}", hint="Check the path")
    if file.is_dir() or file.name == "riffusion.json":
        found = describe_bundle(file if file.is_dir() else file.parent)
    elif _is_picture(file):
        found = describe_picture(file)
    else:
        found = describe_recording(file)
    for line in _lines(found):
        report.line(line)
    report.document(found)


def describe_bundle(bundle: Path) -> dict[str, Any]:
    """The manifest as plain values, its files checked against their hashes."""
    import msgspec

    from riffusion_engine.manifest import Manifest

    manifest = Manifest.read(bundle)
    manifest.verify(bundle)
    content: dict[str, Any] = msgspec.to_builtins(manifest)
    return {"kind": "bundle", "path": bundle, "verified": True, **content}


def describe_picture(path: Path) -> dict[str, Any]:
    """A spectrogram picture's size, EXIF parameters and text chunks."""
    from riffusion_rt.spectrogram_image import (
        load_image,
        max_value_from_exif,
        params_from_exif,
        text_from_image,
    )

    picture = load_image(path)
    params = params_from_exif(picture)
    return {
        "kind": "picture",
        "path": path,
        "width": picture.width,
        "height": picture.height,
        "duration_s": picture.width * params.hop_length / params.sample_rate,
        "spectrogram": asdict(params),
        "max_value": max_value_from_exif(picture),
        **_made_from(text_from_image(picture)),
    }


def describe_recording(path: Path) -> dict[str, Any]:
    """A recording's format, length and metadata."""
    from riffusion_rt.audio_file import read_audio, read_metadata

    samples, rate = read_audio(path)
    return {
        "kind": "recording",
        "path": path,
        "sample_rate": rate,
        "channels": samples.shape[0],
        "samples": samples.shape[1],
        "duration_s": samples.shape[1] / rate,
        **_made_from(read_metadata(path)),
    }


def regenerate_command(request: Mapping[str, Any], model: str) -> str:
    """The command line that makes a clip again from its request."""
    words = ["riffusion-rt", str(request.get("verb", "generate"))]
    words += [word for name in _OPTIONS for word in _option_words(name, request.get(name))]
    waypoints = request.get("waypoints") or []
    for name in ("seed", "negative_prompt", "guidance", "strength", "weight"):
        # Said for all prompts or for none, so that each value finds its prompt.
        if any(name in point for point in waypoints):
            words += [word for point in waypoints for word in (_OPTIONS[name], str(point.get(name, "")))]
    if model:
        words += ["--model", model]
    arguments = [str(point.get("prompt", "")) for point in waypoints] or [
        str(request[name]) for name in ("audio", "prompt", "plan") if name in request
    ]
    return shlex.join([*words, "--", *arguments])


def _option_words(name: str, value: Any) -> list[str]:
    """How one setting is said: not at all, as a flag, once, or once for each of its values."""
    option = _OPTIONS[name]
    if value is None or value == "" or value is False:
        return []
    if value is True:
        return [option]
    if isinstance(value, list):
        return [word for each in value for word in (option, _range_text(each))]
    return [option, str(value)]


def _range_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value.get('prompt')}@{value.get('at_s')}s"
    return "-".join(str(end) for end in value) if isinstance(value, list) else str(value)


def _made_from(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata with the request unpacked and the command that repeats it."""
    found: dict[str, Any] = {"metadata": dict(metadata)}
    try:
        request = json.loads(metadata.get("request", ""))
    except ValueError:
        return found
    if isinstance(request, dict):
        found["metadata"]["request"] = request
        found["again"] = regenerate_command(request, metadata.get("model", ""))
    return found


def _is_picture(path: Path) -> bool:
    signatures = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(signatures) or path.suffix.lower() in PICTURE_SUFFIXES
    except OSError as error:
        raise RequestError(f"Cannot read {path}: {error.strerror}", hint="Check its permissions") from error


def _lines(found: Mapping[str, Any], indent: str = "") -> list[str]:
    """``name: value`` lines, nested ones indented."""
    lines = []
    for name, value in found.items():
        if name == "files":
            size = sum(file["size"] for file in value.values())
            lines.append(f"{indent}files: {len(value)}, {size / 1e6:.1f} MB")
        elif isinstance(value, Mapping) and value:
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        elif value is not None and value != {}:
            lines.append(f"{indent}{name}: {_text(value)}")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return " ".join(_text(part) for part in value.values())
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(part) for part in value)}]"
    return str(value)
