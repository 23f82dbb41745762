"""A diffusers checkpoint folder in, its three networks and the facts about them out; bundles count as checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from riffusion_engine.errors import ExportError, RiffusionError
from riffusion_engine.manifest import MANIFEST_NAME, LatentSpec, SamplingDefaults
from riffusion_engine.spectrogram_params import SpectrogramParams

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

T = TypeVar("T")

FACTS_FILES: tuple[str, ...] = ("riffusion_train.json", "spectrogram.json")
"""Optional files of a checkpoint that say how it hears and how it wants to be sampled; the first found counts."""
V1_DEFAULTS = SamplingDefaults(sampler="dpm++2m", steps=20, guidance=7.0, strength=0.75)
"""For checkpoints that say nothing: Riffusion's guidance and strength, with a sampler that needs 20 steps."""

TEXT_WEIGHTS = "model.safetensors"
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


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint says of itself, with Riffusion v1's numbers where it says nothing."""

    name: str
    licence: str
    description: str
    spectrogram: SpectrogramParams
    defaults: SamplingDefaults


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The networks of a Stable Diffusion class model, in float32 and in evaluation mode."""

    folder: Path
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    autoencoder: AutoencoderKL
    facts: CheckpointFacts
    latent: LatentSpec


def load_checkpoint(folder: Path) -> Checkpoint:
    """Load a checkpoint (or the weights of a bundle) of any geometry.

    Raises:
        ExportError: a component is missing, damaged, or of a class that the bundle format does not cover.
    """
    _require_components(folder)
    facts = read_facts(folder)
    with quiet():
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextModel

        text_encoder = _load(CLIPTextModel, folder / "text_encoder")
        unet = _load(UNet2DConditionModel, folder / "unet")
        autoencoder = load_autoencoder(folder)
    latent = _latent_spec(unet, autoencoder)
    if facts.spectrogram.bands != latent.height * latent.vae_factor:
        raise ExportError(
            f"The model draws {latent.height * latent.vae_factor} rows, but its spectrogram has "
            f"{facts.spectrogram.bands} bands",
            hint=f"State the right bands in {folder / FACTS_FILES[-1]}",
        )
    return Checkpoint(folder, text_encoder, unet, autoencoder, facts, latent)


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
    for path in [bundle / "model_index.json", *licence_files(bundle)]:
        shutil.copy2(path, output)
    (output / FACTS_FILES[-1]).write_text(facts_json(read_facts(bundle)), encoding="utf-8")


def read_facts(folder: Path) -> CheckpointFacts:
    """Read what a checkpoint or a bundle says of itself.

    Raises:
        ExportError: it says it in a form that cannot be read.
    """
    if (folder / MANIFEST_NAME).is_file():
        from riffusion_engine.manifest import Manifest

        manifest = Manifest.read(folder)
        source = manifest.source
        return CheckpointFacts(
            manifest.name, source.licence, source.description, manifest.spectrogram, manifest.defaults
        )
    path = next((folder / name for name in FACTS_FILES if (folder / name).is_file()), None)
    if path is None:
        return CheckpointFacts(folder.resolve().name, "unknown", "", SpectrogramParams(), V1_DEFAULTS)
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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep diffusers, transformers and the exporter from writing to the terminal; errors still come as exceptions."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    threshold = logging.root.manager.disable
    bars = [
        library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()
    ]
    logging.disable(logging.CRITICAL)
    for library in bars:
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)
        for library in bars:
            library.enable_progress_bar()


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
        config = _read_config(path)
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


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ExportError(f"{path} cannot be read: {error}", hint="Copy the checkpoint again") from error


def _load(kind: type[T], folder: Path) -> T:
    import torch

    dtype = {"torch_dtype" if kind.__module__.startswith("diffusers") else "dtype": torch.float32}
    variant = "fp16" if any(folder.glob("*.fp16.*")) and not _has_plain_weights(folder) else None
    try:
        model: Any = kind.from_pretrained(folder, variant=variant, local_files_only=True, **dtype)  # type: ignore[attr-defined]
    except RiffusionError:
        raise
    except (
        Exception
    ) as error:  # Damaged files fail in many ways: missing keys, safetensors, pickle, JSON, shapes.
        raise _damaged(folder, error) from error
    loaded: T = model.eval().requires_grad_(False)
    return loaded


def _has_plain_weights(folder: Path) -> bool:
    names = (TEXT_WEIGHTS, MODEL_WEIGHTS, "pytorch_model.bin", "diffusion_pytorch_model.bin")
    return any((folder / name).is_file() or (folder / f"{name}.index.json").is_file() for name in names)


def _damaged(folder: Path, error: Exception) -> ExportError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return ExportError(f"{folder} cannot be loaded: {reason}", hint="Copy or download the checkpoint again")


def _latent_spec(unet: UNet2DConditionModel, autoencoder: AutoencoderKL) -> LatentSpec:
    channels = unet.config.in_channels
    if channels != autoencoder.config.latent_channels or channels != unet.config.out_channels:
        raise ExportError(
            f"The UNet takes {channels} channels and gives {unet.config.out_channels}, the autoencoder's latents have "
            f"{autoencoder.config.latent_channels}",
            hint="Export a text-to-image checkpoint: inpainting and instruction UNets are not covered",
        )
    size = unet.config.sample_size
    if size is None:
        raise ExportError(
            "unet/config.json has no sample_size", hint="State the latents' height and width there"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return LatentSpec(
        channels=channels,
        height=height,
        width=width,
        scale=autoencoder.config.scaling_factor,
        shift=autoencoder.config.shift_factor or 0.0,
        vae_factor=2 ** (len(autoencoder.config.block_out_channels) - 1),
    )
