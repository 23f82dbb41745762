"""A bundle in; how much memory a clip takes at most, ordinary and with low memory, component by component, out.

    python benchmarks/low_memory.py BUNDLE --steps 2

Each mode runs in a process of its own. A thread reads /proc/self/status every 20 ms: *anonymous* memory is the
process's own, *mapped* pages belong to files that the system may drop and read again. ``whole_peak_mb`` is VmHWM, the
kernel's own peak of both. Then what a GPU would hold in float16, counted and not measured: the weights, and the most
values of a graph that are alive at once in the order of its nodes, each once; workspaces of kernels and the CUDA
context come on top. A row goes to ``benchmarks/results/low_memory.jsonl``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from recording import record

from riffusion_engine.graph_bytes import Graph
from riffusion_engine.graph_rewrites import fuse_attention
from riffusion_engine.manifest import Manifest

STATUS = Path("/proc/self/status")
KINDS = {"RssAnon": "anonymous_mb", "RssFile": "mapped_mb", "VmRSS": "together_mb"}
BETWEEN_LOOKS_S = 0.02
TOKENS = 77
GUIDED = {"unet": 2, "text_encoder": 2}
"""Samples of one guided clip; the others have one."""
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Constant", "Shape")
"""Operators whose result is no new memory, or next to none."""


class Peaks:
    """The most memory of each kind since the last stage began."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}
        self._now = dict.fromkeys(KINDS.values(), 0.0)
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._watcher.start()
        yield
        self._over.set()
        self._watcher.join()

    def end(self, stage: str) -> None:
        """Book what was seen since the last stage on this one."""
        seen, self._now = self._now, dict.fromkeys(KINDS.values(), 0.0)
        last = self.stages.get(stage, {})
        self.stages[stage] = {kind: max(mb, last.get(kind, 0.0)) for kind, mb in seen.items()}

    def _watch(self) -> None:
        while not self._over.wait(BETWEEN_LOOKS_S):
            now = memory()
            for field, kind in KINDS.items():
                self._now[kind] = max(self._now[kind], now[field])


def memory() -> dict[str, float]:
    """Megabytes (10**6 bytes) by the kernel's names."""
    pairs = (line.split(":") for line in STATUS.read_text().splitlines() if line.endswith(" kB"))
    return {name: round(int(rest.split()[0]) * 1024 / 1e6, 1) for name, rest in pairs}


def one_clip(bundle: Path, low_memory: bool, steps: int, picture: Path) -> dict[str, Any]:
    """Make one clip in this process; its memory and seconds by stage. Leaves the latents and picture in a file."""
    from riffusion_rt.clip import Clip
    from riffusion_rt.pipeline import Riffusion, StepProgress
    from riffusion_rt.request import ClipRequest

    peaks, began, cpu = Peaks(), time.perf_counter(), time.process_time()
    latents: NDArray[np.float32] | None = None
    clip: Clip | None = None
    with peaks.watching(), Riffusion(bundle, device="cpu", low_memory=low_memory) as riffusion:
        riffusion.model.embed(["", "church bells"])
        peaks.end("text_encoder")
        for event in riffusion.iterate(ClipRequest("church bells", steps=steps)):
            if isinstance(event, StepProgress):
                latents = event.latents
                peaks.end("unet")
            else:
                clip = event
        peaks.end("vae_decoder and phase")
    assert clip is not None and latents is not None
    np.savez(picture, latents=latents, picture=np.asarray(clip.image))
    return {
        "peaks": peaks.stages,
        "whole_peak_mb": memory()["VmHWM"],
        "anonymous_peak_mb": max(stage["anonymous_mb"] for stage in peaks.stages.values()),
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "denoise_s_a_step": round(clip.timings["denoise"] / steps, 2),
    }


