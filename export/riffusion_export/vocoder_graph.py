"""Spectrogram parameters enter; a graph leaves that turns spectrogram pictures into sound beside the UNet.

It is :func:`riffusion_rt.phase.waveform_from_mel` in standard operators: the picture's levels to mel magnitudes, to
linear magnitudes (one constant matrix), to starting phases (gathers and a prefix sum instead of the recurrence over
frames), through the accelerated loop to samples. The batch is the one dynamic axis; a channel of a picture
is one more picture to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from riffusion_engine.errors import ExportError
from riffusion_engine.manifest import GraphSpec, TensorSpec
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.vocoder_transforms import GraphText, HalfTransform, NaturalSynthesis
from riffusion_rt import phase, phase_start
from riffusion_rt.inverse_mel import inverse_mel_matrix
from riffusion_rt.phase_refine import refinement
from riffusion_rt.phase_stft import FrameGrid, loop_grid, result_grid

_State = tuple[str, str, str]

OPSET = 23
VOCODER_PATH = "vocoder/model.onnx"

IMAGE = "image"
START = "start"
WAVEFORM = "waveform"

# Mel amplitude of a picture's darkest level (Riffusion's value); inside the graph it is 1.
MAX_VALUE = 30e6

# Guards divisions where the loudest magnitude is about 1.
_QUIET = 1e-16
_TINY = 1e-37


@dataclass(frozen=True)
class VocoderPlan:
    """Everything that fixes a vocoder graph."""

    params: SpectrogramParams
    """How the pictures were made."""
    columns: int = 512
    """Width of the pictures."""
    preset: str = "balanced"
    """Quality of the phase loop: one of :data:`riffusion_rt.phase.PRESETS`."""
    unrolled: bool = False
    """Whether the iterations stand in the graph one by one. A loop is a tenth of the size, also as an engine."""
    start_given: bool = False
    """Whether the loop's first signal is a second input, ``start``; to compare loops from one start."""
    round_products_to: str | None = None
    """See :class:`GraphText`; for experiments only."""

    @property
    def grid(self) -> FrameGrid:
        """The loop's frames."""
        return loop_grid(self.params, phase.PRESETS[self.preset].oversampling)

    @property
    def result(self) -> FrameGrid:
        """The result's frames."""
        return result_grid(self.params)

    @property
    def samples(self) -> int:
        """Length of the waveform."""
        return self.columns * self.params.hop_length


def write_vocoder(
    bundle: Path,
    params: SpectrogramParams,
    columns: int = 512,
    *,
    preset: str = "balanced",
) -> GraphSpec:
    """Write ``vocoder/model.onnx`` into a bundle folder.

    Args:
        bundle: the folder.
        params: how the pictures were made.
        columns: width of the pictures.
        preset: quality of the phase loop.

    Returns:
        What the manifest says of it; ``parity`` is left empty for the exporter to fill.

    Raises:
        ExportError: the pictures are narrower than a frame.
    """
    plan = VocoderPlan(params, columns, preset)
    model = vocoder_model(plan)
    path = bundle / VOCODER_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return GraphSpec(
        path=VOCODER_PATH,
        inputs=(TensorSpec(name=IMAGE, dtype="float32", shape=("batch", 3, params.bands, columns)),),
        outputs=(TensorSpec(name=WAVEFORM, dtype="float32", shape=("batch", params.channels, plan.samples)),),
        weights_dtype="float32",
        compute_dtype="float32",
        parity={},
    )


