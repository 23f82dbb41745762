"""What a user calls a model in, the folder of its bundle out."""

from __future__ import annotations

import difflib
import re
import shlex
from pathlib import Path

from riffusion_engine.errors import ModelNotFoundError

DEFAULT_MODEL = "riffusion-mini"
"""The model inside the package: small, and there without a network."""

EMBEDDED_MODELS = (DEFAULT_MODEL,)
"""Bundles that come with the package, by their short names."""

HUB_MODELS = {"riffusion-v1": "riffusion/riffusion-model-v1"}
"""Short names of models on the hub, and their ids there."""

_BUNDLES = Path(__file__).parent / "bundles"
BUNDLE_MARK = "riffusion.json"
"""The file that makes a folder a bundle."""
CHECKPOINT_MARK = "model_index.json"
"""The file that makes a folder a diffusers checkpoint."""
SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt")
"""What a checkpoint in one file ends in."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def locate_model(name: str | Path) -> Path:
    """Find the bundle a name stands for. Nothing is downloaded and nothing in the bundle is read.

    In this order ``name`` is the short name of an embedded model ("riffusion-mini"), a bundle's folder, the
    short name of a model on the hub ("riffusion-v1"), or a hub id ("owner/model") found in Hugging Face's
    local cache.

    Raises:
        ModelNotFoundError: nothing goes by that name, or what does is a checkpoint still to be exported. The
            hint is the command that mends it.
    """
    if name in EMBEDDED_MODELS:
        return _embedded(str(name))
    folder = _existing_folder(name)
    if folder is not None:
        return _bundle_in(folder, name)
    hub_id = HUB_MODELS.get(str(name), str(name))
    if not _may_be_on_the_hub(name, hub_id):
        raise _unknown(name)
    cached = _cached(hub_id, BUNDLE_MARK) or _cached(hub_id, CHECKPOINT_MARK)
    if cached is None:
        raise _not_downloaded(name, hub_id)
    return _bundle_in(cached, hub_id)


def locate_checkpoint(name: str | Path) -> Path:
    """Find the checkpoint a name stands for: an embedded model, a folder, a single file, or what is cached of the hub.

    Whether it really is a checkpoint is the export's to find out.

    Raises:
        ModelNotFoundError: nothing goes by that name.
    """
    if name in EMBEDDED_MODELS:
        return locate_model(name)
    folder = _existing_folder(name)
    if folder is not None:
        return folder
    if _exists(name) and Path(name).suffix in SINGLE_FILE_SUFFIXES:
        return Path(name).expanduser()
    hub_id = HUB_MODELS.get(str(name), str(name))
    if not _may_be_on_the_hub(name, hub_id):
        raise ModelNotFoundError(
            f"{name} is {'a file' if _exists(name) else 'not there'}; a checkpoint is a folder, a .safetensors or "
            "a .ckpt file",
            hint="Name one, or a hub id such as riffusion/riffusion-model-v1",
        )
    cached = _cached(hub_id, CHECKPOINT_MARK)
    if cached is None:
        raise _not_downloaded(name, hub_id)
    return cached


def locate_settings(name: str | Path) -> Path:
    """Find a folder that gives a single file its tokenizer: a folder, or a name or id on the hub that is cached.

    Raises:
        ModelNotFoundError: nothing goes by that name.
    """
    folder = _existing_folder(name)
    if folder is not None:
        return folder
    hub_id = HUB_MODELS.get(str(name), str(name))
    for file in ("tokenizer/vocab.json", "tokenizer/tokenizer.json"):
        cached = _cached(hub_id, file) if _may_be_on_the_hub(name, hub_id) else None
        if cached is not None:
            return cached.parent
    raise ModelNotFoundError(
        f"{name} is neither a folder here nor in the local Hugging Face cache: there is no tokenizer to take from it",
        hint=f"Get it with `riffusion-rt pull --settings-only {hub_id}`",
    )


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, owner/model."""
    return bool(_HUB_ID.fullmatch(name))


def _embedded(name: str) -> Path:
    folder = _BUNDLES / name
    if not (folder / BUNDLE_MARK).is_file():
        raise ModelNotFoundError(
            f"The embedded model {name} is missing from this installation",
            hint="Install again with `pip install --force-reinstall riffusion-rt`",
        )
    return folder


def _bundle_in(folder: Path, name: str | Path) -> Path:
    if (folder / BUNDLE_MARK).is_file():
        return folder
    if (folder / CHECKPOINT_MARK).is_file():
        raise ModelNotFoundError(
            f"{name} is a diffusers checkpoint, not yet a bundle",
            hint=f"Run `riffusion-rt export {shlex.quote(str(name))} -o BUNDLE` and use --model BUNDLE",
        )
    raise ModelNotFoundError(
        f"{name} is no bundle: it has no {BUNDLE_MARK}",
        hint="Make one from a diffusers checkpoint with `riffusion-rt export CHECKPOINT -o BUNDLE`",
    )


def _may_be_on_the_hub(name: str | Path, hub_id: str) -> bool:
    return isinstance(name, str) and not _exists(name) and is_hub_id(hub_id)


def _existing_folder(name: str | Path) -> Path | None:
    return Path(name).expanduser() if _exists(name) and Path(name).expanduser().is_dir() else None


def _exists(name: str | Path) -> bool:
    """Whether a file or folder has this name; a name no file can have (too long, unknown ~user) has none."""
    try:
        return bool(str(name)) and Path(name).expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False


def _cached(hub_id: str, file: str) -> Path | None:
    """The folder in Hugging Face's cache that holds ``file`` of the model's main revision."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # Without the extra there is no cache to look into.
        return None
    found = try_to_load_from_cache(hub_id, file)
    return Path(found).parent if isinstance(found, str) else None


def _not_downloaded(name: str | Path, hub_id: str) -> ModelNotFoundError:
    called = f"{name} ({hub_id})" if str(name) != hub_id else hub_id
    return ModelNotFoundError(
        f"{called} is neither a folder here nor in the local Hugging Face cache",
        hint=f"Get it with `riffusion-rt pull {hub_id}`; nothing is downloaded unasked",
    )


def _unknown(name: str | Path) -> ModelNotFoundError:
    if _exists(name):
        return ModelNotFoundError(
            f"{name} is a file; a model is a folder with a {BUNDLE_MARK}",
            hint="Name a bundle's folder, or leave --model out for the embedded one",
        )
    known = [*EMBEDDED_MODELS, *HUB_MODELS]
    close = difflib.get_close_matches(str(name).lower(), known, n=1)
    if close:
        return ModelNotFoundError(f"There is no model {name}", hint=f"Did you mean `--model {close[0]}`")
    return ModelNotFoundError(
        f"There is no model {name}",
        hint=f"Known are {', '.join(known)}; a bundle's folder or a hub id (owner/model) does too",
    )
