"""Rows of many walks in, shared runs of one UNet out: batching step by step, whatever step each walk is at.

Every walk keeps its own sampler state and comes here for each prediction. The graph takes a timestep for every row,
so rows of one geometry share a run though they belong to other requests and are at other steps. Walks come and go
between runs. Who is served next is decided by fair queueing: each client has a virtual time that grows with the rows
it was given, and the least one goes first (start-time fair queueing, Goyal, Vin and Cheng 1996).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.errors import DeviceError
from riffusion_engine.session import prepare_feeds

if TYPE_CHECKING:
    from riffusion_engine.manifest import GraphSpec
    from riffusion_engine.session import Session

GATHERING_SHARE = 0.1
"""Share of a run's time that the next run waits for the walks just served, which come back after a sampler's step."""

LEAST_GATHERING_S, MOST_GATHERING_S = 0.0005, 0.005
"""Bounds of that wait: threads take so long to wake, and no walk may be held up longer."""

LIVE_WEIGHT = 4.0
"""Rows that a live session is given for one of a job's: it must keep up with the clock."""

CHECK_S = 1.0
"""How often an idle lane looks whether it is still wanted."""


class WorkCancelled(Exception):
    """Raised in a walk whose work nobody wants any more."""


@dataclass(eq=False)
class Ticket:
    """Whose predictions are asked for: one job's or one live session's."""

    client: str
    """Who shares: clients take turns, not requests."""
    live: bool = False
    """Sound is waiting for it: it is served more often, and never in large batches."""
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def weight(self) -> float:
        """Share of the network's rows, relative to other clients."""
        return LIVE_WEIGHT if self.live else 1.0


