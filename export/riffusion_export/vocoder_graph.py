"""Spectrogram parameters enter; a graph leaves that turns spectrogram pictures into sound beside the UNet.

It is :func:`riffusion_rt.phase.waveform_from_mel` in standard operators: the picture's levels to mel magnitudes, to
linear magnitudes (one constant matrix), to starting phases, through the accelerated loop to samples. The batch is the
one dynamic axis; a channel of a picture is one more picture to it. Magnitudes go from stage to stage in the order of
their frequencies, ``(pictures, columns, bins)``; the loop takes them in the order of its transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from riffusion_engine.errors import ExportError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.vocoder_frames import GraphFrames, rows_from
from riffusion_export.vocoder_start import starting_signal
from riffusion_export.vocoder_transforms import GraphText, HalfTransform, NaturalSynthesis
from riffusion_rt import phase
from riffusion_rt.phase_refine import Refinement
from riffusion_rt.phase_stft import Ends, FrameGrid

_State = tuple[str, str, str]

OPSET = 23

IMAGE = "image"
WAVEFORM = "waveform"
START = "start"
"""Name inside the graph of the loop's first signal, ``(pictures, columns * grid.hop)``."""
TURN = "turn"
"""Name inside the graph of a circle of the column that comes first, int64 ``(pictures, 1)``."""

# Mel amplitude of a picture's darkest level (Riffusion's value); inside the graph it is 1.
MAX_VALUE = 30e6

# Guards a division where the loudest magnitude is about 1.
_QUIET = 1e-16


@dataclass(frozen=True)
class VocoderPlan:
    """Everything that fixes a vocoder graph."""

    params: SpectrogramParams
    """How the pictures were made."""
    columns: int = 512
    """Width of the pictures."""
    preset: str = "balanced"
    """Quality of the phase loop: one of :data:`riffusion_rt.phase.PRESETS`."""
    ends: Ends = "circle"
    """What lies beyond the picture: its other end, as in every clip that a model draws, or its mirror image."""
    unrolled: bool = False
    """Whether the iterations stand in the graph one by one. A loop is a tenth of the size, also as an engine."""
    round_products_to: str | None = None
    """See :class:`GraphText`; for experiments only."""

    @property
    def constants(self) -> phase.LoopConstants:
        """What does not depend on the pictures."""
        return phase.loop_constants(self.params, phase.PRESETS[self.preset].oversampling)

    @property
    def grid(self) -> FrameGrid:
        """The loop's frames."""
        return self.constants.grid

    @property
    def result(self) -> FrameGrid:
        """The result's frames."""
        return self.constants.result

    def frames(self, grid: FrameGrid) -> GraphFrames:
        """The picture's frames on a grid."""
        return GraphFrames(grid, self.columns, self.ends)

    @property
    def samples(self) -> int:
        """Length of the waveform."""
        return self.columns * self.params.hop_length


def vocoder_model(plan: VocoderPlan) -> onnx.ModelProto:
    """The graph.

    Its input ``image`` is float32 ``(batch, 3, bands, columns)`` in 0..1, a picture's levels divided by 255 (a VAE's
    output, mapped from ±1, does as well: it is rounded to the 256 levels that a picture can hold). Its output
    ``waveform`` is float32 ``(batch, channels, columns * hop)``, at the level of :func:`waveform_from_mel`.

    Raises:
        ExportError: the pictures are narrower than a frame.
    """
    if plan.columns < plan.grid.overlap:
        raise ExportError(
            f"A vocoder graph needs pictures of {plan.grid.overlap} columns or more, not {plan.columns}",
            hint="Choose the width that the model draws",
        )
    graph = GraphText(plan.round_products_to)
    inverse_mel, refiner = plan.constants.inverse_mel, plan.constants.refiner
    mel, given, turn = _targets(graph, plan, inverse_mel)
    base_magnitudes = graph.op("Slice", given, *_every(graph, plan))
    graph.prefix = f"{START}_"
    found = starting_signal(graph, plan.frames(plan.grid.base), base_magnitudes)
    graph.prefix = ""
    start = graph.named("Identity", START, found)
    state, magnitudes = (start, start, start), given
    for stage, iterations in enumerate(phase.PRESETS[plan.preset].stages):
        if stage > 0 and refiner is not None:
            magnitudes = _refined(graph, plan, refiner, mel, given, state[0])
        state = _iterations(graph, plan, magnitudes, state, iterations, f"stage{stage}_")
    samples = _synthesis(graph, plan, magnitudes, state[0])
    if turn is not None:
        columns = graph.op("Reshape", samples, graph.shape(0, plan.columns, plan.params.hop_length))
        samples = rows_from(graph, columns, plan.columns, turn, -1)
    shaped = graph.op("Reshape", samples, graph.shape(-1, plan.params.channels, plan.samples))
    graph.named("Mul", WAVEFORM, shaped, graph.constant(MAX_VALUE))
    return _checked(graph, plan)


