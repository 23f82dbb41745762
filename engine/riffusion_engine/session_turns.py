"""Several graphs of a bundle in, sessions that take turns out: only one of them is ever open.

A clip needs its text encoder, its UNet and its decoder one after another. Where memory is short, each opens when it is
run and closes when another is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from numpy.typing import NDArray

from riffusion_engine.closing import Closing
from riffusion_engine.errors import DeviceError
from riffusion_engine.manifest import GraphSpec
from riffusion_engine.session import Session


class SessionTurns(Closing):
    """Opens sessions by name, one at a time. Runs from several threads wait for each other."""

    def __init__(self, open_one: Callable[[str], Session]) -> None:
        """``open_one`` opens the session of a name; nothing is opened yet."""
        self._open_one = open_one
        self._lock = threading.RLock()
        self._name: str | None = None
        self._session: Session | None = None
        self._closed = False

    @property
    def open_name(self) -> str | None:
        """Which session is open now."""
        return self._name

    def session(self, name: str, graph: GraphSpec) -> Session:
        """The session of ``name``, whose graph is ``graph``: it opens when it is first run, and again if need be."""
        return _Taker(self, name, graph)

    def run(self, name: str, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the session of that name, having closed any other."""
        with self._lock:
            return self._taken(name).run(feeds)

    def provider(self, name: str) -> str:
        """What really runs the session of that name, which opens to tell."""
        with self._lock:
            return self._taken(name).provider

    def close(self) -> None:
        """Close what is open; nothing opens afterwards."""
        with self._lock:
            self._let_go()
            self._closed = True

    def _taken(self, name: str) -> Session:
        if self._closed:
            raise DeviceError(f"The session of {name} is closed", hint="Open the model again")
        if self._session is None or self._name != name:
            self._let_go()
            self._session, self._name = self._open_one(name), name
        return self._session

    def _let_go(self) -> None:
        session, self._session, self._name = self._session, None, None
        if session is not None:
            session.close()


class _Taker(Closing):
    """One of the sessions that take turns."""

    def __init__(self, turns: SessionTurns, name: str, graph: GraphSpec) -> None:
        self._turns, self._name, self._graph = turns, name, graph

    @property
    def graph(self) -> GraphSpec:
        return self._graph

    @property
    def provider(self) -> str:
        return self._turns.provider(self._name)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._turns.run(self._name, feeds)

    def close(self) -> None:
        """Nothing: the turns belong to whoever opened the model."""
