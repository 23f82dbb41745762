"""LoRA files and a network in, the network with their low-rank changes added to its weights out.

Layers are found by name: kohya's (``lora_unet_…``, dots as underscores), diffusers' of all generations, and peft's.
A change is ``weight * alpha / rank * up @ down`` (Hu et al. 2021, arXiv 2106.09685).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import LoraSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_TEXT_PREFIX = "text_model."
_HINT = "Name a LoRA for Stable Diffusion 1.x: --lora FILE.safetensors[:WEIGHT]"
_HALF = re.compile(
    r"^(?P<layer>.+?)(?:[._]lora|\.lora_linear_layer)?"
    r"(?:\.|_)(?P<half>down|up|A|B)(?:\.default)?\.weight$"
)
_ALPHA = ".alpha"
_HALVES: Mapping[str, str] = {"A": "down", "B": "up", "down": "down", "up": "up"}
_OTHER_KINDS: Mapping[str, str] = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "a LoCon with a middle matrix",
    "oft_": "OFT",
}
"""What a key's part says of files that hold something other than plain low-rank pairs."""
_PROCESSOR_NAMES: Mapping[str, Mapping[str, str]] = {
    "unet": {"to_out": "to_out.0"},
    "text_encoder": {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"},
}
"""Layers as diffusers' attention processors called them, and what they are called in the network."""


@dataclass(frozen=True)
class LoraRequest:
    """A LoRA file to fuse, and how strongly: 1 is as trained, negative takes it away."""

    path: Path
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """The change of one layer: ``up`` (out, rank, …), ``down`` (rank, in, …), scaled by ``alpha / rank``."""

    key: str
    up: Tensor
    down: Tensor
    alpha: float


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA as read: its layers, and what the manifest says of it."""

    spec: LoraSpec
    layers: tuple[LoraLayer, ...]


def parse_lora(text: str) -> LoraRequest:
    """Read ``FILE`` or ``FILE:WEIGHT``.

    Raises:
        ExportError: the weight is not a finite number.
    """
    path, colon, weight = text.rpartition(":")
    if not colon or Path(text).is_file() or "/" in weight or "\\" in weight:
        return LoraRequest(Path(text).expanduser())
    try:
        scale = float(weight)
    except ValueError:
        scale = float("nan")
    if not abs(scale) < float("inf"):
        raise ExportError(f"--lora {text}: {weight!r} is not a weight", hint=_HINT)
    return LoraRequest(Path(path).expanduser(), scale)


def read_lora(request: LoraRequest) -> Lora:
    """Read a LoRA file; its tensors stay in the type they are stored in.

    Raises:
        ExportError: it cannot be read, or holds something other than low-rank pairs.
    """
    import safetensors

    path = request.path
    if path.suffix != ".safetensors":
        raise ExportError(
            f"{path} is not a .safetensors file, the only kind of LoRA that is read", hint=_HINT
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, safetensors.SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"The LoRA {path} cannot be read: {reason}", hint=_HINT) from error
    spec = LoraSpec(name=path.stem, sha256=digest, scale=request.weight)
    return Lora(spec, tuple(_layers(path, state, _stated_alphas(path, metadata))))


def check_fit(loras: Sequence[Lora], networks: Mapping[str, nn.Module]) -> None:
    """Refuse LoRAs that the networks have no place for; the networks may be on torch's meta device.

    Args:
        loras: as read.
        networks: "text_encoder" and "unet".

    Raises:
        ExportError: a layer is unknown, or has another shape.
    """
    for lora in loras:
        unplaced = list(lora.layers)
        for part, network in networks.items():
            places = _places(part, network)
            for layer in [layer for layer in unplaced if layer.key in places]:
                _check_shape(lora, layer, places[layer.key])
                unplaced.remove(layer)
        if unplaced:
            names = ", ".join(layer.key for layer in unplaced[:3])
            raise ExportError(
                f"The LoRA {lora.spec.name} changes {len(unplaced)} of {len(lora.layers)} layers that this checkpoint "
                f"does not have: {names}{', …' if len(unplaced) > 3 else ''}",
                hint="It was trained on another kind of model; " + _HINT,
            )


def fuse_loras(loras: Sequence[Lora], part: str, network: nn.Module) -> int:
    """Add the changes of ``loras`` to the float32 weights of ``network`` in place; returns how many layers changed."""
    import torch

    places = _places(part, network)
    fused = 0
    with torch.no_grad():
        for lora in loras:
            for layer in lora.layers:
                if layer.key not in places:
                    continue
                weight: Any = places[layer.key].weight
                rank = layer.down.shape[0]
                change = layer.up.float().flatten(1) @ layer.down.float().flatten(1)
                weight.add_(change.reshape(weight.shape), alpha=lora.spec.scale * layer.alpha / rank)
                fused += 1
    return fused


def _layers(path: Path, state: Mapping[str, Any], alphas: Mapping[str, float]) -> Iterable[LoraLayer]:
    halves: dict[str, dict[str, Any]] = {}
    stated = dict(alphas)
    for key, value in state.items():
        other = next((kind for sign, kind in _OTHER_KINDS.items() if sign in key), None)
        if other:
            raise ExportError(f"The LoRA {path} is {other} ({key}): only plain LoRA is fused", hint=_HINT)
        found = _HALF.match(key)
        if key.endswith(_ALPHA):
            stated[_layer_key(key.removesuffix(_ALPHA))] = float(value)
        elif found:
            halves.setdefault(_layer_key(found["layer"]), {})[_HALVES[found["half"]]] = value
        else:
            raise ExportError(f"The LoRA {path} holds {key}, which is no part of a LoRA", hint=_HINT)
    if not halves:
        raise ExportError(f"The LoRA {path} changes no layer", hint=_HINT)
    for key, pair in halves.items():
        if set(pair) != {"up", "down"}:
            raise ExportError(f"The LoRA {path} holds one half only of {key}", hint=_HINT)
        rank = pair["down"].shape[0]
        if pair["up"].ndim < 2 or pair["up"].shape[1] != rank:
            raise ExportError(
                f"The LoRA {path} has two ranks for {key}: its halves are {tuple(pair['up'].shape)} and "
                f"{tuple(pair['down'].shape)}",
                hint="The file is damaged: download it again",
            )
        if not all(half.isfinite().all() for half in pair.values()):
            raise ExportError(f"The LoRA {path} holds NaN or infinity in {key}", hint="Download it again")
        part = key.split(".", 1)[0].removesuffix("_")
        alpha = stated.get(key, stated.get(part, float(rank)))
        yield LoraLayer(key, pair["up"], pair["down"], alpha)


def _layer_key(layer: str) -> str:
    """A layer's name in one spelling: "unet.…" or "text_encoder.…" and the module's path, or kohya's name."""
    layer = layer.removeprefix("base_model.model.")
    if layer.startswith("lora_"):
        return layer.replace("lora_te1_", "lora_te_", 1)
    part, dot, rest = layer.partition(".")
    if not dot or part not in _PROCESSOR_NAMES:
        part, rest = ("text_encoder" if layer.startswith((_TEXT_PREFIX, "encoder.")) else "unet"), layer
    owner, _, last = rest.rpartition(".")
    if owner.endswith((".processor", ".self_attn")) and last in ("to_q", "to_k", "to_v", "to_out"):
        owner, last = owner.removesuffix(".processor"), _PROCESSOR_NAMES[part].get(last, last)
    path = f"{owner}.{last}" if owner else last
    return f"{part}.{path.removeprefix(_TEXT_PREFIX)}"


def _places(part: str, network: nn.Module) -> dict[str, Any]:
    """The layers of a network that a LoRA can change, under each of their keys."""
    from torch import nn

    kohya = {"text_encoder": "lora_te_text_model_", "unet": "lora_unet_"}[part]
    places: dict[str, Any] = {}
    for path, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            bare = path.removeprefix(_TEXT_PREFIX)
            places[f"{part}.{bare}"] = places[kohya + bare.replace(".", "_")] = module
    return places


def _check_shape(lora: Lora, layer: LoraLayer, place: Any) -> None:
    shape = tuple(place.weight.shape)
    rank = layer.down.shape[0]
    size = layer.down.numel() // max(rank, 1)
    if (layer.up.flatten(1).shape, size) != ((shape[0], rank), place.weight[0].numel()):
        raise ExportError(
            f"The LoRA {lora.spec.name} does not fit {layer.key}: its halves {tuple(layer.up.shape)} and "
            f"{tuple(layer.down.shape)} do not make a weight of {shape}",
            hint="It was trained on another kind of model; " + _HINT,
        )


def _stated_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, float]:
    """Alphas by part ("unet") from the metadata that diffusers writes; peft writes them into a file of its own."""
    try:
        stated = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        parts = {part: _of_part(stated, part) for part in _PROCESSOR_NAMES}
    except (ValueError, AttributeError) as error:
        raise ExportError(f"The metadata of the LoRA {path} cannot be read: {error}", hint=_HINT) from error
    for part, settings in parts.items():
        unusual = [
            name
            for name in ("use_rslora", "use_dora", "alpha_pattern", "fan_in_fan_out")
            if settings.get(name)
        ]
        if unusual:
            raise ExportError(
                f"The LoRA {path} scales its {part} in ways that are not fused: {', '.join(unusual)}",
                hint=_HINT,
            )
    return {
        part: float(settings["lora_alpha"]) for part, settings in parts.items() if "lora_alpha" in settings
    }


def _of_part(stated: Mapping[str, Any], part: str) -> dict[str, Any]:
    prefix = f"{part}."
    return {key.removeprefix(prefix): value for key, value in stated.items() if key.startswith(prefix)}