def _checked(graph: GraphText, plan: VocoderPlan) -> onnx.ModelProto:
    params = plan.params
    sides = {
        IMAGE: ["batch", 3, params.bands, plan.columns],
        WAVEFORM: ["batch", params.channels, plan.samples],
    }
    image, waveform = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sides.items()
    )
    body = helper.make_graph(graph.nodes, "vocoder", [image], [waveform], list(graph.constants.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _targets(
    graph: GraphText, plan: VocoderPlan, inverse_mel: NDArray[np.float32]
) -> tuple[str, str, str | None]:
    """Mel magnitudes, linear ones, and on a circle the column that both begin with."""
    mel = _mel(graph, plan)
    given = graph.op("Relu", graph.banded_product(mel, inverse_mel))
    if plan.ends != "circle":
        return mel, given, None
    last = plan.columns - 1
    one_later = graph.op("Concat", graph.cut(given, 1, last, last + 1), graph.cut(given, 1, 0, last), axis=1)
    shared = graph.op(
        "ReduceSum", graph.op("Min", given, one_later), graph.constant([2], np.int64), keepdims=0
    )
    turn = graph.named("ArgMin", TURN, shared, axis=1, keepdims=1)
    mel, given = (rows_from(graph, tensor, plan.columns, turn, 1) for tensor in (mel, given))
    return mel, given, turn


def _every(graph: GraphText, plan: VocoderPlan) -> list[str]:
    """Bounds of a slice that leaves the bins between those of the frames' own transform out."""
    bins = len(plan.grid.frequencies)
    return [graph.constant([bound], np.int64) for bound in (0, bins, 2, plan.grid.oversampling)]


def _refined(
    graph: GraphText, plan: VocoderPlan, refiner: Refinement, mel: str, given: str, signal: str
) -> str:
    """:meth:`riffusion_rt.phase_refine.Refinement.target` of a signal's magnitudes."""
    grid, transform = plan.grid, _transform(plan.grid)
    spectra = transform.forward(graph, plan.frames(grid).looked_at(graph, signal))
    flat = graph.op(
        "Reshape", _sizes(graph, spectra, transform)[1], graph.shape(0, 0, transform.rows * transform.inner)
    )
    resolved = graph.constant(_places(transform)[refiner.first :], np.int64)
    own = graph.op("Gather", flat, resolved, axis=2)
    bands, bins = plan.params.bands, len(grid.frequencies)
    wanted = graph.cut(mel, 2, bands + refiner.lowest_band, bands)
    lacking = graph.op("Sub", wanted, graph.banded_product(own, refiner.bank))
    better = graph.op("Relu", graph.op("Add", own, graph.banded_product(lacking, refiner.inverse)))
    before = graph.cut(given, 2, refiner.first, bins)
    moved = graph.op("Mul", graph.op("Sub", better, before), graph.constant(refiner.share))
    return graph.op("Concat", graph.cut(given, 2, 0, refiner.first), graph.op("Add", before, moved), axis=2)


def _places(transform: HalfTransform) -> NDArray[np.intp]:
    """Where each bin, by frequency, stands in a transform's flat order."""
    order = transform.bins().ravel()
    places = np.zeros(transform.points // 2 + 1, np.intp)
    places[order] = np.arange(len(order))
    return places


def _rows(graph: GraphText, magnitudes: str, transform: HalfTransform, every: int = 1) -> str:
    """Magnitudes in a transform's order, of every such bin."""
    order = graph.constant(every * transform.bins().ravel(), np.int64)
    flat = graph.op("Gather", magnitudes, order, axis=2)
    return graph.op("Reshape", flat, graph.shape(0, 0, transform.rows, transform.inner))


def _transform(grid: FrameGrid) -> HalfTransform:
    return HalfTransform(grid.length, grid.n_fft)


def _mel(graph: GraphText, plan: VocoderPlan) -> str:
    """Mel magnitudes of all channels of all pictures in the loop's units: ``(pictures, columns, bands)``."""
    params = plan.params
    channels = graph.cut(IMAGE, 1, 1, 3) if params.stereo else graph.cut(IMAGE, 1, 0, 1)
    levels = graph.op("Round", graph.op("Mul", channels, graph.constant(255)))
    lightness = graph.op(
        "Div", graph.op("Clip", levels, graph.constant(0), graph.constant(255)), graph.constant(255)
    )
    loudness = graph.op(
        "Pow", graph.op("Sub", graph.constant(1), lightness), graph.constant(1 / params.power)
    )
    single = graph.op("Reshape", loudness, graph.shape(-1, params.bands, plan.columns))
    # A picture has its low frequencies at the bottom.
    low_first = graph.op("Gather", single, graph.constant(np.arange(params.bands)[::-1], np.int64), axis=1)
    turned = graph.op("Transpose", low_first, perm=[0, 2, 1])
    return graph.op("Mul", turned, graph.constant(plan.grid.rate / params.sample_rate))


def _iterations(
    graph: GraphText, plan: VocoderPlan, magnitudes: str, state: _State, count: int, prefix: str
) -> _State:
    """:func:`riffusion_rt.phase.accelerated`."""
    shaped = _rows(graph, magnitudes, _transform(plan.grid))
    if plan.unrolled:
        for _ in range(count):
            state = _iteration(graph, plan, shaped, state)
        return state
    body = graph.body(prefix)
    names = [f"{prefix}{name}" for name in ("count", "going", "signal", "anchor", "previous")]
    state_shape: list[int | str] = ["signals", plan.columns * plan.grid.hop]
    shapes: list[list[int | str]] = [[], [], state_shape, state_shape, state_shape]
    types = [TensorProto.INT64, TensorProto.BOOL, *([TensorProto.FLOAT] * 3)]
    inputs = [helper.make_tensor_value_info(*value) for value in zip(names, types, shapes, strict=True)]
    moved = _iteration(body, plan, shaped, (names[2], names[3], names[4]))
    results = [body.op("Identity", name) for name in (names[1], *moved)]
    outputs = [
        helper.make_tensor_value_info(*value) for value in zip(results, types[1:], shapes[1:], strict=True)
    ]
    subgraph = helper.make_graph(body.nodes, "iteration", inputs, outputs)
    outs = (f"{prefix}last_signal", f"{prefix}last_anchor", f"{prefix}last_previous")
    trip, going = graph.constant(count, np.int64), graph.constant(True, np.bool_)
    graph.nodes.append(
        helper.make_node("Loop", [trip, going, *state], list(outs), name=f"{prefix}loop", body=subgraph)
    )
    return outs


def _iteration(graph: GraphText, plan: VocoderPlan, magnitudes: str, state: _State) -> _State:
    """One step of (signal, anchor, previous)."""
    signal, anchor, previous = state
    grid, transform = plan.grid, _transform(plan.grid)
    frames = plan.frames(grid)
    spectra = transform.forward(graph, frames.looked_at(graph, signal))
    nearest = transform.backward(graph, _projected(graph, spectra, magnitudes, transform))
    near = graph.op("Mul", frames.folded(graph, nearest), graph.constant(phase.GAMMA))
    relaxed = graph.op("Add", graph.op("Mul", anchor, graph.constant(1 - phase.GAMMA)), near)
    moved = graph.op("Sub", relaxed, previous)
    signal = graph.op("Add", relaxed, graph.op("Mul", moved, graph.constant(phase.ALPHA)))
    anchor = graph.op("Add", relaxed, graph.op("Mul", moved, graph.constant(phase.BETA)))
    return signal, anchor, relaxed


def _synthesis(graph: GraphText, plan: VocoderPlan, magnitudes: str, signal: str) -> str:
    """The last projection, at the result's sample rate."""
    base, transform = plan.grid.base, _transform(plan.grid.base)
    spectra = transform.forward(graph, plan.frames(base).looked_at(graph, signal))
    own = _rows(graph, magnitudes, transform, plan.grid.oversampling)
    right = _projected(graph, spectra, own, transform)
    bins = base.n_fft // 2 + 1
    synthesis = NaturalSynthesis(plan.result.length, bins)
    flat = graph.op("Reshape", right, graph.shape(0, 0, 2 * transform.rows * transform.inner))
    real, imaginary = (
        graph.op(
            "Mul", graph.op("Gather", flat, graph.constant(places, np.int64), axis=2), graph.constant(gain)
        )
        for places, gain in _natural_order(transform, synthesis, plan.result.rate / base.rate)
    )
    return plan.frames(plan.result).folded(graph, synthesis.backward(graph, real, imaginary))


def _natural_order(
    transform: HalfTransform, synthesis: NaturalSynthesis, scale: float
) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Where the real and the imaginary part of each bin stand in a flat spectrum, and their factors."""
    order, conjugate = transform.bins().ravel(), transform.conjugate().ravel()
    row, column = np.divmod(np.arange(len(order)), transform.inner)
    bins = synthesis.bins
    place = np.zeros(synthesis.padded, np.intp)
    sign = np.zeros(synthesis.padded)
    place[order] = row * 2 * transform.inner + column
    sign[order] = np.where(conjugate, -1, 1)
    kept = (np.arange(synthesis.padded) < bins).astype(np.float64)
    return [(place, kept * scale), (place + transform.inner * (sign != 0), sign * scale)]


def _projected(graph: GraphText, spectra: str, magnitudes: str, transform: HalfTransform) -> str:
    """Spectra ``(..., rows, 2 inner)`` with their magnitudes put right."""
    pairs, size = _sizes(graph, spectra, transform)
    guarded = graph.op("Add", size, graph.constant(_QUIET))
    gain = graph.op("Unsqueeze", graph.op("Div", magnitudes, guarded), graph.constant([3], np.int64))
    scaled = graph.op("Mul", pairs, gain)
    return graph.op("Reshape", scaled, graph.shape(0, 0, transform.rows, 2 * transform.inner))


def _sizes(graph: GraphText, spectra: str, transform: HalfTransform) -> tuple[str, str]:
    """Spectra as ``(..., rows, 2, inner)``, and their magnitudes ``(..., rows, inner)``."""
    pairs = graph.op("Reshape", spectra, graph.shape(0, 0, transform.rows, 2, transform.inner))
    square = graph.op("ReduceSum", graph.op("Mul", pairs, pairs), graph.constant([3], np.int64), keepdims=0)
    return pairs, graph.op("Sqrt", square)
