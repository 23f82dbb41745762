"""A checkpoint or bundle folder in, what it says of itself out: name, licence, how it hears, how to sample it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import MANIFEST_NAME, LoraSpec, Manifest, SamplingDefaults
from riffusion_engine.spectrogram_params import SpectrogramParams

FACTS_FILES: tuple[str, ...] = ("riffusion_train.json", "spectrogram.json")
"""Optional files of a checkpoint that say how it hears and how it wants to be sampled; the first found counts."""
V1_DEFAULTS = SamplingDefaults(sampler="dpm++2m", steps=20, guidance=7.0, strength=0.75)
"""For checkpoints that say nothing: Riffusion's guidance and strength, with a sampler that needs 20 steps."""


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint says of itself, with Riffusion v1's numbers where it says nothing."""

    name: str
    licence: str
    description: str
    spectrogram: SpectrogramParams
    defaults: SamplingDefaults
    loras: tuple[LoraSpec, ...] = ()


def read_facts(folder: Path) -> CheckpointFacts:
    """Read what a checkpoint or a bundle says of itself.

    Raises:
        ExportError: it says it in a form that cannot be read.
    """
    if (folder / MANIFEST_NAME).is_file():
        manifest = Manifest.read(folder)
        source = manifest.source
        return CheckpointFacts(
            manifest.name,
            source.licence,
            source.description,
            manifest.spectrogram,
            manifest.defaults,
            manifest.loras,
        )
    path = next((folder / name for name in FACTS_FILES if (folder / name).is_file()), None)
    if path is None:
        return facts_unsaid(folder.resolve().name)
    try:
        stated = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        defaults = {**msgspec.to_builtins(V1_DEFAULTS), **stated.get("defaults", {})}
        return CheckpointFacts(
            name=str(stated.get("name") or folder.resolve().name),
            licence=str(stated.get("licence") or "unknown"),
            description=str(stated.get("description") or ""),
            spectrogram=msgspec.convert(stated, SpectrogramParams),
            defaults=msgspec.convert(defaults, SamplingDefaults),
        )
    except (msgspec.MsgspecError, TypeError) as error:
        raise ExportError(
            f"{path} cannot be read: {error}", hint="Mend that file and export again"
        ) from error


def facts_unsaid(name: str) -> CheckpointFacts:
    """Riffusion v1's numbers for a checkpoint that says nothing."""
    return CheckpointFacts(name, "unknown", "", SpectrogramParams(), V1_DEFAULTS)


def facts_json(facts: CheckpointFacts) -> str:
    """The text of a ``spectrogram.json`` that says these facts."""
    stated = {
        **msgspec.to_builtins(facts.spectrogram),
        "name": facts.name,
        "licence": facts.licence,
        "description": facts.description,
        "defaults": msgspec.to_builtins(facts.defaults),
    }
    return json.dumps(stated, indent=2) + "\n"


def licence_files(folder: Path) -> list[Path]:
    """The licence texts that stand beside the weights."""
    return sorted(path for path in folder.glob("LICEN[SC]E*") if path.is_file())