def vocoder_model(plan: VocoderPlan) -> onnx.ModelProto:
    """The graph.

    Its input ``image`` is float32 ``(batch, 3, bands, columns)`` in 0..1, a picture's levels divided by 255 (a VAE's
    output, mapped from ±1, does as well: it is rounded to the 256 levels that a picture can hold). Its output
    ``waveform`` is float32 ``(batch, channels, columns * hop)``, at the level of :func:`waveform_from_mel`. With
    ``start_given`` there is also ``start``, float32 ``(batch * channels, columns * grid.hop)``, at a level where the
    darkest mel amplitude is 1.

    Raises:
        ExportError: the pictures are narrower than a frame.
    """
    if plan.columns < plan.grid.overlap:
        raise ExportError(
            f"A vocoder graph needs pictures of {plan.grid.overlap} columns or more, not {plan.columns}",
            hint="Choose the width that the model draws",
        )
    graph = GraphText(plan.round_products_to)
    mel = _mel(graph, plan)
    inverse_mel = _inverse_mel(plan)
    given = graph.op("Relu", graph.product(mel, graph.constant(inverse_mel)))
    start = START if plan.start_given else _start(graph, plan, given)
    state, magnitudes = (start, start, start), given
    for stage, iterations in enumerate(phase.PRESETS[plan.preset].stages):
        if stage > 0:
            magnitudes = _refined(graph, plan, _Wanted(mel, given, inverse_mel), state[0])
        state = _iterations(graph, plan, magnitudes, state, iterations, f"stage{stage}_")
    samples = _synthesis(graph, plan, magnitudes, state[0])
    shaped = graph.op("Reshape", samples, graph.shape(-1, plan.params.channels, plan.samples))
    graph.nodes.append(
        helper.make_node("Mul", [shaped, graph.constant(MAX_VALUE)], [WAVEFORM], name=WAVEFORM)
    )
    params = plan.params
    inputs = {IMAGE: ["batch", 3, params.bands, plan.columns]}
    if plan.start_given:
        inputs[START] = ["signals", plan.columns * plan.grid.hop]
    body = helper.make_graph(
        graph.nodes,
        "vocoder",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(
                WAVEFORM, TensorProto.FLOAT, ["batch", params.channels, plan.samples]
            )
        ],
        list(graph.constants.values()),
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


@dataclass(frozen=True)
class _Wanted:
    """What refinement corrects by. Magnitudes here are flat, ``(pictures, columns, rows * inner)``, bins as the
    loop's transform orders them."""

    mel: str
    given: str
    inverse_mel: NDArray[np.float32]


def _inverse_mel(plan: VocoderPlan) -> NDArray[np.float32]:
    """The inverse mel matrix for pictures, which have their low frequencies at the bottom."""
    matrix = inverse_mel_matrix(plan.params, plan.grid.frequencies)
    return matrix[::-1, _transform(plan.grid).bins().ravel()]


def _places(grid: FrameGrid) -> NDArray[np.intp]:
    """Where each bin, by frequency, stands in the loop's flat order."""
    order = _transform(grid).bins().ravel()
    places = np.zeros(len(grid.frequencies), np.intp)
    places[order] = np.arange(len(order))
    return places


def _refined(graph: GraphText, plan: VocoderPlan, wanted: _Wanted, signal: str) -> str:
    """:meth:`riffusion_rt.phase_refine.Refinement.target` of a signal's magnitudes."""
    grid, transform = plan.grid, _transform(plan.grid)
    refiner = refinement(plan.params, grid, inverse_mel_matrix(plan.params, grid.frequencies))
    if refiner is None:
        return wanted.given
    _, size = _sizes(graph, transform.forward(graph, _frames(graph, plan, grid, signal)), transform)
    own = graph.op("Reshape", size, graph.shape(0, 0, transform.rows * transform.inner))
    resolved = graph.op("Gather", own, graph.constant(_places(grid)[refiner.first :], np.int64), axis=2)
    bands = refiner.bank.shape[1]
    has = graph.product(resolved, graph.constant(refiner.bank[:, ::-1]))
    lacking = graph.op("Sub", graph.cut(wanted.mel, 2, 0, bands), has)
    pads = graph.constant([0, 0, 0, 0, 0, plan.params.bands - bands], np.int64)
    correction = graph.product(graph.op("Pad", lacking, pads), graph.constant(wanted.inverse_mel))
    better = graph.op("Relu", graph.op("Add", own, correction))
    share = np.concatenate([np.zeros(refiner.first, np.float32), refiner.share])[transform.bins().ravel()]
    moved = graph.op("Mul", graph.op("Sub", better, wanted.given), graph.constant(share))
    return graph.op("Add", wanted.given, moved)


