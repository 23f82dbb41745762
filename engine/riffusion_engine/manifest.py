"""A bundle folder in, its facts out: ``riffusion.json``, typed, versioned, and checked against the files."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec

from riffusion_engine.errors import BundleError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_engine.whole_file import whole_file

MANIFEST_NAME = "riffusion.json"
FORMAT_VERSION = 1

_EXPORT_AGAIN = "Export it again: riffusion-rt export CHECKPOINT -o BUNDLE"
_FETCH_AGAIN = "Copy or download the bundle again, or export it: riffusion-rt export CHECKPOINT -o BUNDLE"
_HASH_BLOCK = 1 << 20

Positive = Annotated[int, msgspec.Meta(ge=1)]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input or output of a graph. A string in ``shape`` names an axis whose size the caller chooses."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class GraphSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One graph: where it lies in the bundle, what it takes and gives, and how near it came to torch.

    ``weights_dtype`` is the type on disk, ``compute_dtype`` that of the arithmetic. ``parity`` holds relative L2
    distances to torch measured at export, keyed ``"batch 1"``, ``"batch 3"``.
    """

    path: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights_dtype: str
    compute_dtype: str
    parity: dict[str, float]


class FileSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A file's SHA-256 in lowercase hexadecimal, and its size in bytes."""

    sha256: Sha256
    size: Annotated[int, msgspec.Meta(ge=0)]


class LatentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The canvas that is denoised: ``latents = (vae_latents - shift) * scale``, ``vae_factor`` pixels to a cell."""

    channels: Positive
    height: Positive
    width: Positive
    scale: float
    shift: float
    vae_factor: Positive


class SamplingDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What the model's maker recommends: sampler, steps, guidance scale, and strength for image to image."""

    sampler: str
    steps: Positive
    guidance: float
    strength: float
    seeded_guidance: float | None = None
    """Guidance of what is drawn from a picture or a recording, which speaks against the prompt; None: ``guidance``."""

    def guidance_of(self, *, seeded: bool) -> float:
        """The guidance scale of clips that are ``seeded`` by a picture or a recording, or drawn from noise alone."""
        return self.seeded_guidance if seeded and self.seeded_guidance is not None else self.guidance


class SourceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Where the weights came from, and on what terms."""

    checkpoint: str
    licence: str
    description: str = ""


class LoraSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A low-rank adaptation that was fused into the weights."""

    name: str
    sha256: Sha256
    scale: float = 1.0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a reader of a bundle may rely on. Unknown fields of newer writers are passed over."""

    format_version: int = FORMAT_VERSION
    name: str
    graphs: dict[str, GraphSpec]
    files: dict[str, FileSpec]
    latent: LatentSpec
    spectrogram: SpectrogramParams
    defaults: SamplingDefaults
    source: SourceSpec
    loras: tuple[LoraSpec, ...] = ()
    exporter: dict[str, str] = {}

    @staticmethod
    def read(bundle: Path) -> Manifest:
        """Read and check the manifest of the folder ``bundle``; the other files are left to ``verify``.

        Raises:
            BundleError: there is none, it is not valid, or it is of another format version.
        """
        raw = _read_manifest_bytes(bundle)
        where = bundle / MANIFEST_NAME
        try:
            version = msgspec.json.decode(raw, type=_Version).format_version
        except msgspec.DecodeError as error:
            raise BundleError(f"{where} is not a manifest: {error}", hint=_FETCH_AGAIN) from error
        if version != FORMAT_VERSION:
            newer = version > FORMAT_VERSION
            raise BundleError(
                f"{where} has format version {version}; this riffusion-rt reads version {FORMAT_VERSION}",
                hint="Upgrade: pip install -U riffusion-rt" if newer else _EXPORT_AGAIN,
            )
        try:
            manifest = msgspec.json.decode(raw, type=Manifest)
        except msgspec.DecodeError as error:
            raise BundleError(f"{where} is not a valid manifest: {error}", hint=_FETCH_AGAIN) from error
        for path in [*manifest.files, *(graph.path for graph in manifest.graphs.values())]:
            if _leaves_the_bundle(path):
                raise BundleError(
                    f"{where} names {path!r}, which lies outside of the bundle", hint=_FETCH_AGAIN
                )
        return manifest

    def write(self, bundle: Path) -> None:
        """Write ``riffusion.json`` into the folder ``bundle``, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        with whole_file(bundle / MANIFEST_NAME) as file:
            file.write(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def graph(self, name: str) -> GraphSpec:
        """The graph of that name.

        Raises:
            BundleError: the bundle has none.
        """
        if name not in self.graphs:
            known = ", ".join(self.graphs) or "none"
            raise BundleError(f"Bundle {self.name} has no {name} graph (it has {known})", hint=_EXPORT_AGAIN)
        return self.graphs[name]

    def verify(self, bundle: Path, *, hashes: bool = True) -> None:
        """Check that every file is there with its size and, unless ``hashes`` is off, its SHA-256.

        Raises:
            BundleError: a file is missing, truncated, or altered.
        """
        for path, spec in self.files.items():
            verify_file(bundle, path, spec, hashes=hashes)


class _Version(msgspec.Struct):
    format_version: int


def verify_file(bundle: Path, path: str, spec: FileSpec, *, hashes: bool = True) -> None:
    """Check one file of a bundle against its entry.

    Raises:
        BundleError: it is missing, truncated, or altered.
    """
    where = bundle / path
    try:
        size = where.stat().st_size
    except OSError as error:
        raise BundleError(f"{path} is missing from bundle {bundle}", hint=_FETCH_AGAIN) from error
    if size != spec.size:
        what = "truncated" if size < spec.size else "longer than it should be"
        message = f"{path} in bundle {bundle} is {what}: {size:,} bytes of {spec.size:,}"
        raise BundleError(message, hint=_FETCH_AGAIN)
    if hashes and file_spec(where).sha256 != spec.sha256:
        raise BundleError(f"{path} in bundle {bundle} was altered: its SHA-256 differs", hint=_FETCH_AGAIN)


def file_spec(path: Path) -> FileSpec:
    """Hash and measure one file.

    Raises:
        BundleError: it cannot be read.
    """
    digest = hashlib.sha256()
    size = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_HASH_BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise BundleError(f"Cannot read {path}: {error.strerror or error}", hint=_FETCH_AGAIN) from error
    return FileSpec(sha256=digest.hexdigest(), size=size)


def _read_manifest_bytes(bundle: Path) -> bytes:
    where = bundle / MANIFEST_NAME
    try:
        return where.read_bytes()
    except OSError as error:
        if not bundle.is_dir():
            raise BundleError(f"There is no bundle folder {bundle}", hint=_EXPORT_AGAIN) from error
        if not where.exists():
            hint = f"Export a checkpoint to a bundle: riffusion-rt export {bundle} -o BUNDLE"
            raise BundleError(f"{bundle} is not a bundle: it has no {MANIFEST_NAME}", hint=hint) from error
        raise BundleError(f"Cannot read {where}: {error.strerror or error}", hint=_FETCH_AGAIN) from error


def _leaves_the_bundle(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts or "\\" in path or ":" in path or not pure.parts
