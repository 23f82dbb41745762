"""A signal enters as a tensor of a graph; its windowed frames leave, and back: :class:`FrameGrid` in operators.

Signals are ``(pictures, columns * hop)``, frames ``(pictures, columns, length)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from riffusion_export.vocoder_transforms import GraphText
from riffusion_rt.phase_stft import Ends, FrameGrid


@dataclass(frozen=True)
class GraphFrames:
    """Frames over signals of a fixed width. There must be a frame's length of columns or more."""

    grid: FrameGrid
    columns: int
    ends: Ends

    @property
    def samples(self) -> int:
        """Of a signal."""
        return self.columns * self.grid.hop

    def looked_at(self, graph: GraphText, signal: str) -> str:
        """The signal's frames under the window."""
        grid = self.grid
        before, after = (graph.constant(places, np.int64) for places in self._beyond())
        line = graph.op(
            "Concat",
            graph.op("Gather", signal, before, axis=1),
            signal,
            graph.op("Gather", signal, after, axis=1),
            axis=1,
        )
        blocks = graph.op("Reshape", line, graph.shape(0, self.columns + grid.overlap - 1, grid.hop))
        places = (graph.cut(blocks, 1, place, place + self.columns) for place in range(grid.overlap))
        return graph.op("Mul", graph.op("Concat", *places, axis=2), graph.constant(grid.window))

    def folded(self, graph: GraphText, frames: str) -> str:
        """The signal that frames lay out under the window, what lies beyond its ends folded in, evenly covered."""
        grid = self.grid
        windowed = graph.op("Mul", frames, graph.constant(grid.window))
        blocks = graph.op("Reshape", windowed, graph.shape(0, self.columns, grid.overlap, grid.hop))
        laid = []
        for place in range(grid.overlap):
            pads = graph.constant([0, place, 0, 0, grid.overlap - 1 - place, 0], np.int64)
            block = graph.op("Squeeze", graph.cut(blocks, 2, place, place + 1), graph.constant([2], np.int64))
            laid.append(graph.op("Pad", block, pads))
        flat = graph.op("Reshape", graph.op("Sum", *laid), graph.shape(0, -1))
        before, after = self._beyond()
        first = len(before)
        signal = graph.op(
            "Sum",
            graph.cut(flat, 1, first, first + self.samples),
            self._laid_on(graph, flat, 0, before),
            self._laid_on(graph, flat, first + self.samples, after),
        )
        rows = graph.op("Reshape", signal, graph.shape(0, self.columns, grid.hop))
        cover = 1 / grid.coverage(self.columns, self.ends).reshape(self.columns, grid.hop)
        even = graph.op("Mul", rows, graph.repeating_rows(cover))
        return graph.op("Reshape", even, graph.shape(0, self.samples))

    def _beyond(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The samples that stand before the first, and those after the last, in order of time."""
        before = self.grid.length // 2
        after = before - self.grid.hop
        if self.ends == "circle":
            return np.arange(self.samples - before, self.samples), np.arange(after)
        return np.arange(before, 0, -1), np.arange(self.samples - 2, self.samples - 2 - after, -1)

    def _laid_on(self, graph: GraphText, flat: str, start: int, places: NDArray[np.intp]) -> str:
        """A signal of what a line holds from ``start`` on, each sample at its place."""
        found = graph.op("Gather", flat, graph.constant(start + np.argsort(places), np.int64), axis=1)
        behind = self.samples - 1 - int(places.max())
        return graph.op("Pad", found, graph.constant([0, int(places.min()), 0, behind], np.int64))


def rows_from(graph: GraphText, tensor: str, rows: int, first: str, sign: int) -> str:
    """Turn ``(pictures, rows, ...)`` like a circle: row 0 becomes row ``first``, or the other way round.

    Args:
        graph: the text to add to.
        tensor: what to turn.
        rows: how many rows.
        first: int64 ``(pictures, 1)``, each picture's.
        sign: 1, or -1 to undo the turn.
    """
    places = graph.op("Mul", first, graph.constant(sign, np.int64))
    here = graph.op("Add", graph.constant(np.arange(rows)[None], np.int64), places)
    round_once = graph.op("Mod", here, graph.constant(rows, np.int64))
    index = graph.op("Unsqueeze", round_once, graph.constant([2], np.int64))
    return graph.op("GatherND", tensor, index, batch_dims=1)
