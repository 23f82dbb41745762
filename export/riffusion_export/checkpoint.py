"""A diffusers checkpoint folder in, its networks one by one and their geometry out; bundles count as checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from riffusion_engine.errors import ExportError, RiffusionError
from riffusion_engine.manifest import MANIFEST_NAME, LatentSpec
from riffusion_export.facts import FACTS_FILES, CheckpointFacts, facts_json, licence_files, read_facts
from riffusion_export.geometry import Geometry, geometry_of, read_config, read_configs, skeleton
from riffusion_export.silence import quiet

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch import nn
    from transformers import CLIPTextModel

T = TypeVar("T")

PARTS: tuple[str, ...] = ("text_encoder", "unet", "vae")
"""The networks of a checkpoint, in the order in which they are exported."""

TEXT_WEIGHTS = "model.safetensors"
TEXT_PREFIX = "text_model."
"""What the names of a text encoder's weights begin with in published checkpoints; transformers 5 reads both."""
MODEL_WEIGHTS = "diffusion_pytorch_model.safetensors"
VAE_PARTS: dict[str, tuple[str, ...]] = {
    "vae_decoder": ("decoder.", "post_quant_conv."),
    "vae_encoder": ("encoder.", "quant_conv."),
}
"""A bundle keeps the autoencoder in two folders, one for each graph; these prefixes share out its weights."""

_CHECKPOINT_HINT = (
    "Name a diffusers folder with text_encoder, unet, vae, tokenizer and scheduler: "
    "riffusion-rt export CHECKPOINT -o BUNDLE"
)


@dataclass(frozen=True, eq=False)
class Source:
    """A checkpoint that has been looked at, but not loaded.

    ``folder`` holds the tokenizer, the scheduler and licences; ``files`` are all that the networks are made from.
    ``load`` gives one of `PARTS` in float32 and in evaluation mode, ``skeleton`` the same on torch's meta device.
    """

    name: str
    folder: Path
    facts: CheckpointFacts
    geometry: Geometry
    files: tuple[Path, ...]
    load: Callable[[str], nn.Module]
    skeleton: Callable[[str], nn.Module]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The networks of a Stable Diffusion class model, in float32 and in evaluation mode."""

    folder: Path
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    autoencoder: AutoencoderKL
    facts: CheckpointFacts
    latent: LatentSpec


def open_checkpoint(folder: Path) -> Source:
    """Look at a checkpoint folder (or a bundle) of any geometry; its weights are read when they are asked for.

    Raises:
        ExportError: a component is missing, or of a class that the bundle format does not cover.
    """
    _require_components(folder)
    _require_weights(folder)
    facts = read_facts(folder)
    configs = read_configs(folder)
    geometry = geometry_of(configs, facts, folder)
    return Source(
        name=folder.resolve().name,
        folder=folder,
        facts=facts,
        geometry=geometry,
        files=tuple(sorted(path for path in folder.rglob("*") if path.is_file())),
        load=lambda part: _load_part(folder, part),
        skeleton=lambda part: skeleton(configs, part),
    )


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a whole checkpoint (or the weights of a bundle) of any geometry.

    Raises:
        ExportError: a component is missing, damaged, or of a class that the bundle format does not cover.
    """
    source = open_checkpoint(folder)
    text_encoder, unet, autoencoder = (source.load(part) for part in PARTS)
    return Checkpoint(
        folder,
        text_encoder,
        unet,
        autoencoder,
        source.facts,
        source.geometry.latent,
    )


def load_autoencoder(folder: Path) -> AutoencoderKL:
    """Load the autoencoder of a checkpoint, or put a bundle's two halves together again; float32, evaluation mode.

    Raises:
        ExportError: it is missing or damaged.
    """
    with quiet():
        from diffusers import AutoencoderKL
        from safetensors.torch import load_file

        if not (folder / MANIFEST_NAME).is_file():
            return _load(AutoencoderKL, folder / "vae")
        try:
            autoencoder = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae"))
            state = {
                key: value
                for part in VAE_PARTS
                for key, value in load_file(folder / part / MODEL_WEIGHTS).items()
            }
            autoencoder.load_state_dict(state)
        except Exception as error:  # As in _load.
            raise _damaged(folder / "vae", error) from error
        autoencoder.float().eval()
        return autoencoder


