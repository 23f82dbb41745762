"""HTTP and WebSockets in, the server's own application behind them, whose work is done by engines elsewhere."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

from riffusion_engine.errors import EngineError
from riffusion_rt.scale.cluster_live import RemoteSessions
from riffusion_rt.scale.cluster_settings import A_TRACE, ENGINES, HEAD_NODE
from riffusion_rt.scale.cluster_work import ClusterOwner, ClusterWorkshop
from riffusion_rt.scale.mailbox import Mailbox
from riffusion_rt.server.app import ServerApp
from riffusion_rt.server.order_bodies import OrderReader
from riffusion_rt.server.service import NotReady, Service

if TYPE_CHECKING:
    from riffusion_rt.scale.engine_replica import EngineFacts
    from riffusion_rt.server.engine_owner import EngineOwner
    from riffusion_rt.server.live_sessions import LiveSessions
    from riffusion_rt.server.making import Workshop
    from riffusion_rt.server.service_settings import ServiceSettings

LOOK_S = 0.1

ENGINES_WITHIN_S = 120.0
"""How long the door waits until there is an application of engines; one that starts may take longer."""


class ClusterService(Service):
    """A service whose model is in many places. See ``Service``.

    Raises:
        EngineError: no engine can be had.
    """

    def _open_owner(self) -> EngineOwner:
        owner = ClusterOwner(_engines_handle(), _new_mailbox(), self._renewed)
        return cast("EngineOwner", owner)

    def _make_workshop(self) -> Workshop:
        return ClusterWorkshop(cast(ClusterOwner, self.owner), self.store)

    def _make_live(self) -> LiveSessions:
        return cast("LiveSessions", RemoteSessions(cast(ClusterOwner, self.owner), self.settings))

    def _renewed(self, facts: EngineFacts) -> None:
        """From now on requests are read for the new model."""
        self.reader = OrderReader(self.settings, facts.manifest)


class Door:
    """The ingress: one replica of it is all there is.

    Args:
        settings: the server's.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings

    def __serve_build_asgi_app__(self) -> ServerApp:
        self._app = ServerApp(self._settings, ClusterService)
        return self._app

    def check_health(self) -> None:
        """Serve asks; what raises is replaced.

        Raises:
            EngineError: it could not be opened.
        """
        if self._app.failed is not None:
            raise EngineError("The door could not be opened", hint="See its log") from self._app.failed

    async def lost_calls(self) -> int:
        """Makings whose engine died, and that were done again by another one."""
        return cast(ClusterOwner, self._app.service.owner).lost

    async def drain(self) -> bool:
        """Accept nothing more and wait until what was accepted is done; whether it is."""
        try:
            service = self._app.service
        except NotReady:
            return True
        service.begin_drain()
        until = time.monotonic() + self._settings.drain_s
        while service.queue.busy and time.monotonic() < until:
            await asyncio.sleep(LOOK_S)
        return not service.queue.busy


def _engines_handle() -> Any:
    """Serve's handle of the engines, once that application is known: both may be deployed at the same time."""
    from ray import serve

    until = time.monotonic() + ENGINES_WITHIN_S
    while ENGINES not in serve.status().applications:
        if time.monotonic() > until:
            raise EngineError(
                f"There is no application {ENGINES!r} in the cluster", hint="Deploy it beside the door"
            )
        time.sleep(1)
    return serve.get_app_handle(ENGINES)


def _new_mailbox() -> Any:
    import ray

    options = {"num_cpus": 0, "resources": {HEAD_NODE: A_TRACE}, "max_concurrency": 10_000}
    return ray.remote(Mailbox).options(**options).remote()
