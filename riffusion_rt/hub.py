"""A hub id in; the files of that model that an export or a player needs, in Hugging Face's local cache, out.

What is there already is not fetched again, and a file that was interrupted goes on where it stopped. The file that
marks a model as complete comes last, so that an interrupted download is never taken for a model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from riffusion_engine.errors import MissingExtraError, ModelNotFoundError
from riffusion_rt.models import BUNDLE_MARK, CHECKPOINT_MARK, HUB_MODELS, is_hub_id

_FACTS = ("README.md", "LICEN[SC]E*", "spectrogram.json", "riffusion_train.json")
_SETTINGS = (
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "scheduler/*.json",
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
)
_STEMS: Mapping[str, str] = {
    "text_encoder": "model",
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
}
"""What diffusers calls the weights of each network; transformers' own are called "pytorch_model" in .bin files."""
_BUNDLE_LEFT_OUT = (".gitattributes", ".git/*")
_POLL_S = 0.2


@dataclass(frozen=True)
class PullProgress:
    """``file`` is being fetched ("" at the end); ``done`` of ``total`` bytes of the whole model are here."""

    file: str
    done: int
    total: int


def pull(
    name: str, *, half: bool = False, settings_only: bool = False, offline: bool = False
) -> Iterator[PullProgress]:
    """Fetch a model from the hub; yields as bytes arrive.

    Of a bundle everything is fetched; of a diffusers checkpoint one set of weights, its settings and its licence.
    ``riffusion_rt.models.locate_model`` and ``locate_checkpoint`` find it afterwards.

    Args:
        name: a hub id ("owner/model") or a short name ("riffusion-v1").
        half: take float16 weights where there are any: half the bytes, and all that a float16 bundle keeps.
        settings_only: only configurations, tokenizer and scheduler, for a single file that has none.
        offline: fetch nothing; find out whether all is there.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ModelNotFoundError: there is no such model, it may not be had, the hub cannot be reached, or, offline, it is
            not here.
    """
    hub_id = HUB_MODELS.get(name, name)
    if not is_hub_id(hub_id):
        raise ModelNotFoundError(
            f"{name} is no hub id",
            hint="Name one as owner/model: riffusion-rt pull riffusion/riffusion-model-v1",
        )
    _require_hub()
    if offline:
        yield from _look(hub_id, settings_only)
        return
    with _told(hub_id):
        sizes = _sizes(hub_id)
    wanted = needed_files(hub_id, sizes, half=half, settings_only=settings_only)
    total = sum(sizes[file] for file in wanted)
    behind = 0
    for file in wanted:
        yield PullProgress(file, behind, total)
        for here in _fetch(hub_id, file):
            yield PullProgress(file, min(behind + here, total), total)
        behind += sizes[file]
    yield PullProgress("", total, total)


def needed_files(
    hub_id: str, files: Iterable[str], *, half: bool = False, settings_only: bool = False
) -> list[str]:
    """Choose from a repository's files, in the order in which they are to be fetched.

    Raises:
        ModelNotFoundError: they are neither a bundle's nor a checkpoint's.
    """
    names = sorted(files)
    if BUNDLE_MARK in names and not settings_only:
        rest = [name for name in names if name != BUNDLE_MARK and not _any(name, _BUNDLE_LEFT_OUT)]
        return [*rest, BUNDLE_MARK]
    settings = [name for name in names if _any(name, (*_FACTS, *_SETTINGS))]
    if not any(name.startswith("tokenizer/") for name in settings):
        raise ModelNotFoundError(
            f"{hub_id} is neither a bundle nor a diffusers checkpoint: it has no tokenizer/",
            hint="Name a Stable Diffusion 1.x model in the diffusers layout, such as riffusion/riffusion-model-v1",
        )
    if settings_only:
        return settings
    if CHECKPOINT_MARK not in names:
        raise ModelNotFoundError(
            f"{hub_id} is no diffusers checkpoint: it has no {CHECKPOINT_MARK}",
            hint="Name a Stable Diffusion 1.x model in the diffusers layout, such as riffusion/riffusion-model-v1",
        )
    weights = [file for part in _STEMS for file in _weights_of(hub_id, part, names, half)]
    return [*settings, *weights, CHECKPOINT_MARK]


