"""A checkpoint's networks in, the same ones with LoRA layers to train out, and at the end the file that holds them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import OutputError, RequestError
from riffusion_export.silence import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

LORA_FILE = "pytorch_lora_weights.safetensors"

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_FEED_FORWARD = ("proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
_CONVOLUTIONS = (
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
    "downsamplers.0.conv",
    "upsamplers.0.conv",
)
_POOLED_TEXT = tuple(
    f"add_embedding.{name}" for name in ("pool.q_proj", "pool.k_proj", "pool.v_proj", "proj")
)
UNET_LAYERS: dict[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "all": _ATTENTION + _FEED_FORWARD + _CONVOLUTIONS + _POOLED_TEXT,
}
"""What a LoRA may change of a UNet: "attention" is customary for styles, "all" learns sounds new to the model."""
TEXT_LAYERS: dict[str, tuple[str, ...]] = {
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "all": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
HIGHEST_RANK = 1024


def add_lora(unet: Any, text_encoder: Any | None, rank: int, layers: str) -> None:
    """Freeze the networks and give them LoRA layers, which begin by changing nothing.

    ``text_encoder`` is None if it is not to learn. Layers narrower than ``rank`` still get as many.

    Raises:
        RequestError: the rank is out of range.
    """
    from peft import LoraConfig

    if not 1 <= rank <= HIGHEST_RANK:
        raise RequestError(f"A LoRA has no rank {rank}", hint=f"Choose --rank from 1 to {HIGHEST_RANK}")
    for network, names in ((unet, UNET_LAYERS[layers]), (text_encoder, TEXT_LAYERS[layers])):
        if network is not None:
            network.requires_grad_(False)
            # alpha = rank: the change is as strong as it is trained, whatever reads the file.
            network.add_adapter(
                LoraConfig(
                    r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=_regex(names)
                )
            )


@contextmanager
def without_lora(*networks: nn.Module) -> Iterator[None]:
    """While this is entered, the networks are what they were before they learned."""
    from peft.tuners.lora import LoraLayer

    layers = [module for network in networks for module in network.modules() if isinstance(module, LoraLayer)]
    try:
        _scale(layers, 0.0)
        yield
    finally:
        _scale(layers, 1.0)


def _scale(layers: list[Any], scale: float) -> None:
    for layer in layers:
        for adapter in layer.active_adapters:
            layer.set_scale(adapter, scale)


def save_lora(unet: nn.Module, text_encoder: nn.Module | None, output: Path) -> Path:
    """Write the LoRA layers, whole or not at all; returns the file.

    Their names are peft's throughout: diffusers' own differ between attention and other layers, and files that mix the
    two are read by halves.
    """
    with quiet():
        from diffusers import StableDiffusionPipeline
        from peft import get_peft_model_state_dict

    layers: dict[str, Any] = {"unet_lora_layers": _whole(get_peft_model_state_dict(unet))}
    if text_encoder is not None:
        layers["text_encoder_lora_layers"] = _whole(get_peft_model_state_dict(text_encoder))
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output, prefix=".lora-") as scratch:
            StableDiffusionPipeline.save_lora_weights(scratch, weight_name=LORA_FILE, **layers)
            return (Path(scratch) / LORA_FILE).replace(output / LORA_FILE)
    except OSError as error:
        raise OutputError(
            f"Cannot write {output}: {error.strerror}", hint="Choose a writable place with -o"
        ) from error


def _whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files hold them, in whatever order a device is quick at."""
    return {name: value.contiguous() for name, value in state.items()}


def _regex(names: tuple[str, ...]) -> str:
    """A pattern of whole module paths that end in one of ``names``."""
    return r"(?:.*\.)?(?:" + "|".join(name.replace(".", r"\.") for name in names) + ")"