def on_a_gpu(bundle: Path) -> dict[str, dict[str, float]]:
    """Megabytes that each graph of a bundle takes where it computes in its own types: weights and live values."""
    counted = {}
    for name, spec in Manifest.read(bundle).graphs.items():
        graph = Graph.read((bundle / spec.path).read_bytes())
        if any(output not in graph.shapes for node in graph.nodes for output in node.outputs):
            continue  # The vocoder's file does not tell its inner shapes.
        fuse_attention(graph)
        weights = sum(tensor.length for tensor in graph.take_external().values()) / 1e6
        inputs = [value.name for value in spec.inputs]
        alive = live_bytes(graph, inputs, np.dtype(spec.compute_dtype).itemsize, GUIDED.get(name, 1)) / 1e6
        counted[name] = {
            "weights_mb": round(weights, 1),
            "live_values_mb": round(alive, 1),
            "together_mb": round(weights + alive, 1),
        }
    return counted


def live_bytes(graph: Graph, inputs: Sequence[str], itemsize: int, batch: int) -> int:
    """The most bytes of inner values that are alive at once, in the order of the graph's nodes.

    What is made of weights alone is made once, while a session opens, and takes their place.
    """
    fed = set(inputs)
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        last.update(dict.fromkeys(node.inputs, index))
    alive: dict[str, int] = {}
    most = 0
    for index, node in enumerate(graph.nodes):
        fed |= set(node.outputs) if fed.intersection(node.inputs) else set()
        if node.op_type not in VIEWS and fed.intersection(node.outputs):
            for name in node.outputs:
                alive[name] = _elements(graph, name, batch) * itemsize
        most = max(most, sum(alive.values()))
        for name in node.inputs:
            if last[name] == index:
                alive.pop(name, None)
    return most


def _elements(graph: Graph, name: str, batch: int) -> int:
    # A batch is an axis of its own name; the one other axis of free size is the prompt's.
    sizes = (
        size if isinstance(size, int) else TOKENS if "token" in size else batch
        for size in graph.shapes.get(name, ())
    )
    return int(np.prod([*sizes], dtype=np.int64))


def likeness(ours: Mapping[str, NDArray[Any]], theirs: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """How far two clips are apart: latents in relative L2, pictures in levels of 255."""
    wanted = theirs["latents"].astype(np.float64)
    levels = np.abs(ours["picture"].astype(np.int16) - theirs["picture"].astype(np.int16))
    return {
        "latents_relative_l2": float(np.linalg.norm(ours["latents"] - wanted) / np.linalg.norm(wanted)),
        "picture_levels_at_most": int(levels.max()),
        "picture_levels_mean": round(float(levels.mean()), 4),
    }


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--steps", default=2, show_default=True)
@click.option("--mode", type=click.Choice(["low", "ordinary"]), hidden=True)
@click.option("--picture", type=click.Path(path_type=Path), hidden=True)
def main(bundle: Path, steps: int, mode: str | None, picture: Path | None) -> None:
    """Measure both modes, each in a process of its own, and compare what they made."""
    if mode is not None and picture is not None:
        click.echo(json.dumps(one_clip(bundle, mode == "low", steps, picture)))
        return
    figures: dict[str, Any] = {}
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for each in ("low", "ordinary"):
            file = Path(folder) / f"{each}.npz"
            command = [sys.executable, __file__, str(bundle), "--steps", str(steps), "--mode", each]
            done = subprocess.run(
                [*command, "--picture", str(file)], stdout=subprocess.PIPE, text=True, check=True
            )
            figures[each] = json.loads(done.stdout)
            with np.load(file) as arrays:
                made[each] = dict(arrays)
            click.echo(f"{each}: {json.dumps(figures[each])}")
    apart = likeness(made["low"], made["ordinary"])
    counted = on_a_gpu(bundle)
    click.echo(f"apart: {json.dumps(apart)}\ncounted for a GPU: {json.dumps(counted)}")
    model = Manifest.read(bundle).name
    weights = Manifest.read(bundle).graph("unet").weights_dtype
    record("low_memory", model=model, weights=weights, steps=steps, **figures, apart=apart, counted=counted)


if __name__ == "__main__":
    main()
