"""A graph file and a recipe in, a plan out: one builder for TensorRT (10 and later) and TensorRT-RTX (1.x).

The two libraries' interfaces are nearly one; where they differ, the code asks which of them has the name. Networks are
strongly typed: the precision is what the export wrote. Runs in a process of its own (see ``build_process``).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from riffusion_engine.engine_library import one_line, silent_messages
from riffusion_engine.engine_plan import EngineRecipe
from riffusion_engine.errors import EngineError
from riffusion_engine.whole_file import whole_file

Watch = Callable[[float, str], bool]
"""Told the fraction done, 0 to 1, and the phase; answers whether to go on."""


def build_plan(trt: Any, graph: Path, recipe: EngineRecipe, *, timing: Path, watch: Watch) -> Any:
    """Parse a graph and build its plan.

    Args:
        trt: the library's module.
        graph: the ONNX file, its weights beside it.
        recipe: shapes, target and flags.
        timing: file of kernel timings, read if it is there and written again; TensorRT-RTX times nothing.
        watch: is told how far the build is.

    Returns:
        The plan, an object with the buffer interface.

    Raises:
        EngineError: the library refused the graph or could not build it; its own words are in the message.
    """
    messages = silent_messages(trt)
    builder = trt.Builder(messages)
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, graph, network, messages)
    _let_attention_decompose(trt, network)
    config = builder.create_builder_config()
    if not recipe.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if hasattr(config, "set_compute_capability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, recipe.target.upper()), 0)
    for shapes in recipe.profiles:
        _add_profile(builder, config, shapes, graph)
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, watch)
    timings = _timings(trt, config, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{graph.name} of {recipe.component} cannot be built for {recipe.target}: {messages.last()}",
            hint="Try smaller shapes (--batch 1), or free memory",
        )
    if timings is not None:
        with whole_file(timing) as file:
            file.write(memoryview(timings.serialize()))
    return plan


def _strongly_typed(trt: Any) -> int:
    # From TensorRT 11 on every network is strongly typed, and the flag is about to go.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _parse(trt: Any, graph: Path, network: Any, messages: Any) -> None:
    parser = trt.OnnxParser(network, messages)
    if parser.parse_from_file(str(graph)):
        return
    errors = [str(parser.get_error(index)) for index in range(parser.num_errors)]
    raise EngineError(
        f"{trt.__name__} {trt.__version__} cannot read {graph}: {one_line(errors) or messages.last()}",
        hint="Export the bundle again, or use --device cuda",
    )


def _let_attention_decompose(trt: Any, network: Any) -> None:
    """Allow products and a softmax where the library has no fused kernel: float32 attention has none."""
    kind = getattr(trt.LayerType, "ATTENTION_OUTPUT", None)
    if kind is None:
        return
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == kind:
            layer.__class__ = trt.IAttentionOutputLayer  # The binding gives layers out as their ancestor.
            layer.attention.decomposable = True


def _add_profile(builder: Any, config: Any, shapes: Mapping[str, tuple[int, ...]], graph: Path) -> None:
    profile = builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            f"The shapes {dict(shapes)} do not fit {graph}",
            hint="Export the bundle again, or leave --width out",
        )


def _timings(trt: Any, config: Any, path: Path) -> Any:
    """Attach the timings kept in ``path``; None where the library times nothing."""
    if hasattr(config, "set_compute_capability"):  # TensorRT-RTX: a no-op since 1.2, compiled without a GPU.
        return None
    kept = path.read_bytes() if path.is_file() else b""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        timings = config.create_timing_cache(kept)
        if not config.set_timing_cache(timings, False):
            timings = config.create_timing_cache(b"")
            config.set_timing_cache(timings, False)
    return timings


class BuildFraction:
    """Phases that start, step and end, nested in one another, in; the fraction of the outermost one that is done, out.

    The library calls from several threads.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._lock = threading.Lock()
        self._steps: dict[str, tuple[str | None, int, int]] = {}
        self._reached = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """``phase`` of so many steps begins inside ``parent``."""
        with self._lock:
            self._steps[phase] = (parent, 0, max(1, steps))

    def step(self, phase: str, step: int) -> bool:
        """Step number ``step`` of ``phase`` is done; answers whether to go on."""
        with self._lock:
            if phase in self._steps:
                parent, _, steps = self._steps[phase]
                self._steps[phase] = (parent, min(step + 1, steps), steps)
            self._reached = max(self._reached, self._fraction(None))
            return self._watch(self._reached, phase)

    def finish(self, phase: str) -> None:
        """``phase`` has ended, all its steps done or not."""
        with self._lock:
            self._steps.pop(phase, None)

    def _fraction(self, parent: str | None) -> float:
        """How much of one step of ``parent`` the phases inside it have done."""
        inside = [
            (name, done, steps) for name, (above, done, steps) in self._steps.items() if above == parent
        ]
        return max(
            (min(1.0, (done + self._fraction(name)) / steps) for name, done, steps in inside), default=0.0
        )


def _monitor(trt: Any, watch: Watch) -> Any:
    fraction = BuildFraction(watch)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            fraction.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return fraction.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            fraction.finish(phase_name)

    return Monitor()
