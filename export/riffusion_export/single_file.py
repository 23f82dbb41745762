"""One file in Stable Diffusion's original layout in (.safetensors or .ckpt), its networks one by one out.

Such a file holds weights only. The tokenizer, and whatever it has of configurations and scheduler, comes from a
diffusers folder beside it; what that lacks is as Stable Diffusion v1 was published. No network is asked.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import ExportError
from riffusion_export.checkpoint import Source, open_checkpoint
from riffusion_export.facts import facts_unsaid, read_facts
from riffusion_export.geometry import geometry_of, read_configs, skeleton
from riffusion_export.silence import quiet

if TYPE_CHECKING:
    from torch import Tensor, nn

SUFFIXES: tuple[str, ...] = (".safetensors", ".ckpt")
PREFIXES: Mapping[str, str] = {
    "text_encoder": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
}
"""Where the original layout (CompVis, latent diffusion) keeps each network."""

_OTHER_TEXT_ENCODERS: tuple[str, ...] = ("cond_stage_model.model.", "conditioner.")
"""Where Stable Diffusion 2.x and XL keep theirs."""
_HINT = (
    "Name a Stable Diffusion 1.x checkpoint, or a diffusers folder: riffusion-rt export CHECKPOINT -o BUNDLE"
)
_SAFE_HINT = "Convert it to .safetensors where it was made, and export that"


def open_source(checkpoint: Path, like: Path | None = None) -> Source:
    """Look at a checkpoint: a diffusers folder, a bundle, or a single file.

    Args:
        checkpoint: the folder or file.
        like: for a single file, the diffusers folder that has a tokenizer for it.

    Raises:
        ExportError: it is none of these, or ``like`` is missing or superfluous.
    """
    if checkpoint.is_file():
        return open_single_file(checkpoint, like)
    if like is not None:
        raise ExportError(
            "--like is for single files: a checkpoint folder has a tokenizer of its own",
            hint="Leave --like out",
        )
    return open_checkpoint(checkpoint)


def open_single_file(file: Path, like: Path | None) -> Source:
    """Look at a single file; its weights are read when they are asked for.

    Raises:
        ExportError: it cannot be read safely, is of another class, or there is no tokenizer for it.
    """
    if file.suffix not in SUFFIXES:
        raise ExportError(f"{file} is neither a .safetensors nor a .ckpt file", hint=_HINT)
    if like is None or not (like / "tokenizer").is_dir():
        raise ExportError(
            f"{file.name} holds weights only, and {like or 'nothing'} gives it a tokenizer",
            hint=f"Name a folder or hub id that has one: riffusion-rt export {file} --like FOLDER -o BUNDLE",
        )
    with _opened(file) as weights:
        _check_layout(file, weights.keys())
    configs = read_configs(like)
    stated = read_facts(like)
    facts = dataclasses.replace(
        facts_unsaid(file.stem), spectrogram=stated.spectrogram, defaults=stated.defaults
    )
    described = (path for path in like.rglob("*") if path.suffix in (".json", ".txt"))
    return Source(
        name=file.name,
        folder=like,
        facts=facts,
        geometry=geometry_of(configs, facts, like),
        files=(file, *sorted(described)),
        load=lambda part: _load_part(file, configs, part),
        skeleton=lambda part: skeleton(configs, part),
    )


def convert_part(part: str, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of one network under the names that diffusers gives them.

    Args:
        part: "text_encoder", "unet" or "vae".
        state: weights under the original layout's names, prefix included.
        config: the network's configuration.
    """
    from diffusers.loaders import single_file_utils as layout

    own = {key: value for key, value in state.items() if key.startswith(PREFIXES[part])}
    if part == "unet":
        return dict(layout.convert_ldm_unet_checkpoint(own, config))
    if part == "vae":
        return dict(layout.convert_ldm_vae_checkpoint(own, config))
    return dict(layout.convert_ldm_clip_checkpoint(own))


def _load_part(file: Path, configs: Mapping[str, Mapping[str, Any]], part: str) -> nn.Module:
    network = skeleton(configs, part)
    with _opened(file) as weights, quiet():
        own = {key: weights[key].float() for key in weights if key.startswith(PREFIXES[part])}
        try:
            state = convert_part(part, own, configs[part])
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            raise _unfitting(file, part, error) from error
    del own
    if part == "text_encoder":
        wanted = network.state_dict().keys()
        state = {
            key if key in wanted else key.removeprefix("text_model."): value
            for key, value in state.items()
            if not key.endswith("position_ids")  # A count from 0, which old files store.
        }
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _unfitting(file, part, error) from error
    return network.eval().requires_grad_(False)


@contextmanager
def _opened(file: Path) -> Iterator[Mapping[str, Tensor]]:
    """The weights of a file by name, read one by one where the format allows it; nothing in the file is executed.

    Raises:
        ExportError: the file is damaged, or a pickle that is more than weights.
    """
    import safetensors
    import torch

    if file.suffix == ".safetensors":
        try:
            with safetensors.safe_open(file, "pt") as opened:
                yield _Safetensors(opened)
        except (OSError, safetensors.SafetensorError) as error:
            raise ExportError(
                f"{file} cannot be read: {str(error).splitlines()[0]}", hint="Download the checkpoint again"
            ) from error
        return
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except pickle.UnpicklingError as error:
        raise ExportError(f"{file} is a pickle that holds more than weights", hint=_SAFE_HINT) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise ExportError(
            f"{file} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}",
            hint="Download the checkpoint again",
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    yield {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


class _Safetensors(Mapping[str, "Tensor"]):
    """An open safetensors file as a mapping that reads what it is asked for."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened
        self._keys: tuple[str, ...] = tuple(opened.keys())

    def __getitem__(self, key: str) -> Tensor:
        tensor: Tensor = self._opened.get_tensor(key)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _is_zip(file: Path) -> bool:
    """Whether torch wrote the file as it does since 1.6; older ones cannot be mapped into memory."""
    with file.open("rb") as opened:
        return opened.read(2) == b"PK"


def _check_layout(file: Path, keys: Iterable[str]) -> None:
    present = list(keys)
    other = any(key.startswith(_OTHER_TEXT_ENCODERS) for key in present)
    for part, prefix in PREFIXES.items():
        if not any(key.startswith(prefix) for key in present):
            raise ExportError(
                f"{file} is of the Stable Diffusion 2.x or XL class"
                if other
                else f"{file} is no whole Stable Diffusion checkpoint: it has no {part} ({prefix}…)",
                hint=_HINT,
            )


def _unfitting(file: Path, part: str, error: Exception) -> ExportError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[1] if len(lines) > 1 else (lines or [type(error).__name__])[0]
    return ExportError(f"The {part} in {file} does not fit its configuration: {reason[:200]}", hint=_HINT)
