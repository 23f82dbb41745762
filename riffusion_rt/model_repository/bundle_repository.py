"""A bundle in, a model repository for Triton Inference Server out: a model for each graph, and one that makes clips.

    REPOSITORY/
      text_encoder/config.pbtxt    1/model.onnx/model.onnx  and the weights beside it, or  1/model.plan
      unet/ vae_decoder/ vocoder/  likewise
      riffusion/config.pbtxt       1/model.py  1/bundle/  (the tokenizer, the schedule and the manifest)

The model ``riffusion`` takes a prompt and calls the others (business logic scripting); the server gathers the calls
of clips that are under way at the same time into batches.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_header import map_plan
from riffusion_engine.engine_plan import source_files
from riffusion_engine.errors import EngineError, OutputError, RequestError
from riffusion_engine.manifest import MANIFEST_NAME, GraphSpec, Manifest
from riffusion_rt.model_repository.component_config import KINDS, Tensor, component_config, entry_config

ENTRY = "riffusion"
"""The model that clients call."""
COMPONENTS = ("text_encoder", "unet", "vae_decoder", "vocoder")
"""Graphs that a clip made of a prompt needs; a bundle may have no vocoder."""
VERSION = "1"
FACTS = "bundle"
"""The folder of the entry model with what it must know of the bundle."""
PLANS_LIBRARY = "tensorrt"
"""Whose plans the server runs: TensorRT's, not TensorRT-RTX's."""
FACT_FOLDERS = ("tokenizer", "scheduler")

INPUTS = (
    Tensor("prompt", "string", (1,)),
    Tensor("negative_prompt", "string", (1,), optional=True),
    Tensor("seed", "int64", (1,), optional=True),
    Tensor("steps", "int32", (1,), optional=True),
    Tensor("guidance", "float32", (1,), optional=True),
    Tensor("sampler", "string", (1,), optional=True),
    Tensor("duration_s", "float32", (1,), optional=True),
)
OUTPUTS = (
    Tensor("picture", "uint8", (-1, -1, 3)),
    Tensor("waveform", "float32", (-1, -1)),
    Tensor("sample_rate", "int32", (1,)),
)

ENTRY_CODE = '''"""The model that clients call. It needs riffusion-rt, which needs no torch: pip install riffusion-rt"""

from riffusion_rt.model_repository.clip_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class RepositorySettings:
    """How a repository is to run.

    Raises:
        RequestError: a number is below 1, or the instance is neither "cpu" nor "gpu", or plans are to run on a CPU.
    """

    instance: str = "gpu"
    """Where graphs run: "cpu" or "gpu"."""
    max_batch: int = 8
    """Most samples in one run of an ONNX graph; guidance takes two for a clip."""
    clips_at_once: int = 4
    """Clips under way at a time, whose steps can share a batch."""
    plans: bool = False
    """Serve TensorRT engines that were built here instead of ONNX files."""

    def __post_init__(self) -> None:
        if self.instance not in KINDS or (self.plans and self.instance != "gpu"):
            raise RequestError(
                f"Graphs run on cpu or gpu, and TensorRT's plans on gpu, not on {self.instance!r}",
                hint="Choose --instance gpu",
            )
        if min(self.max_batch, self.clips_at_once) < 1:
            raise RequestError(
                f"A batch and the number of clips are at least 1, not {self.max_batch} and {self.clips_at_once}",
                hint="Leave --max-batch and --clips-at-once out",
            )


def write_repository(
    bundle: Path, repository: Path, settings: RepositorySettings, cache: EngineCache | None = None
) -> Iterator[str]:
    """Write the model repository of a bundle into a new folder, yielding each model's name once it is there.

    The folder appears whole or not at all. Weights are copied.

    Raises:
        BundleError: the bundle is incomplete.
        EngineError: plans are asked for and the cache has none of a graph.
        OutputError: the folder exists and is not empty, or cannot be written.
    """
    manifest = Manifest.read(bundle)
    manifest.verify(bundle)
    if repository.exists() and (not repository.is_dir() or any(repository.iterdir())):
        raise OutputError(f"{repository} is there already", hint="Name a new folder with -o REPOSITORY")
    draft = repository.with_name(f".{repository.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        names = [name for name in COMPONENTS if name in manifest.graphs or name != "vocoder"]
        for name in names:
            _write_component(bundle, manifest, name, draft / name, settings, cache)
            yield name
        _write_entry(bundle, names, draft / ENTRY, settings)
        yield ENTRY
        if repository.exists():
            repository.rmdir()
        draft.rename(repository)
    except OSError as error:
        raise OutputError(
            f"Cannot write {repository}: {error.strerror or error}",
            hint="Choose a writable place with room for the bundle: -o REPOSITORY",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_component(
    bundle: Path,
    manifest: Manifest,
    name: str,
    folder: Path,
    settings: RepositorySettings,
    cache: EngineCache | None,
) -> None:
    graph, version = manifest.graph(name), folder / VERSION
    profiles: Sequence[int] | None = None
    max_batch = settings.max_batch
    if settings.plans:
        version.mkdir(parents=True)
        profiles, max_batch = _copy_plan(manifest, name, version / "model.plan", cache or EngineCache())
    else:
        # A graph of several files is a folder that bears the file's name.
        _copy_graph(bundle, manifest, graph, version / "model.onnx")
    config = component_config(name, graph, instance=settings.instance, max_batch=max_batch, plans=profiles)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")


def _copy_graph(bundle: Path, manifest: Manifest, graph: GraphSpec, folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in source_files(manifest, graph):
        name = "model.onnx" if path == graph.path else Path(path).name
        shutil.copyfile(bundle / path, folder / name)


def _copy_plan(manifest: Manifest, name: str, path: Path, cache: EngineCache) -> tuple[Sequence[int], int]:
    """Copy the plan inside an engine of the cache; returns the indices of its profiles and the largest batch."""
    sources = {path: file.sha256 for path, file in source_files(manifest, manifest.graph(name)).items()}
    for engine in cache.entries():
        header = engine.header
        if header is None or header.recipe.library != PLANS_LIBRARY or header.recipe.component != name:
            continue
        if header.recipe.sources != sources:
            continue
        _, plan, start = map_plan(engine.path)
        with path.open("wb") as file:
            file.write(memoryview(plan)[start:])
        return range(len(header.recipe.profiles)), max(header.recipe.batches)
    raise EngineError(
        f"There is no TensorRT engine of {name} in the cache",
        hint="Build it on the GPU that serves: riffusion-rt build BUNDLE --device trt",
    )


def _write_entry(bundle: Path, names: Sequence[str], folder: Path, settings: RepositorySettings) -> None:
    facts = folder / VERSION / FACTS
    facts.mkdir(parents=True)
    shutil.copyfile(bundle / MANIFEST_NAME, facts / MANIFEST_NAME)
    for name in FACT_FOLDERS:
        shutil.copytree(bundle / name, facts / name)
    (folder / VERSION / "model.py").write_text(ENTRY_CODE, encoding="utf-8")
    parameters = {
        "components": ",".join(names),
        "instance": settings.instance,
        "max_batch": str(settings.max_batch),
    }
    config = entry_config(ENTRY, INPUTS, OUTPUTS, parameters, clips_at_once=settings.clips_at_once)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
