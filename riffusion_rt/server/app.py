"""Settings in, an ASGI application out, which opens its model when it is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from riffusion_rt import __version__
from riffusion_rt.server.answers import add_error_answers
from riffusion_rt.server.fact_routes import fact_routes
from riffusion_rt.server.gate import Gate
from riffusion_rt.server.job_routes import job_routes
from riffusion_rt.server.live_socket import live_routes
from riffusion_rt.server.order_bodies import make_bodies
from riffusion_rt.server.original_surface import PATHS, original_routes
from riffusion_rt.server.page import add_page, docs_routes
from riffusion_rt.server.rate_limit import RateLimit
from riffusion_rt.server.service import NotReady, Service
from riffusion_rt.server.service_settings import ServiceSettings

DESCRIPTION = (
    "Type a prompt, get music. Jobs make clips and songs; /api/v1/live is a WebSocket that plays on and on."
)


class ServerApp:
    """The application, and the service behind it once it is open. Use it as any ASGI application.

    Args:
        settings: what the operator chose.
        open_service: opens what stands behind the routes; by default a model in this process.
    """

    def __init__(
        self, settings: ServiceSettings, open_service: Callable[[ServiceSettings], Service] = Service
    ) -> None:
        self.settings = settings
        self._open_service = open_service
        self.failed: BaseException | None = None
        """Why the model could not be opened; then the server ends."""
        self.on_failure: Callable[[], None] = lambda: None
        self._service: Service | None = None
        self._rate = RateLimit(settings.requests_a_minute)
        self.api = self._make_api()
        self._outermost = Gate(OpenToPages(self.api, settings), settings, self._rate, self._answered)

    @property
    def service(self) -> Service:
        """What the routes work with.

        Raises:
            NotReady: it is not yet open.
        """
        if self._service is None:
            raise NotReady
        return self._service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        await self._outermost(scope, receive, send)

    def _make_api(self) -> FastAPI:
        api = FastAPI(
            title="riffusion-rt",
            version=__version__,
            description=DESCRIPTION,
            docs_url=None,
            redoc_url=None,
            lifespan=self._open_while_running,
        )

        def source() -> Service:
            return self.service

        add_error_answers(api)
        api.include_router(fact_routes(source))
        api.include_router(job_routes(source, make_bodies(self.settings).named()))
        api.include_router(original_routes(source))
        api.include_router(live_routes(source, self._rate))
        api.include_router(docs_routes(api))
        add_page(api)
        return api

    @asynccontextmanager
    async def _open_while_running(self, _: FastAPI) -> AsyncIterator[None]:
        # Opened beside the loop: /healthz answers from the first moment, /readyz when the model is there.
        opening = asyncio.ensure_future(run_in_threadpool(self._open_service, self.settings))
        opening.add_done_callback(self._opened)
        try:
            yield
        finally:
            await asyncio.wait({opening})
            if not opening.cancelled() and opening.exception() is None:
                await run_in_threadpool(opening.result().close)
            self._service = None

    def _opened(self, opening: asyncio.Future[Service]) -> None:
        if opening.cancelled():
            return
        self.failed = opening.exception()
        if self.failed is None:
            self._service = opening.result()
        else:
            self.on_failure()

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        if self._service is not None:
            route: Any = scope.get("route")
            self._service.metrics.answered(scope["method"], getattr(route, "path", "(none)"), status, seconds)


class OpenToPages:
    """ASGI middleware: which other sites' pages may use what. The original surface is open to all, as it always was."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._original = CORSMiddleware(app, allow_origins=["*"], allow_methods=["POST"], allow_headers=["*"])
        self._api: ASGIApp = app
        if settings.allowed_origins:
            self._api = CORSMiddleware(
                app,
                allow_origins=list(settings.allowed_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=["Retry-After"],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        original = scope["type"] == "http" and scope["path"] in PATHS
        await (self._original if original else self._api)(scope, receive, send)
