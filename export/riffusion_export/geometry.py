"""The configurations of three networks in, the geometry of their graphs and the networks' skeletons out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import LatentSpec
from riffusion_export import published_v1
from riffusion_export.facts import FACTS_FILES, CheckpointFacts
from riffusion_export.silence import quiet

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Geometry:
    """What graphs are drawn for: the canvas, and ``tokens`` of a ``vocabulary``, each ``text_width`` numbers."""

    latent: LatentSpec
    tokens: int
    vocabulary: int
    text_width: int


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configurations of the three networks, completed by their classes' defaults.

    A network without one has Stable Diffusion v1's.
    """
    with quiet():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig

        stated = {
            part: read_config(folder / part / "config.json")
            if (folder / part / "config.json").is_file()
            else config
            for part, config in published_v1.CONFIGS.items()
        }
        text = CLIPTextConfig(**stated["text_encoder"])
    return {
        "text_encoder": text.to_dict(),
        "unet": {**_defaults(UNet2DConditionModel), **stated["unet"]},
        "vae": {**_defaults(AutoencoderKL), **stated["vae"]},
    }


def geometry_of(configs: Mapping[str, Mapping[str, Any]], facts: CheckpointFacts, where: Path) -> Geometry:
    """Derive a checkpoint's geometry from its configurations.

    Raises:
        ExportError: they contradict each other or the spectrogram, or are not a text-to-image model's.
    """
    latent = _latent_spec(configs["unet"], configs["vae"])
    if facts.spectrogram.bands != latent.height * latent.vae_factor:
        raise ExportError(
            f"The model draws {latent.height * latent.vae_factor} rows, but its spectrogram has "
            f"{facts.spectrogram.bands} bands",
            hint=f"State the right bands in {where / FACTS_FILES[-1]}",
        )
    text = configs["text_encoder"]
    width = configs["unet"]["cross_attention_dim"]
    if width != text["hidden_size"]:
        raise ExportError(
            f"The UNet reads text {width} numbers wide, the text encoder writes {text['hidden_size']}",
            hint="Export a checkpoint of the Stable Diffusion 1.x or 2.x class",
        )
    return Geometry(latent, text["max_position_embeddings"], text["vocab_size"], width)


def skeleton(configs: Mapping[str, Mapping[str, Any]], part: str) -> nn.Module:
    """One network without weights: its parameters are on torch's meta device, its buffers are real."""
    with quiet():
        from accelerate import init_empty_weights  # type: ignore[import-untyped]
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel

        network: nn.Module
        with init_empty_weights():
            if part == "text_encoder":
                network = CLIPTextModel(CLIPTextConfig(**configs[part]))
            else:
                kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
                network = kind.from_config(dict(configs[part]))
        return network.eval().requires_grad_(False)


def read_config(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ExportError: it is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise ExportError(f"{path} cannot be read: {error}", hint="Copy the checkpoint again") from error


def _defaults(kind: Any) -> dict[str, Any]:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}


def _latent_spec(unet: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> LatentSpec:
    channels = unet["in_channels"]
    if channels != autoencoder["latent_channels"] or channels != unet["out_channels"]:
        raise ExportError(
            f"The UNet takes {channels} channels and gives {unet['out_channels']}, the autoencoder's latents have "
            f"{autoencoder['latent_channels']}",
            hint="Export a text-to-image checkpoint: inpainting and instruction UNets are not covered",
        )
    size = unet["sample_size"]
    if size is None:
        raise ExportError(
            "unet/config.json has no sample_size", hint="State the latents' height and width there"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return LatentSpec(
        channels=channels,
        height=height,
        width=width,
        scale=autoencoder["scaling_factor"],
        shift=autoencoder["shift_factor"] or 0.0,
        vae_factor=2 ** (len(autoencoder["block_out_channels"]) - 1),
    )
