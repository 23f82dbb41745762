"""An application in, a running server out, which on SIGTERM first finishes what it has accepted."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from riffusion_engine.errors import RequestError
from riffusion_rt.server.service import NotReady

if TYPE_CHECKING:
    from riffusion_rt.server.app import ServerApp

LOOK_S = 0.1

FETCH_S = 5.0
"""After the last accepted job is done: how long its client may take to fetch the result."""

MOST_CONNECTIONS = 1000
BACKLOG = 2048


class DrainingServer(uvicorn.Server):
    """A uvicorn server that ends gracefully.

    At the first signal nothing more is accepted (503, and 1001 for live sessions), while accepted jobs go on and
    their results may be fetched; at the second one, or after ``drain_s``, it ends.
    """

    def __init__(self, config: uvicorn.Config, app: ServerApp) -> None:
        super().__init__(config)
        self._app = app
        app.on_failure = self._give_up
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to end."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM and SIGINT."""
        if self._ending is not None or self._loop is None or sig == signal.SIGINT:
            super().handle_exit(sig, frame)
            return
        self._loop.call_soon_threadsafe(self._begin_to_end)

    def _give_up(self) -> None:
        self.should_exit = True

    def _begin_to_end(self) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        try:
            service = self._app.service
        except NotReady:
            self.should_exit = True
            return
        service.begin_drain()
        until = time.monotonic() + self._app.settings.drain_s
        while service.queue.busy and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
        until = min(until, time.monotonic() + FETCH_S)
        while service.queue.unfetched and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
        self.should_exit = True


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that accepts connections, taken before a model is opened in vain.

    Raises:
        RequestError: the address is not this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise RequestError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}",
            hint="Choose another --port or --host",
        ) from error


def make_server(app: ServerApp, host: str, port: int, *, log_level: str = "info") -> DrainingServer:
    """A server that is not yet started; ``run()`` blocks."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        # uvicorn's own set-up closes every handler of the process, whoever it belongs to.
        log_config=None,
        access_log=False,
        server_header=False,
        ws="websockets-sansio",
        ws_max_size=app.settings.most_body_bytes,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=5,
    )
    return DrainingServer(config, app)