@dataclass(eq=False)
class _Asked:
    """One prediction that a walk waits for."""

    ticket: Ticket
    feeds: dict[str, NDArray[Any]]
    rows: int
    taken: int = 0
    done: int = 0
    output: NDArray[Any] | None = None
    error: BaseException | None = None
    settled: threading.Event = field(default_factory=threading.Event)

    @property
    def left(self) -> int:
        return self.rows - self.taken

    @property
    def shape(self) -> tuple[object, ...]:
        """Rows of one shape share a run."""
        return tuple(self.feeds[name].shape[1:] for name in ("sample", "encoder_hidden_states"))


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of one prediction that go into a run."""

    asked: _Asked
    first: int
    last: int


@dataclass(frozen=True)
class BatchCounts:
    """What the network did so far."""

    runs: int
    rows: int
    shared_runs: int
    """Runs that served more than one request."""
    busy_s: float
    """Seconds of running, over all lanes."""
    waiting_rows: int


class UNetBatches:
    """Owns a UNet and runs it for everyone.

    Args:
        unet: the network. Several lanes run it at the same time, so it must allow that (ONNX Runtime on a CPU does).
        rows_at_once: rows of one run at most.
        rows_beside_live: the same where a live session is served: its steps must not take long.
        lanes: threads that run the network side by side; one on a GPU.
    """

    def __init__(
        self, unet: Session, *, rows_at_once: int = 8, rows_beside_live: int = 4, lanes: int = 1
    ) -> None:
        self._unet = unet
        self._most_rows, self._live_rows = max(1, rows_at_once), max(1, min(rows_beside_live, rows_at_once))
        self._changed = threading.Condition()
        self._waiting: list[_Asked] = []
        self._times: dict[str, float] = {}
        self._time = 0.0
        self._idle = 0
        self._open = True
        self._runs = self._rows = self._shared = 0
        self._busy_s = 0.0
        self._lanes = [
            threading.Thread(target=self._serve, name=f"unet-{number}", daemon=True)
            for number in range(lanes)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def graph(self) -> GraphSpec:
        """The network's graph."""
        return self._unet.graph

    @property
    def provider(self) -> str:
        """What really runs it."""
        return self._unet.provider

    @property
    def counts(self) -> BatchCounts:
        """What was done so far, and what waits."""
        with self._changed:
            waiting = sum(asked.left for asked in self._waiting)
            return BatchCounts(self._runs, self._rows, self._shared, self._busy_s, waiting)

    def session_for(self, ticket: Ticket) -> SharedUNet:
        """A session like the UNet's own, for the walks of one ticket."""
        return SharedUNet(self, ticket)

    def predict(self, ticket: Ticket, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The UNet's outputs for these rows; returns when they are there.

        Raises:
            WorkCancelled: the ticket was cancelled before or meanwhile.
            RequestError: the feeds do not fit the graph.
            DeviceError: the network failed on these rows, or everything is closed.
        """
        prepared = prepare_feeds(self._unet.graph, feeds)
        rows = len(prepared["sample"])
        prepared["timestep"] = np.broadcast_to(prepared["timestep"], (rows,))
        asked = _Asked(ticket, prepared, rows)
        with self._changed:
            if not self._open:
                raise _closed()
            if ticket.cancelled.is_set():
                raise WorkCancelled
            client = ticket.client
            self._times[client] = max(self._times.get(client, 0.0), self._time)
            self._waiting.append(asked)
            self._changed.notify_all()
        asked.settled.wait()
        if asked.error is not None:
            raise asked.error
        assert asked.output is not None
        return {"out_sample": asked.output}

    def cancel(self, ticket: Ticket) -> None:
        """Take a ticket's rows out of what waits; its walk ends with ``WorkCancelled`` at this step or the next."""
        with self._changed:
            ticket.cancelled.set()
            for asked in [each for each in self._waiting if each.ticket is ticket]:
                self._waiting.remove(asked)
                asked.error = WorkCancelled()
                asked.settled.set()
            self._changed.notify_all()

    def close(self) -> None:
        """Let the runs under way end, and fail what waits. The network itself stays open."""
        with self._changed:
            self._open = False
            for asked in self._waiting:
                asked.error = _closed()
                asked.settled.set()
            self._waiting.clear()
            self._changed.notify_all()
        for lane in self._lanes:
            lane.join()

    def _serve(self) -> None:
        served: Sequence[_Part] = ()
        took = 0.0
        while True:
            with self._changed:
                self._idle += 1
                self._gather(served, took)
                while self._open and not self._waiting:
                    self._changed.wait(CHECK_S)
                if not self._open:
                    return
                parts = self._next_parts()
                self._idle -= 1
            started = time.perf_counter()
            self._run(parts)
            took, served = time.perf_counter() - started, parts
            with self._changed:
                self._runs += 1
                self._rows += sum(part.last - part.first for part in parts)
                self._shared += len({id(part.asked.ticket) for part in parts}) > 1
                self._busy_s += took

    def _gather(self, served: Sequence[_Part], took: float) -> None:
        """Wait a moment for the walks just served: without it walks at other steps would never meet again."""
        expected = {id(part.asked.ticket) for part in served if not part.asked.ticket.cancelled.is_set()}
        if not expected:
            return
        until = time.perf_counter() + min(MOST_GATHERING_S, max(LEAST_GATHERING_S, GATHERING_SHARE * took))
        while self._open and not expected <= {id(asked.ticket) for asked in self._waiting}:
            left = until - time.perf_counter()
            if left <= 0:
                return
            self._changed.wait(left)

    def _next_parts(self) -> list[_Part]:
        """Rows of one shape, fairly from all clients, and no more than this lane's share while others are idle."""
        leader = min(self._waiting, key=self._turn)
        alike = [asked for asked in self._waiting if asked.shape == leader.shape]
        room = self._live_rows if any(asked.ticket.live for asked in alike) else self._most_rows
        pending = sum(asked.left for asked in alike)
        room = min(room, -(-pending // max(1, self._idle)))
        parts: list[_Part] = []
        while room and alike:
            asked = min(alike, key=self._turn)
            count = min(room, asked.left)
            parts.append(_Part(asked, asked.taken, asked.taken + count))
            asked.taken += count
            room -= count
            client = asked.ticket.client
            self._time = max(self._time, self._times.get(client, 0.0))
            self._times[client] = self._times.get(client, 0.0) + count / asked.ticket.weight
            if not asked.left:
                alike.remove(asked)
                self._waiting.remove(asked)
        self._forget_idle()
        return parts

    def _turn(self, asked: _Asked) -> float:
        return self._times.get(asked.ticket.client, 0.0)

    def _forget_idle(self) -> None:
        """Clients that are behind the time have nothing to be remembered for."""
        busy = {asked.ticket.client for asked in self._waiting}
        for client in [each for each, at in self._times.items() if at < self._time and each not in busy]:
            del self._times[client]

    def _run(self, parts: Sequence[_Part]) -> None:
        try:
            output = self._output(parts)
        except BaseException as error:
            if len(parts) == 1:
                self._fail(parts[0].asked, error)
                return
            # One request's rows may be the cause: the others must not fail with it.
            for part in parts:
                self._run([part])
            return
        behind = 0
        for part in parts:
            count = part.last - part.first
            self._deliver(part, output[behind : behind + count])
            behind += count

    def _output(self, parts: Sequence[_Part]) -> NDArray[Any]:
        feeds = {
            name: np.concatenate([part.asked.feeds[name][part.first : part.last] for part in parts])
            for name in parts[0].asked.feeds
        }
        output: NDArray[Any] = self._unet.run(feeds)["out_sample"]
        return output

    def _deliver(self, part: _Part, output: NDArray[Any]) -> None:
        asked = part.asked
        with self._changed:
            if asked.output is None:
                asked.output = np.empty((asked.rows, *output.shape[1:]), output.dtype)
            asked.output[part.first : part.last] = output
            asked.done += part.last - part.first
            if asked.done == asked.rows:
                asked.settled.set()

    def _fail(self, asked: _Asked, error: BaseException) -> None:
        with self._changed:
            asked.error = error
            if asked in self._waiting:
                self._waiting.remove(asked)
            asked.settled.set()


class SharedUNet(Closing):
    """A session of the UNet's own kind, whose runs are shared with others'."""

    def __init__(self, batches: UNetBatches, ticket: Ticket) -> None:
        self._batches = batches
        self._ticket = ticket

    @property
    def graph(self) -> GraphSpec:
        """What the graph takes and gives."""
        return self._batches.graph

    @property
    def provider(self) -> str:
        """What really runs it."""
        return self._batches.provider

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See ``UNetBatches.predict``."""
        return self._batches.predict(self._ticket, feeds)

    def close(self) -> None:
        """Nothing: the network belongs to its owner."""


def _closed() -> DeviceError:
    return DeviceError("The server is shutting down", hint="Ask again when it is back")
