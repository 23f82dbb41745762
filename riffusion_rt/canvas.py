"""A length asked for in, a canvas of that many columns out, and a UNet that denoises it window by window.

The network only ever sees windows of the width that it was trained on. At every step its predictions for windows that
overlap by half are blended, so that no place is the border of all windows that hold it (MultiDiffusion, arXiv
2302.08113). On a circular canvas windows wrap around, and the end meets the start like any two columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.errors import RequestError

if TYPE_CHECKING:
    from riffusion_engine.manifest import GraphSpec, LatentSpec
    from riffusion_engine.session import Session
    from riffusion_engine.spectrogram_params import SpectrogramParams

STRIDES_PER_WINDOW = 2
"""Windows overlap by half: at two bars to a window each begins with a bar."""

ROWS_AT_ONCE = {"cpu": 2, "openvino": 4}
"""Windows in one run of the network: on a CPU as many as a guided clip of one window has, for the same memory."""

ROWS_AT_ONCE_ON_A_GPU = 16

LEAST_WEIGHT = 1e-3
"""Weight of a window's outermost columns, which count only where no other window lies."""


@dataclass(frozen=True)
class Canvas:
    """What is denoised: ``width`` cells of latents, of which the first ``columns`` pixels are the picture."""

    columns: int
    """Columns of the picture; ``columns * hop_length`` samples."""
    width: int
    """Cells denoised: at least what the columns need, and room for whole strides."""
    window: int
    """Cells that the network sees at a time."""
    circular: bool = False
    """The last column is followed by the first."""

    @staticmethod
    def for_columns(columns: int, spec: LatentSpec, *, circular: bool = False) -> Canvas:
        """The canvas for a picture of so many columns; a circular one is rounded to whole cells of latents."""
        if circular:
            cells = max(1, round(columns / spec.vae_factor))
            return Canvas(cells * spec.vae_factor, cells, spec.width, circular=True)
        cells, stride = -(-columns // spec.vae_factor), max(1, spec.width // STRIDES_PER_WINDOW)
        beyond = max(0, cells - spec.width)
        return Canvas(columns, spec.width + -(-beyond // stride) * stride, spec.width)

    @staticmethod
    def for_duration(
        duration_s: float | None, spec: LatentSpec, params: SpectrogramParams, *, circular: bool = False
    ) -> Canvas:
        """The canvas that plays for ``duration_s``, to the nearest column; the model's own width if None.

        Raises:
            RequestError: no column is left.
        """
        if duration_s is None:
            return Canvas.for_columns(spec.width * spec.vae_factor, spec, circular=circular)
        columns = round(duration_s * params.sample_rate / params.hop_length)
        if columns < 1:
            raise RequestError(
                f"{duration_s:g} s is shorter than one column of {params.step_ms} ms",
                hint="Raise --duration",
            )
        return Canvas.for_columns(columns, spec, circular=circular)

    @property
    def single(self) -> bool:
        """Whether one run of the network covers it as it was trained to."""
        return self.width == self.window and not self.circular

    @cached_property
    def starts(self) -> list[int]:
        """First cell of every window, from the left."""
        stride = max(1, self.window // STRIDES_PER_WINDOW)
        if self.circular:
            count = -(-self.width // stride)
            return [round(number * self.width / count) for number in range(count)]
        return list(range(0, self.width - self.window + 1, stride))

    def cells_of(self, start: int) -> NDArray[np.intp]:
        """(window,) indices of the cells under the window that begins at ``start``."""
        return np.arange(start, start + self.window) % self.width

    def place_of(self, start: int) -> float:
        """Where the middle of a window lies: 0 for the first one of a line and 1 for its last."""
        if self.circular:
            return start / self.width
        room = self.width - self.window
        return start / room if room else 0.5


class WideUNet(Closing):
    """A session of the UNet's own kind whose samples are as wide as a canvas.

    ``encoder_hidden_states`` may be (batch, tokens, width), or (batch, knots, tokens, width): then the prompt changes
    evenly along the canvas, from the first knot at its start to the last one at its end.
    Memory does not grow with the canvas but for the latents themselves.
    """

    def __init__(self, unet: Session, canvas: Canvas, rows_at_once: int) -> None:
        self._unet = unet
        self._canvas = canvas
        self._rows = rows_at_once
        self._weight = window_weight(canvas.window)
        self._cover = np.zeros(canvas.width, np.float32)
        for start in canvas.starts:
            np.add.at(self._cover, canvas.cells_of(start), self._weight)

    @property
    def graph(self) -> GraphSpec:
        """The window's graph."""
        return self._unet.graph

    @property
    def provider(self) -> str:
        """What really runs it."""
        return self._unet.provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One prediction for the whole canvas; the feeds and result of the UNet, ``width`` cells wide."""
        sample, told = feeds["sample"], feeds["encoder_hidden_states"]
        timestep = np.broadcast_to(np.reshape(feeds["timestep"], -1), (len(sample),))
        total = np.zeros_like(sample, dtype=np.float32)
        # All samples of a window together: guidance's two sides are then one run, as they are for one clip.
        jobs = [(row, start) for start in self._canvas.starts for row in range(len(sample))]
        for first in range(0, len(jobs), self._rows):
            part = jobs[first : first + self._rows]
            rows = [row for row, _ in part]
            predicted = self._unet.run(
                {
                    "sample": np.stack(
                        [sample[row][..., self._canvas.cells_of(start)] for row, start in part]
                    ),
                    "timestep": timestep[rows],
                    "encoder_hidden_states": np.stack(
                        [told_at(told[row], self._canvas.place_of(start)) for row, start in part]
                    ),
                }
            )["out_sample"]
            for (row, start), output in zip(part, predicted, strict=True):
                across = np.moveaxis(total[row], -1, 0)
                # A circle smaller than the window passes under it more than once: plain indexing would add once.
                np.add.at(across, self._canvas.cells_of(start), np.moveaxis(output * self._weight, -1, 0))
        return {"out_sample": total / self._cover}

    def close(self) -> None:
        """Nothing: the window's session belongs to whoever opened it."""


def unet_for(canvas: Canvas, unet: Session, device: str) -> Session:
    """The UNet itself where one window is the canvas, else one that takes the whole canvas."""
    if canvas.single:
        return unet
    return WideUNet(unet, canvas, ROWS_AT_ONCE.get(device, ROWS_AT_ONCE_ON_A_GPU))


def window_weight(window: int) -> NDArray[np.float32]:
    """(window,) share of a window's prediction at each of its columns: a raised cosine, least at the borders."""
    phase = np.pi * (np.arange(window) + 0.5) / window
    weight: NDArray[np.float32] = np.maximum(np.sin(phase) ** 2, LEAST_WEIGHT).astype(np.float32)
    return weight


def told_at(embeddings: NDArray[np.float32], place: float) -> NDArray[np.float32]:
    """(tokens, width) at a place from 0 to 1 along knots (knots, tokens, width); without knots the same everywhere."""
    if embeddings.ndim == 2:
        return embeddings
    position = min(max(place, 0.0), 1.0) * (len(embeddings) - 1)
    left = min(int(position), max(len(embeddings) - 2, 0))
    right = min(left + 1, len(embeddings) - 1)
    share = np.float32(position - left)
    return np.asarray((1 - share) * embeddings[left] + share * embeddings[right], np.float32)