def _rows(graph: GraphText, magnitudes: str, transform: HalfTransform) -> str:
    return graph.op("Reshape", magnitudes, graph.shape(0, 0, transform.rows, transform.inner))


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
    turned = graph.op("Transpose", single, perm=[0, 2, 1])
    return graph.op("Mul", turned, graph.constant(plan.grid.rate / params.sample_rate))


def _start(graph: GraphText, plan: VocoderPlan, given: str) -> str:
    """The signal that the loop starts from: :func:`riffusion_rt.phase.start` with mirrored ends."""
    base = plan.grid.base
    bins = base.n_fft // 2 + 1
    natural = _places(plan.grid)[:: plan.grid.oversampling]
    magnitudes = graph.op("Gather", given, graph.constant(natural, np.int64), axis=2)
    cycles = _starting_cycles(graph, plan, magnitudes, bins)
    turned = graph.op("Add", cycles, graph.constant(np.arange(bins) % 2 / 2))
    angle = graph.op("Mul", graph.op("Sub", turned, graph.op("Floor", turned)), graph.constant(2 * np.pi))
    synthesis = NaturalSynthesis(base.length, bins)
    pads = graph.constant([0, 0, 0, 0, 0, synthesis.padded - bins], np.int64)
    real, imaginary = (
        graph.op("Pad", graph.op("Mul", magnitudes, graph.op(part, angle)), pads) for part in ("Cos", "Sin")
    )
    return _folded(graph, plan, base, synthesis.backward(graph, real, imaginary))


def _starting_cycles(graph: GraphText, plan: VocoderPlan, magnitudes: str, bins: int) -> str:
    """:func:`riffusion_rt.phase_start.starting_cycles` for all frames at once."""
    base, columns = plan.grid.base, plan.columns
    spread = base.window_length / base.length
    loudest = graph.op("ReduceMax", magnitudes, graph.constant([1, 2], np.int64), keepdims=1)
    floor = graph.op("Mul", loudest, graph.constant(phase_start.SLOPE_FLOOR))
    logs = graph.op("Log", graph.op("Add", magnitudes, graph.op("Add", floor, graph.constant(_TINY))))

    below = graph.op("Concat", graph.cut(logs, 2, 0, 1), graph.cut(logs, 2, 0, bins - 1), axis=2)
    above = graph.op("Concat", graph.cut(logs, 2, 1, bins), graph.cut(logs, 2, bins - 1, bins), axis=2)
    inner = np.ones(bins)
    inner[[0, -1]] = 0
    tilt = graph.op("Mul", graph.op("Sub", above, below), graph.constant(inner / 2))
    scaled = graph.op("Mul", tilt, graph.constant(phase_start.FREQUENCY_VARIANCE / spread))
    offset = _limited(graph, scaled, phase_start.FARTHEST_PEAK)
    own = np.arange(bins) % base.overlap / base.overlap
    advance = graph.op(
        "Add", graph.op("Mul", offset, graph.constant(1 / (spread * base.overlap))), graph.constant(own)
    )

    before = graph.op("Concat", graph.cut(logs, 1, 0, 1), graph.cut(logs, 1, 0, columns - 1), axis=1)
    after = graph.op(
        "Concat", graph.cut(logs, 1, 1, columns), graph.cut(logs, 1, columns - 1, columns), axis=1
    )
    rise = graph.op("Sub", after, before)
    slope = graph.constant(phase_start.TIME_VARIANCE * spread**2 * base.overlap / 2)
    delay = _limited(graph, graph.op("Mul", rise, slope), phase_start.FARTHEST_EVENT)
    steps = graph.op("Add", graph.cut(delay, 2, 1, bins), graph.cut(delay, 2, 0, bins - 1))
    halved = graph.op("Mul", steps, graph.constant(-0.5))
    first_none = graph.constant([0, 0, 1, 0, 0, 0], np.int64)
    along = graph.op("CumSum", graph.op("Pad", halved, first_none), graph.constant(2, np.int64))

    # The recurrence: each bin's phase is that of its peak, a column ago, plus what lies between.
    mean = graph.op(
        "Mul",
        graph.op("Add", graph.cut(advance, 1, 0, columns - 1), graph.cut(advance, 1, 1, columns)),
        graph.constant(0.5),
    )
    scatter = graph.constant(phase_start.scattered_signs(bins)[None, None])
    batched = graph.op("Add", graph.op("Mul", graph.cut(advance, 1, 0, 1), graph.constant(0)), scatter)
    gained = graph.op("Sub", graph.op("Concat", batched, mean, axis=1), along)
    peak = _peaks(graph, logs, below, above, bins)
    step = _fraction(graph, graph.op("Add", graph.op("GatherElements", gained, peak, axis=2), along))
    return _prefix(graph, peak, step, columns)


