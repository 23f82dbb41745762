"""A repository for Triton parses by Triton's schema, its graphs run as declared, and its model makes our pictures.

No Triton server runs here: ``stand_in_triton`` opens the repository instead.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from stand_in_triton import Request, StandInServer, Tensor

from riffusion_engine.engine_cache import EngineCache
from riffusion_engine.engine_header import EngineHeader, sha256_of, write_engine
from riffusion_engine.engine_plan import EngineRecipe, source_files
from riffusion_engine.errors import BundleError, EngineError, OutputError, RequestError
from riffusion_engine.manifest import Manifest, TensorSpec
from riffusion_rt.cli import main
from riffusion_rt.model_repository.bundle_repository import RepositorySettings, write_repository
from riffusion_rt.model_repository.component_config import quoted, tensor_of
from riffusion_rt.pipeline import Riffusion

ON_A_CPU = RepositorySettings(instance="cpu", max_batch=2, clips_at_once=3)


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's own protobuf schema, as its client package carries it."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("Triton's schema is not installed: pip install tritonclient protobuf")
    pytest.importorskip("google.protobuf")
    # By its file: the package beside it wants gRPC, which reading a config does not.
    path = Path(next(iter(found.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repository(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "models"
    written = list(write_repository(toy_bundle, folder, ON_A_CPU))
    assert written[-1] == "riffusion"
    assert {"text_encoder", "unet", "vae_decoder"} <= set(written)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, schema: Any) -> StandInServer:
    return StandInServer(repository, schema)


@pytest.fixture
def model(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The class that the repository's own ``model.py`` names, as the server would start it."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.module())
    spec = importlib.util.spec_from_file_location("model", server.repository / "riffusion" / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.TritonPythonModel()
    made.initialize(server.arguments("riffusion"))
    server.runs.clear()
    yield made
    server.fail.clear()
    made.finalize()


def _request(**settings: Any) -> Request:
    types = {"seed": np.int64, "steps": np.int32, "guidance": np.float32, "duration_s": np.float32}
    return Request(
        [
            Tensor(name, np.array([value.encode()], object))
            if isinstance(value, str)
            else Tensor(name, np.array([value], types[name]))
            for name, value in settings.items()
        ]
    )


def test_every_config_parses_under_tritons_schema(server: StandInServer, toy_bundle: Path) -> None:
    graphs = Manifest.read(toy_bundle).graphs
    assert server.configs.keys() - {"riffusion"} <= graphs.keys()
    for name, config in server.configs.items():
        assert config.name == name
        if name == "riffusion":
            continue
        assert config.max_batch_size == ON_A_CPU.max_batch
        assert config.HasField("dynamic_batching")
        assert [spec.name for spec in config.input] == [spec.name for spec in graphs[name].inputs]
        assert [spec.name for spec in config.output] == [spec.name for spec in graphs[name].outputs]


def test_the_entry_is_a_python_model_whose_prompt_alone_is_needed(server: StandInServer) -> None:
    config = server.configs["riffusion"]
    assert config.backend == "python"
    assert [spec.name for spec in config.input if not spec.optional] == ["prompt"]
    assert config.instance_group[0].count == ON_A_CPU.clips_at_once


@pytest.mark.parametrize("batch", [1, 2])
def test_graphs_run_with_the_declared_shapes_and_types(server: StandInServer, batch: int) -> None:
    draw = np.random.default_rng(0)
    for name, session in server.sessions.items():
        config = server.configs[name]
        inputs = []
        for spec, found in zip(config.input, session.get_inputs(), strict=True):
            shape = (batch, *(77 if size == -1 else size for size in spec.dims))
            dtype = {
                "tensor(float)": np.float32,
                "tensor(float16)": np.float16,
                "tensor(int32)": np.int32,
                "tensor(int64)": np.int64,
            }[found.type]
            numbers = draw.integers(0, 40, shape) if np.issubdtype(dtype, np.integer) else draw.random(shape)
            inputs.append(Tensor(spec.name, numbers.astype(dtype)))
        outputs = server.run(name, inputs, [spec.name for spec in config.output])
        assert all(len(output.as_numpy()) == batch for output in outputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 3, "steps": 2},
        {"seed": 4, "steps": 2, "guidance": 1.0, "sampler": "euler-a"},
        {"steps": 2, "negative_prompt": "drums", "duration_s": 1.5},
    ],
)
def test_the_same_seed_gives_the_pipelines_picture_and_sound(
    model: Any, server: StandInServer, toy_bundle: Path, settings: dict[str, Any]
) -> None:
    (response,) = model.execute([_request(prompt="a piano", **settings)])
    assert not response.has_error(), response.error()
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        clip = riffusion.generate("a piano", **settings)
    picture, waveform, rate = (
        response.tensors[name].as_numpy() for name in ("picture", "waveform", "sample_rate")
    )
    apart = np.abs(picture.astype(np.int16) - np.asarray(clip.image, np.int16))
    assert apart.max() <= 1
    assert waveform.shape == clip.samples.shape
    assert waveform.dtype == np.float32
    assert rate.tolist() == [clip.sample_rate]
    assert server.runs["unet"] >= 2
    for spec in server.configs["riffusion"].output:
        server.admitted(spec, response.tensors[spec.name].as_numpy(), batched=False)


def test_a_batch_beyond_the_models_largest_goes_in_parts(model: Any, server: StandInServer) -> None:
    long = " ".join(["piano"] * 400)
    (response,) = model.execute([_request(prompt=long, steps=1, guidance=1.0)])
    assert not response.has_error(), response.error()
    assert server.runs["text_encoder"] >= 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prompt": "x", "steps": 0}, "steps"),
        ({"seed": 1}, "no prompt"),
        ({"prompt": "x", "sampler": "y"}, "y"),
    ],
)
def test_a_request_that_cannot_be_is_answered_with_an_error(
    model: Any, settings: dict[str, Any], told: str
) -> None:
    first, second = model.execute([_request(**settings), _request(prompt="x", steps=1)])
    assert told in first.error().message()
    assert not second.has_error()


def test_an_error_of_the_server_is_passed_on(model: Any, server: StandInServer) -> None:
    server.fail.add("unet")
    (response,) = model.execute([_request(prompt="x", steps=1)])
    assert "out of memory" in response.error().message()


def test_the_verb_writes_the_same_repository(toy_bundle: Path, tmp_path: Path, repository: Path) -> None:
    folder = tmp_path / "models"
    arguments = ["--instance", "cpu", "--max-batch", "2", "--clips-at-once", "3"]
    done = CliRunner().invoke(main, ["export-triton", str(toy_bundle), "-o", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    wanted = {
        path.relative_to(repository): path.read_bytes() for path in repository.rglob("*") if path.is_file()
    }
    wanted = {path: data for path, data in wanted.items() if "__pycache__" not in path.parts}
    assert files == wanted


def test_a_folder_with_something_in_it_is_left_alone(toy_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="already"):
        list(write_repository(toy_bundle, tmp_path, ON_A_CPU))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_of_a_repository_that_could_not_be_finished(toy_bundle: Path, tmp_path: Path) -> None:
    settings = RepositorySettings(plans=True)
    with pytest.raises(EngineError, match="text_encoder"):
        list(write_repository(toy_bundle, tmp_path / "models", settings, EngineCache(tmp_path / "cache")))
    assert not [path for path in tmp_path.iterdir() if "models" in path.name]


def test_plans_are_taken_out_of_their_engines(toy_bundle: Path, tmp_path: Path, schema: Any) -> None:
    from google.protobuf import text_format

    bundle, cache = tmp_path / "bundle", EngineCache(tmp_path / "cache")
    shutil.copytree(toy_bundle, bundle)
    manifest = Manifest.read(bundle)
    for name, graph in manifest.graphs.items():
        recipe = EngineRecipe(
            component=name,
            library="tensorrt",
            library_version="10.9",
            target="sm90",
            system="Linux",
            machine="x86_64",
            sources={path: file.sha256 for path, file in source_files(manifest, graph).items()},
            inputs=graph.inputs,
            outputs=graph.outputs,
            weights_dtype=graph.weights_dtype,
            compute_dtype=graph.compute_dtype,
            profiles=({"x": (1, 4)}, {"x": (2, 4)}),
        )
        plan = f"the plan of {name}".encode()
        header = EngineHeader(
            name="toy",
            bundle=str(bundle),
            recipe=recipe,
            plan_sha256=sha256_of(plan),
            plan_bytes=len(plan),
            build_s=1.0,
            peak_bytes=1,
        )
        write_engine(cache.path(recipe), header, plan)
    names = list(write_repository(bundle, tmp_path / "models", RepositorySettings(plans=True), cache))
    for name in names[:-1]:
        assert (
            tmp_path / "models" / name / "1" / "model.plan"
        ).read_bytes() == f"the plan of {name}".encode()
        text = (tmp_path / "models" / name / "config.pbtxt").read_text()
        config = text_format.Parse(text, schema.ModelConfig())
        assert config.platform == "tensorrt_plan"
        assert config.max_batch_size == 2
        assert list(config.instance_group[0].profile) == ["0", "1"]


@pytest.mark.parametrize(
    "settings", [{"instance": "npu"}, {"instance": "cpu", "plans": True}, {"max_batch": 0}]
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        RepositorySettings(**settings)


def test_a_tensor_without_a_batch_is_refused() -> None:
    with pytest.raises(BundleError, match="batch"):
        tensor_of(TensorSpec(name="x", dtype="float32", shape=(1, 4)))


def test_text_is_quoted_for_the_format(schema: Any) -> None:
    from google.protobuf import text_format

    odd = 'a "b"\\c\nd'
    assert text_format.Parse(f"name: {quoted(odd)}", schema.ModelConfig()).name == odd