def checkpoint_from_bundle(bundle: Path, output: Path) -> None:
    """Write an ordinary diffusers folder from a bundle: for trainers, and for pipelines that load everything.

    ``StableDiffusionPipeline.from_pretrained(bundle, vae=load_autoencoder(bundle))`` needs no such copy.

    Raises:
        ExportError: ``bundle`` is not one, or ``output`` is there already.
    """
    if not (bundle / MANIFEST_NAME).is_file():
        raise ExportError(
            f"{bundle} is not a bundle: it has no {MANIFEST_NAME}", hint="Name the folder of a bundle"
        )
    if output.exists():
        raise ExportError(f"{output} is there already", hint="Name a folder that does not exist yet")
    with quiet():
        load_autoencoder(bundle).save_pretrained(output / "vae")
    graphs = shutil.ignore_patterns("*.onnx")
    for part in ("text_encoder", "unet", "tokenizer", "scheduler"):
        shutil.copytree(bundle / part, output / part, ignore=graphs)
    for path in [bundle / "model_index.json", bundle / "README.md", *licence_files(bundle)]:
        if path.is_file():
            shutil.copy2(path, output)
    (output / FACTS_FILES[-1]).write_text(facts_json(read_facts(bundle)), encoding="utf-8")


def _require_components(folder: Path) -> None:
    if not folder.is_dir():
        raise ExportError(f"There is no checkpoint folder {folder}", hint=_CHECKPOINT_HINT)
    if (folder / "text_encoder_2").exists():
        raise ExportError(
            f"{folder} has a second text encoder: it is of the SDXL class, not of Stable Diffusion's",
            hint="Export a checkpoint of the Stable Diffusion 1.x or 2.x class",
        )
    needed = {
        "text_encoder/config.json": "CLIPTextModel",
        "unet/config.json": "UNet2DConditionModel",
        "vae/config.json": "AutoencoderKL",
        "scheduler/scheduler_config.json": None,
    }
    for name, wanted in needed.items():
        path = folder / name
        if not path.is_file():
            raise ExportError(
                f"{folder} is not a diffusers checkpoint: it has no {name}", hint=_CHECKPOINT_HINT
            )
        config = read_config(path)
        found = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
        if wanted and found not in (None, wanted):
            raise ExportError(
                f"{name} describes a {found}, not a {wanted}",
                hint="Export a checkpoint of the Stable Diffusion 1.x or 2.x class",
            )
    if not (folder / "tokenizer").is_dir():
        raise ExportError(
            f"{folder} is not a diffusers checkpoint: it has no tokenizer", hint=_CHECKPOINT_HINT
        )


def _require_weights(folder: Path) -> None:
    """Find out in no time what would otherwise end an export after minutes: weights missing or cut short."""
    vae = VAE_PARTS if (folder / MANIFEST_NAME).is_file() else ("vae",)
    for part in ("text_encoder", "unet", *vae):
        stored = [path for path in (folder / part).iterdir() if path.suffix in (".safetensors", ".bin")]
        if not stored:
            raise _damaged(folder / part, FileNotFoundError("there are no weights in it"))
        for path in stored:
            if path.suffix == ".safetensors" and not is_whole(path):
                raise _damaged(folder / part, OSError(f"{path.name} is not whole"))


def is_whole(path: Path) -> bool:
    """Whether a safetensors file has the size that its header says."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > path.stat().st_size:
            return False
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, dict[str, Any]])
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (msgspec.MsgspecError, KeyError, IndexError, TypeError):
            return False
    return path.stat().st_size == 8 + length + max(ends, default=0)


def _load_part(folder: Path, part: str) -> nn.Module:
    with quiet():
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        network: nn.Module
        if part == "vae":
            network = load_autoencoder(folder)
        else:
            kind = CLIPTextModel if part == "text_encoder" else UNet2DConditionModel
            network = _load(kind, folder / part)
        return network


def _load(kind: type[T], folder: Path) -> T:
    import torch

    dtype = {"torch_dtype" if kind.__module__.startswith("diffusers") else "dtype": torch.float32}
    variant = "fp16" if any(folder.glob("*.fp16.*")) and not _has_plain_weights(folder) else None
    # Weights that are missing would be drawn at random, with nothing but a warning.
    options = {"variant": variant, "local_files_only": True, "output_loading_info": True, **dtype}
    try:
        model, found = kind.from_pretrained(folder, **options)  # type: ignore[attr-defined]
    except RiffusionError:
        raise
    except (
        Exception
    ) as error:  # Damaged files fail in many ways: missing keys, safetensors, pickle, JSON, shapes.
        raise _damaged(folder, error) from error
    if found["missing_keys"]:
        raise _damaged(folder, ValueError(f"it lacks {min(found['missing_keys'])}"))
    loaded: T = model.eval().requires_grad_(False)
    return loaded


def _has_plain_weights(folder: Path) -> bool:
    names = (TEXT_WEIGHTS, MODEL_WEIGHTS, "pytorch_model.bin", "diffusion_pytorch_model.bin")
    return any((folder / name).is_file() or (folder / f"{name}.index.json").is_file() for name in names)


def _damaged(folder: Path, error: Exception) -> ExportError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ExportError(f"{folder} cannot be loaded: {reason}", hint="Copy or download the checkpoint again")