def _prefix(graph: GraphText, peak: str, step: str, columns: int) -> str:
    """All frames' phases from the recurrence ``phase[t][k] = phase[t - 1][peak[t][k]] + step[t][k]``.

    Steps compose associatively, so that doubling their reach (Hillis and Steele) takes log2 of the columns.
    """
    for exponent in range(math.ceil(math.log2(columns))):
        reach = 2**exponent
        near = graph.cut(peak, 1, reach, columns)
        farther = graph.op("GatherElements", graph.cut(step, 1, 0, columns - reach), near, axis=2)
        reached = _fraction(graph, graph.op("Add", graph.cut(step, 1, reach, columns), farther))
        there = graph.op("GatherElements", graph.cut(peak, 1, 0, columns - reach), near, axis=2)
        step = graph.op("Concat", graph.cut(step, 1, 0, reach), reached, axis=1)
        peak = graph.op("Concat", graph.cut(peak, 1, 0, reach), there, axis=1)
    return step


def _peaks(graph: GraphText, logs: str, below: str, above: str, bins: int) -> str:
    higher, lower = graph.op("Greater", above, logs), graph.op("Less", below, logs)
    steeper = graph.op("GreaterOrEqual", above, below)
    up = graph.op("And", higher, graph.op("Or", lower, steeper))
    # At the edges the neighbour beyond is the bin itself: never up, and down only where there is a bin below.
    has_below = graph.constant(np.arange(bins) > 0, np.bool_)
    falls = graph.op("And", graph.op("GreaterOrEqual", below, logs), has_below)
    down = graph.op("And", falls, graph.op("Not", up))
    one, none = graph.constant(1, np.int64), graph.constant(0, np.int64)
    moved = graph.op("Sub", graph.op("Where", up, one, none), graph.op("Where", down, one, none))
    peak = graph.op("Add", moved, graph.constant(np.arange(bins), np.int64))
    for _ in range(phase_start.UPHILL_DOUBLINGS):
        peak = graph.op("GatherElements", peak, peak, axis=2)
    return peak


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
    spectra = transform.forward(graph, _frames(graph, plan, grid, signal))
    nearest = transform.backward(graph, _projected(graph, spectra, magnitudes, transform))
    near = graph.op("Mul", _folded(graph, plan, grid, nearest), graph.constant(phase.GAMMA))
    relaxed = graph.op("Add", graph.op("Mul", anchor, graph.constant(1 - phase.GAMMA)), near)
    moved = graph.op("Sub", relaxed, previous)
    signal = graph.op("Add", relaxed, graph.op("Mul", moved, graph.constant(phase.ALPHA)))
    anchor = graph.op("Add", relaxed, graph.op("Mul", moved, graph.constant(phase.BETA)))
    return signal, anchor, relaxed


