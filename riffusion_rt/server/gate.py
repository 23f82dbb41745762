"""Requests from outside in; through go those from an allowed host, with the key, not too often and not too large."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from riffusion_rt.server.answers import error_answer
from riffusion_rt.server.rate_limit import RateLimit

if TYPE_CHECKING:
    from riffusion_rt.server.service_settings import ServiceSettings

OPEN_PATHS = re.compile(
    r"/(|assets/.*|docs|openapi\.json|healthz|readyz|favicon\.ico|[\w.-]+\.(js|css|svg|png|ico|webmanifest|txt)"
    r"|api/v1/seed-images/.*|api/v1/jobs/[\w-]+/(audio\.\w+|image\.png|preview\.png|plan\.toml)"
    r"|api/v1/live/[\w-]+/pictures/.*)"
)
"""What needs no key: the page, and results, whose addresses nobody can guess. A browser's players send no keys."""

UPLOAD_PATHS = ("/api/v1/remix", "/api/v1/extend")

COSTLY = ("/api/v1/", "/run_inference")
"""Where a POST is counted against the rate."""

DISCARDED_TIMES = 4
"""A body too large is read to its end and thrown away, up to so many times the limit, so that its sender hears why."""

DISCARDED_S = 30.0
"""And for so long at most."""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
"""The page loads nothing from elsewhere. Sockets are named because not every browser counts them to 'self'."""

SAFE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}

Watch = Callable[[Scope, int, float], None]
"""Told of every answer: the request, the status and the seconds it took."""


class Gate:
    """ASGI middleware: the outermost one."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, rate: RateLimit, watch: Watch) -> None:
        self._app, self._settings, self._rate, self._watch = app, settings, rate, watch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        started, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            await self._pass(scope, headers, path, receive, sent)
        finally:
            self._watch(scope, status, time.perf_counter() - started)

    async def _pass(self, scope: Scope, headers: Headers, path: str, receive: Receive, send: Send) -> None:
        settings = self._settings
        if not host_allowed(headers.get("host", ""), settings.allowed_hosts):
            answer = error_answer(
                400, "wrong_host", "This server does not go by that name", "Start it with --allowed-host NAME"
            )
            await answer(scope, receive, send)
            return
        if not (OPEN_PATHS.fullmatch(path) or scope["method"] == "OPTIONS" or key_shown(headers, settings)):
            answer = error_answer(
                401,
                "no_key",
                "This server wants a key",
                "Send it as Authorization: Bearer KEY",
                {"WWW-Authenticate": "Bearer"},
            )
            await answer(scope, receive, send)
            return
        if scope["method"] == "POST" and path.startswith(COSTLY):
            wait = self._rate.counted(client_of(scope, headers, settings))
            if wait is not None:
                answer = error_answer(
                    429,
                    "too_many_requests",
                    f"More than {settings.requests_a_minute} requests a minute",
                    "Wait a little",
                    {"Retry-After": str(wait)},
                )
                await answer(scope, receive, send)
                return
        await self._bounded(scope, headers, path, receive, send)

    async def _bounded(self, scope: Scope, headers: Headers, path: str, receive: Receive, send: Send) -> None:
        settings = self._settings
        most = settings.most_upload_bytes if path in UPLOAD_PATHS else settings.most_body_bytes
        length = headers.get("content-length", "0")
        answer = error_answer(
            413, "too_large", f"The body has more than {most:,} bytes", "Send less", {"Connection": "close"}
        )
        if not length.isdecimal() or int(length) > most:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_discard(receive, most * DISCARDED_TIMES), DISCARDED_S)
            await answer(scope, receive, send)
            return
        behind = 0

        async def counted() -> Message:
            nonlocal behind
            message = await receive()
            behind += len(message.get("body", b""))
            if behind > most:
                raise HTTPException(413, f"The body has more than {most:,} bytes")
            return message

        await self._app(scope, counted, send)


def client_of(scope: Scope, headers: Headers, settings: ServiceSettings) -> str:
    """Who a request is from, for fairness and limits."""
    if settings.client_header is not None:
        named = headers.get(settings.client_header)
        if named:
            return named[:200]
    address = scope.get("client")
    return str(address[0]) if address else "unknown"


def key_shown(headers: Headers, settings: ServiceSettings, key: str | None = None) -> bool:
    """Whether a request has the key, if one is wanted."""
    if settings.api_key is None:
        return True
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    shown = key or headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
    return secrets.compare_digest(
        shown.encode("utf-8", "replace"), settings.api_key.encode("utf-8", "replace")
    )


def host_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether a Host header names this server: another name is a page that plays tricks with its own."""
    if "*" in allowed:
        return True
    name = re.sub(r":\d+$", "", host).lower()
    return name in {each.lower() for each in allowed}


def origin_allowed(headers: Headers, settings: ServiceSettings) -> bool:
    """Whether a socket may be opened from the page it comes from: this server's own, or one that is allowed."""
    origin = headers.get("origin")
    if origin is None or "*" in settings.allowed_origins or origin in settings.allowed_origins:
        return True
    return origin.partition("://")[2] == headers.get("host")


async def _discard(receive: Receive, most: int) -> None:
    behind = 0
    while behind <= most:
        message = await receive()
        behind += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return
