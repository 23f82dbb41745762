"""How fast is a guided UNet step on this CPU, and what does each way of making it faster cost in parity?

python benchmarks/cpu_full_size.py BUNDLE                   # every way; rows in benchmarks/results/cpu_ways.jsonl
python benchmarks/cpu_full_size.py BUNDLE --way standard    # one of them

BUNDLE holds float32 arithmetic (``riffusion-rt export CHECKPOINT -o BUNDLE --precision float32``). The peer is
diffusers' own UNet of the same weights, eager in float32, timed by turns with ours in the same process. Parity is the
relative L2 distance to its prediction. Eight-bit integers need ``pip install nncf``: OpenVINO's own post-training
quantization, calibrated on noise of other levels than the one that is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from likeness import relative_l2
from numpy.typing import NDArray
from recording import record

from riffusion_engine.graph_bytes import Graph
from riffusion_engine.graph_rewrites import fuse_attention
from riffusion_engine.manifest import Manifest
from riffusion_engine.onnxruntime_session import OnnxRuntimeSession

Feeds = dict[str, NDArray[np.float32]]
Run = Callable[[Feeds], NDArray[np.float32]]


def standard(graph: Graph) -> None:
    """The bundle's graph as it is."""


def attention(graph: Graph) -> None:
    """Attention in ONNX Runtime's own operator."""
    fuse_attention(graph)


REWRITES: dict[str, Callable[[Graph], None]] = {"standard": standard, "attention": attention}
FUSED = "fused"
"""What ``--fused`` opens: every rewrite that the engine has for CPUs."""
OPENVINO = {"openvino-f32": "f32", "openvino-bf16": "bf16"}
INT8 = "openvino-int8"
WAYS = (FUSED, *REWRITES, "standard-two-runs", *OPENVINO, INT8)
CALIBRATION_TIMESTEPS = (1, 200, 400, 600, 800, 981)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), help="Default: all of them.")
@click.option("--rounds", default=2, show_default=True)
@click.option("--threads", default=0, help="0: one for each core.")
def main(bundle: Path, ways: tuple[str, ...], rounds: int, threads: int) -> None:
    """Time each way by turns with the peer."""
    peer = _peer(bundle)
    feeds = _feeds(bundle)
    wanted = peer(feeds)
    for way in ways or WAYS:
        try:
            with _opened(bundle, way, threads) as (run, load_s):
                got = run(feeds)
                ours_s, peer_s = [], []
                for _ in range(rounds):
                    for seconds, what in ((peer_s, peer), (ours_s, run)):
                        began = time.perf_counter()
                        what(feeds)
                        seconds.append(time.perf_counter() - began)
        except ImportError as error:
            click.echo(f"{way:20s} left out: {error}")
            continue
        del run  # Two sessions of this size at once would push the weights out of memory.
        row = {
            "way": way,
            "times_faster": round(statistics.median(p / o for p, o in zip(peer_s, ours_s, strict=True)), 3),
            "parity": relative_l2(got, wanted),
            "step_s": round(statistics.median(ours_s), 3),
            "peer_s": round(statistics.median(peer_s), 3),
            "load_s": round(load_s, 2),
        }
        click.echo(
            f"{way:20s} {row['times_faster']:5.2f}x  {row['step_s']:6.2f} s for {row['peer_s']:6.2f} s  "
            f"parity {row['parity']:.1e}  opened in {load_s:.1f} s"
        )
        model = Manifest.read(bundle).name
        record("cpu_ways", model=model, peer="diffusers eager float32", rounds=rounds, **row)


def _feeds(bundle: Path, seed: int = 0, timestep: int = 500) -> Feeds:
    """One guided step: two samples that differ in their prompts."""
    manifest = Manifest.read(bundle)
    spec = manifest.latent
    width = manifest.graph("unet").inputs[2].shape[2]
    draw = np.random.default_rng(seed)
    latents = draw.standard_normal((1, spec.channels, spec.height, spec.width), np.float32)
    return {
        "sample": np.concatenate([latents, latents]),
        "timestep": np.full(2, timestep, np.float32),
        "encoder_hidden_states": draw.standard_normal((2, 77, int(width)), np.float32),
    }


def _peer(bundle: Path) -> Run:
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(bundle / "unet", torch_dtype=torch.float32).eval()

    def run(feeds: Feeds) -> NDArray[np.float32]:
        with torch.inference_mode():
            tensors = [torch.from_numpy(array) for array in feeds.values()]
            return unet(*tensors, return_dict=False)[0].numpy()

    return run


@contextmanager
def _opened(bundle: Path, way: str, threads: int) -> Iterator[tuple[Run, float]]:
    began = time.perf_counter()
    spec = Manifest.read(bundle).graph("unet")
    path = bundle / spec.path
    if way == FUSED:
        with OnnxRuntimeSession(bundle, spec, device="cpu", threads=threads or None, fused=True) as session:
            yield lambda feeds: session.run(feeds)["out_sample"], time.perf_counter() - began
    elif way in OPENVINO:
        yield _openvino(path, OPENVINO[way], threads), time.perf_counter() - began
    elif way == INT8:
        drawn = [_feeds(bundle, seed, each) for seed, each in enumerate(CALIBRATION_TIMESTEPS, start=1)]
        yield _openvino_int8(path, drawn, threads), time.perf_counter() - began
    else:
        graph = Graph.read(path.read_bytes())
        REWRITES.get(way, standard)(graph)
        opened = _session(graph.write(), threads, path.parent)
        run = _halves(opened) if way == "standard-two-runs" else _whole(opened)
        yield run, time.perf_counter() - began
        del run, opened, graph


def _session(graph: Any, threads: int, weights: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_reuse = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _whole(session: Any) -> Run:
    return lambda feeds: session.run(None, feeds)[0]


def _halves(session: Any) -> Run:
    """Guidance as two runs of one sample rather than one run of two."""

    def run(feeds: Feeds) -> NDArray[np.float32]:
        parts = [{name: array[i : i + 1] for name, array in feeds.items()} for i in (0, 1)]
        return np.concatenate([session.run(None, part)[0] for part in parts])

    return run


def _openvino(path: Path, precision: str, threads: int) -> Run:
    import openvino

    return _compiled(openvino.Core().read_model(path), precision, threads)


def _openvino_int8(path: Path, calibration: list[Feeds], threads: int) -> Run:
    """Weights and activations in eight bits wherever the quantizer finds that they may be, the rest in bfloat16."""
    import nncf
    import openvino

    model = nncf.quantize(
        openvino.Core().read_model(path),
        nncf.Dataset(calibration),
        subset_size=len(calibration),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    return _compiled(model, "bf16", threads)


def _compiled(model: Any, precision: str, threads: int) -> Run:
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        hints["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    request = compiled.create_infer_request()
    return lambda feeds: np.array(next(iter(request.infer(feeds).values())))


if __name__ == "__main__":
    main()
