"""A small graph in, a session out that gives a batch's rows to CPU cores which work by themselves.

Cores that share every operator of a small network wait for one another at each of them. One clip has no other way to
use them all; a batch has: each core runs the whole graph on rows of its own, a *lane*. Lanes are opened when the first
batch comes, with graphs rewritten to fewer multiplications (``riffusion_engine.winograd``): a batch is worth the
memory that these take and the time that they take to open, and a core by itself gains more from them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.denoising_session import DenoisingSession, DeviceWalk, WalkPlan
from riffusion_engine.devices import available_cores
from riffusion_engine.manifest import GraphSpec
from riffusion_engine.session import Session, prepare_feeds


@dataclass(frozen=True)
class LaneForm:
    """How a graph is run in lanes."""

    rows: int
    """What a lane takes at a time: no fewer, where weights are large beside what they multiply and should be read for
    more than one row, and no more, so that memory does not grow with the batch."""
    fused: bool
    """Whether it gains from being rewritten."""


LANE_FORMS: Mapping[str, LaneForm] = {"unet": LaneForm(2, True), "vae_decoder": LaneForm(1, False)}
"""By the folders of the graphs that are run in lanes."""

MOST_WEIGHTS = 256 * 2**20
"""Bytes of a graph that is opened more than once. Products of a larger one keep all cores busy by themselves."""


def lane_count(bundle: Path, graph: GraphSpec, threads: int | None = None) -> int:
    """Lanes that a graph of the folder ``bundle`` gains from: one for each of the cores, or 1 if it gains nothing."""
    path = bundle / graph.path
    if path.parent.name not in LANE_FORMS or not path.is_file() or not weighs_little(path):
        return 1
    return threads or available_cores()


def weighs_little(path: Path) -> bool:
    """Whether the graph in this file, with what lies beside it, is small enough to be opened more than once."""
    return sum(file.stat().st_size for file in path.parent.iterdir()) <= MOST_WEIGHTS


def row_count(feeds: Mapping[str, NDArray[Any]]) -> int:
    """Rows of a batch: those of its first array. Others may have one row, which is meant for every row."""
    return len(next(iter(feeds.values())))


def rows_of(feeds: Mapping[str, NDArray[Any]], first: int, last: int) -> dict[str, NDArray[Any]]:
    """Rows ``first … last - 1`` of a batch. An array of one row stays as it is."""
    rows = row_count(feeds)
    return {name: array if len(array) != rows else array[first:last] for name, array in feeds.items()}


class LanedSession(Closing):
    """A graph on a CPU: what fills all lanes is run in lanes, all else by all cores together.

    Both agree to rounding. It may be run from several threads. A UNet's is also a
    ``riffusion_engine.denoising_session.DenoisingSession``, if ``whole`` is one.
    """

    def __init__(self, whole: DenoisingSession, open_lane: Callable[[LaneForm], Session], lanes: int) -> None:
        """Nothing is opened yet.

        Args:
            whole: the graph on all cores; closed with this session.
            open_lane: opens the same graph for one thread; it may then be run by several threads at a time.
            lanes: 2 or more.
        """
        self._whole, self._open_lane = whole, open_lane
        self._lanes, self._form = lanes, LANE_FORMS[Path(whole.graph.path).parent.name]
        self._lane: Session | None = None
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="lane")
        self._changing = threading.Lock()
        self._closed = False

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._whole.graph

    @property
    def provider(self) -> str:
        """What runs it."""
        return self._whole.provider

    @property
    def at_once(self) -> int:
        """Rows that fill all lanes once: of a batch run in parts of so many, only one part's results are held."""
        return self._lanes * self._form.rows

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once; see ``Session.run``. Rows that are left over after the lanes' rounds are run by all cores."""
        prepared = prepare_feeds(self.graph, feeds)
        rows = row_count(prepared)
        dealt = rows - rows % self.at_once
        lane = self._opened_lane() if dealt else None
        if lane is None:
            return self._whole.run(prepared)
        each = self._form.rows
        pieces = [rows_of(prepared, first, first + each) for first in range(0, dealt, each)]
        results = list(self._threads.map(lane.run, pieces))
        if dealt < rows:
            results.append(self._whole.run(rows_of(prepared, dealt, rows)))
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    @property
    def walks_on_device(self) -> bool:
        """See ``DenoisingSession``."""
        return self._whole.walks_on_device

    def begin_walk(self, plan: WalkPlan) -> DeviceWalk:
        """See ``DenoisingSession``; all cores together."""
        return self._whole.begin_walk(plan)

    def close(self) -> None:
        """Give the memory back."""
        with self._changing:
            self._closed = True
            lane, self._lane = self._lane, None
        self._threads.shutdown(wait=True)
        if lane is not None:
            lane.close()
        self._whole.close()

    def _opened_lane(self) -> Session | None:
        """The lanes' session; None after the end, when the whole one has the words for that."""
        with self._changing:
            if self._lane is None and not self._closed:
                self._lane = self._open_lane(self._form)
            return self._lane
