"""What guidance's two predictions share is computed once, and nothing but that changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from riffusion_engine.denoising_session import WalkPlan
from riffusion_engine.graph_bytes import Graph
from riffusion_engine.graph_rewrites import fuse_attention
from riffusion_engine.manifest import Manifest
from riffusion_engine.onnxruntime_session import OnnxRuntimeSession
from riffusion_engine.shared_guidance import named_once, share_guidance
from riffusion_rt.models import DEFAULT_MODEL, locate_model

Feeds = dict[str, NDArray[np.float32]]


def _feeds(samples: int, twice: bool, timesteps: int = 1, tokens: int = 77) -> Feeds:
    draw = np.random.default_rng(5)
    each = draw.standard_normal((samples, 4, 8, 8), np.float32)
    other = each if twice else draw.standard_normal(each.shape, np.float32)
    return {
        "sample": np.concatenate([each, other]),
        "timestep": np.full(timesteps, 321, np.float32),
        "encoder_hidden_states": draw.standard_normal((2 * samples, tokens, 32), np.float32),
    }


@pytest.fixture(scope="module")
def sessions(toy_bundle: Path) -> tuple[OnnxRuntimeSession, OnnxRuntimeSession]:
    spec = Manifest.read(toy_bundle).graph("unet")
    plain, fused = (
        OnnxRuntimeSession(toy_bundle, spec, device="cpu", threads=1, fused=fused) for fused in (False, True)
    )
    return plain, fused


@pytest.mark.parametrize(
    "feeds",
    [
        _feeds(1, True),
        _feeds(3, True, timesteps=6),
        _feeds(2, True, tokens=154),
        _feeds(2, False),
        {name: array[:1] for name, array in _feeds(1, True).items()},
    ],
    ids=["guided", "guided batch", "long prompts", "four different samples", "unguided"],
)
def test_predictions_stay(sessions: tuple[OnnxRuntimeSession, OnnxRuntimeSession], feeds: Feeds) -> None:
    expected, found = (session.run(feeds)["out_sample"] for session in sessions)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_predictions_of_the_embedded_model_stay() -> None:
    """Its prompts join the timestep, too: next to nothing is shared, and sizes are read off both inputs."""
    bundle = locate_model(DEFAULT_MODEL)
    spec, draw = Manifest.read(bundle).graph("unet"), np.random.default_rng(6)
    each = draw.standard_normal((2, 16, 32, 32), np.float32)
    feeds = {
        "sample": np.concatenate([each, each]),
        "timestep": np.full(4, 600, np.float32),
        "encoder_hidden_states": draw.standard_normal((4, 154, 256), np.float32),
    }
    outputs = []
    for fused in (False, True):
        with OnnxRuntimeSession(bundle, spec, device="cpu", fused=fused) as session:
            outputs.append(session.run(feeds)["out_sample"])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-3, atol=1e-4)


def test_the_layers_before_the_first_prompt_see_each_sample_once(toy_bundle: Path) -> None:
    graph = Graph.read((toy_bundle / "unet" / "model.onnx").read_bytes())
    fuse_attention(graph)
    assert share_guidance(graph)
    early = next(node.outputs[0] for node in graph.nodes if node.op_type == "Conv")
    graph.outputs.append(type(graph.outputs[0])(early, "float32", ("batch", "c", "h", "w")))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(toy_bundle / "unet")
    )
    session = onnxruntime.InferenceSession(graph.write(), options, providers=["CPUExecutionProvider"])
    predicted, inside = session.run(["out_sample", early], dict(named_once(_feeds(3, True))))
    assert (len(predicted), len(inside)) == (6, 3)


def test_only_samples_that_come_twice_are_named_once() -> None:
    assert len(named_once(_feeds(2, True))["sample"]) == 2
    assert len(named_once(_feeds(2, True, timesteps=4))["timestep"]) == 2
    assert len(named_once(_feeds(2, False))["sample"]) == 4
    odd = {name: array[:3] for name, array in _feeds(2, True).items()}
    assert len(named_once(odd)["sample"]) == 3
    at_two_times = _feeds(1, True, timesteps=2)
    at_two_times["timestep"][1] = 5
    assert len(named_once(at_two_times)["sample"]) == 2


def test_a_graph_that_is_no_unet_stays(toy_bundle: Path) -> None:
    graph = Graph.read((toy_bundle / "vae_decoder" / "model.onnx").read_bytes())
    before = list(graph.nodes)
    assert not share_guidance(graph)
    assert graph.nodes == before


def test_a_walk_on_the_device_feeds_the_transformed_weights(
    sessions: tuple[OnnxRuntimeSession, OnnxRuntimeSession],
) -> None:
    """Buffers are bound by name there: whatever a rewritten graph takes besides must be bound, too."""
    draw = np.random.default_rng(3)
    latents = draw.standard_normal((1, 4, 8, 8), np.float32)
    coefficients = np.zeros((1, 2, 3), np.float32)
    coefficients[0] = [[0.5, 0.25, 0], [1, -1, 0]]
    plan = WalkPlan(
        latents=latents,
        prompt=draw.standard_normal((1, 77, 32), np.float32),
        negative=draw.standard_normal((1, 77, 32), np.float32),
        weights=np.full((1, 1, 1, 1), 3, np.float32),
        timesteps=np.full(1, 500, np.float32),
        input_scale=np.ones(1, np.float32),
        coefficients=coefficients,
        guided=(True,),
        kept=None,
    )
    walked = []
    for session in sessions:
        walk = session.begin_walk(plan)
        walk.step(None)
        walked.append(walk.latents())
    np.testing.assert_allclose(walked[1], walked[0], rtol=1e-4, atol=1e-5)
