"""Magnitudes enter as tensors of a graph; the signal that the phase loop starts from leaves.

:mod:`riffusion_rt.phase_start` in operators: its recurrence over the frames becomes a prefix sum.
"""

from __future__ import annotations

import math

import numpy as np

from riffusion_export.vocoder_frames import GraphFrames
from riffusion_export.vocoder_transforms import GraphText, NaturalSynthesis
from riffusion_rt import phase_start

# Guards the logarithm of silence where the loudest magnitude is about 1.
_TINY = 1e-37


def starting_signal(graph: GraphText, frames: GraphFrames, magnitudes: str) -> str:
    """:func:`riffusion_rt.phase.start` of magnitudes ``(pictures, columns, bins)``; the grid must not oversample."""
    bins = frames.grid.n_fft // 2 + 1
    cycles = _starting_cycles(graph, frames, magnitudes, bins)
    turned = graph.op("Add", cycles, graph.constant(np.arange(bins) % 2 / 2))
    angle = graph.op("Mul", _fraction(graph, turned), graph.constant(2 * np.pi))
    synthesis = NaturalSynthesis(frames.grid.length, bins)
    pads = graph.constant([0, 0, 0, 0, 0, synthesis.padded - bins], np.int64)
    real, imaginary = (
        graph.op("Pad", graph.op("Mul", magnitudes, graph.op(part, angle)), pads) for part in ("Cos", "Sin")
    )
    return frames.folded(graph, synthesis.backward(graph, real, imaginary))


def _starting_cycles(graph: GraphText, frames: GraphFrames, magnitudes: str, bins: int) -> str:
    """:func:`riffusion_rt.phase_start.starting_cycles` for all frames at once."""
    base, columns = frames.grid, frames.columns
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
    first = phase_start.scattered_signs if frames.ends == "mirror" else phase_start.scattered
    scatter = graph.constant(first(bins)[None, None])
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


def _limited(graph: GraphText, tensor: str, reach: float) -> str:
    return graph.op("Clip", tensor, graph.constant(-reach), graph.constant(reach))


def _fraction(graph: GraphText, cycles: str) -> str:
    return graph.op("Sub", cycles, graph.op("Floor", cycles))