def _weights_of(hub_id: str, part: str, names: list[str], half: bool) -> list[str]:
    """The best set of one network's weights: safetensors before pickles, and the precision asked for first."""
    binary = "pytorch_model" if part == "text_encoder" else _STEMS[part]
    for precision in (".fp16", "") if half else ("", ".fp16"):
        for stem, suffix in ((_STEMS[part], "safetensors"), (binary, "bin")):
            whole = f"{part}/{stem}{precision}.{suffix}"
            if whole in names:
                return [whole]
            index = f"{part}/{stem}.{suffix}.index{precision}.json"
            shards = [name for name in names if fnmatch(name, f"{part}/{stem}{precision}-*-of-*.{suffix}")]
            if index in names and shards:
                return [*shards, index]
    raise ModelNotFoundError(
        f"{hub_id} has no weights of its {part} in the diffusers layout",
        hint="If it has a single .safetensors or .ckpt file, download that and name it: riffusion-rt export FILE",
    )


def _any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in patterns)


def _require_hub() -> None:
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "Fetching models needs huggingface_hub", hint="Install it with: pip install 'riffusion-rt[hub]'"
        ) from error


def _sizes(hub_id: str) -> dict[str, int]:
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(hub_id, files_metadata=True).siblings or []
    return {file.rfilename: file.size or 0 for file in siblings}


def _look(hub_id: str, settings_only: bool) -> Iterator[PullProgress]:
    from riffusion_rt.models import locate_checkpoint, locate_model, locate_settings

    if settings_only:
        locate_settings(hub_id)
    else:
        try:
            locate_model(hub_id)
        except ModelNotFoundError:
            locate_checkpoint(hub_id)
    yield PullProgress("", 0, 0)


def _fetch(hub_id: str, file: str) -> Iterator[int]:
    """Fetch one file in a thread of its own; yields how many of its bytes are here."""
    from huggingface_hub import hf_hub_download
    from tqdm.auto import tqdm

    seen = _Seen()

    class Silent(tqdm):  # type: ignore[misc]
        """Counts instead of drawing; it is where a download that is given up can be left."""

        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})
            seen.count = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            seen.count += int(n or 0)
            if seen.given_up.is_set():
                raise _GivenUpError

    with _told(hub_id), ThreadPoolExecutor(1) as executor:
        download: Future[str] = executor.submit(hf_hub_download, hub_id, file, tqdm_class=Silent)
        try:
            while not download.done():
                _wait(download)
                yield seen.count
        finally:
            seen.given_up.set()
        download.result()


class _Seen:
    def __init__(self) -> None:
        self.count = 0
        self.given_up = threading.Event()


class _GivenUpError(Exception):
    """Leaves a download whose caller has gone."""


def _wait(download: Future[str]) -> None:
    from concurrent.futures import wait

    wait([download], timeout=_POLL_S)


@contextmanager
def _told(hub_id: str) -> Iterator[None]:
    """Turn the hub's many errors into one sentence and the next command."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    again = f"riffusion-rt pull {hub_id}"
    try:
        yield
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"{hub_id} asks for its terms to be accepted",
            hint=f"Accept them at {constants.ENDPOINT}/{hub_id}, run `hf auth login`, then `{again}`",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"There is no model {hub_id} on the hub, or not for everyone",
            hint=f"Check the id; if it is private, run `hf auth login`, then `{again}`",
        ) from error
    except (HfHubHTTPError, OSError, _network_error()) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelNotFoundError(
            f"{hub_id} cannot be fetched from {constants.ENDPOINT}: {reason}",
            hint=f"Run `{again}` again when the network is there: it goes on where it stopped",
        ) from error


def _network_error() -> type[Exception]:
    """What huggingface_hub's HTTP client raises when there is no network; which client it is depends on its version."""
    for library, name in (("httpx2", "HTTPError"), ("httpx", "HTTPError"), ("requests", "RequestException")):
        try:
            found: type[Exception] = getattr(__import__(library), name)
        except ImportError:
            continue
        return found
    return OSError