def _synthesis(graph: GraphText, plan: VocoderPlan, magnitudes: str, signal: str) -> str:
    """The last projection, at the result's sample rate."""
    base, transform = plan.grid.base, _transform(plan.grid.base)
    spectra = transform.forward(graph, _frames(graph, plan, base, signal))
    ordered = _places(plan.grid)[:: plan.grid.oversampling][transform.bins().ravel()]
    base_magnitudes = graph.op("Gather", magnitudes, graph.constant(ordered, np.int64), axis=2)
    right = _projected(graph, spectra, _rows(graph, base_magnitudes, transform), transform)
    bins = base.n_fft // 2 + 1
    synthesis = NaturalSynthesis(plan.result.length, bins)
    flat = graph.op("Reshape", right, graph.shape(0, 0, 2 * transform.rows * transform.inner))
    real, imaginary = (
        graph.op(
            "Mul", graph.op("Gather", flat, graph.constant(places, np.int64), axis=2), graph.constant(gain)
        )
        for places, gain in _natural_order(transform, synthesis, plan.result.rate / base.rate)
    )
    return _folded(graph, plan, plan.result, synthesis.backward(graph, real, imaginary))


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


def _frames(graph: GraphText, plan: VocoderPlan, grid: FrameGrid, signal: str) -> str:
    """Windowed frames ``(pictures, columns, length)`` of a signal with mirrored ends."""
    before, after, last = _margins(grid, plan.columns)
    line = graph.op(
        "Concat",
        graph.op("Gather", signal, graph.constant(before[::-1], np.int64), axis=1),
        signal,
        graph.op("Gather", signal, graph.constant(last - after, np.int64), axis=1),
        axis=1,
    )
    blocks = graph.op("Reshape", line, graph.shape(0, plan.columns + grid.overlap - 1, grid.hop))
    places = (graph.cut(blocks, 1, place, place + plan.columns) for place in range(grid.overlap))
    return graph.op("Mul", graph.op("Concat", *places, axis=2), graph.constant(grid.window))


def _folded(graph: GraphText, plan: VocoderPlan, grid: FrameGrid, frames: str) -> str:
    """The signal ``(pictures, columns * hop)`` that frames lay out, its mirrored ends folded in, evenly covered."""
    windowed = graph.op("Mul", frames, graph.constant(grid.window))
    blocks = graph.op("Reshape", windowed, graph.shape(0, plan.columns, grid.overlap, grid.hop))
    laid = []
    for place in range(grid.overlap):
        pads = graph.constant([0, place, 0, 0, grid.overlap - 1 - place, 0], np.int64)
        block = graph.op("Squeeze", graph.cut(blocks, 2, place, place + 1), graph.constant([2], np.int64))
        laid.append(graph.op("Pad", block, pads))
    flat = graph.op("Reshape", graph.op("Sum", *laid), graph.shape(0, -1))
    before, after, last = _margins(grid, plan.columns)
    length, margin = last + 1, len(before)
    left = graph.op("Gather", flat, graph.constant(margin - before, np.int64), axis=1)
    right = graph.op("Gather", flat, graph.constant((margin + last + after)[::-1], np.int64), axis=1)
    ends = graph.op(
        "Sum",
        graph.cut(flat, 1, margin, margin + length),
        graph.op("Pad", left, graph.constant([0, 1, 0, length - 1 - len(before)], np.int64)),
        graph.op("Pad", right, graph.constant([0, last - len(after), 0, 1], np.int64)),
    )
    return graph.op("Mul", ends, graph.constant(1 / grid.coverage(plan.columns, "mirror")))


def _margins(grid: FrameGrid, columns: int) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """How far mirrored samples lie from the first and from the last sample, nearest first; the last sample."""
    half = grid.length // 2
    return np.arange(1, half + 1), np.arange(1, half - grid.hop + 1), columns * grid.hop - 1


def _limited(graph: GraphText, tensor: str, reach: float) -> str:
    return graph.op("Clip", tensor, graph.constant(-reach), graph.constant(reach))


def _fraction(graph: GraphText, cycles: str) -> str:
    return graph.op("Sub", cycles, graph.op("Floor", cycles))
