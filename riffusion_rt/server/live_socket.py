"""A WebSocket in, a live session behind it: messages are checked here, blocks are handed on as they come."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal

import anyio
from fastapi import APIRouter, HTTPException, Response, WebSocket
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.websockets import WebSocketDisconnect

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_rt.server.answers import error_facts, log
from riffusion_rt.server.gate import client_of, host_allowed, key_shown, origin_allowed
from riffusion_rt.server.job_routes import NEVER_CHANGES, PREFIX
from riffusion_rt.server.live_blocks import Format
from riffusion_rt.server.live_sessions import LiveSession, Message, mix_text
from riffusion_rt.server.rate_limit import RateLimit
from riffusion_rt.server.service import Service, ServiceSource
from riffusion_rt.server.work_queue import ServerBusy
from riffusion_rt.stream_request import MAX_GLIDE, MAX_PROMPTS, StreamRequest

NORMAL, GOING_AWAY, REFUSED, TRY_LATER = 1000, 1001, 1008, 1013
"""Close codes of RFC 6455 and its registry."""

SETUP_WITHIN_S = 20.0
"""A socket that says nothing is closed."""

MOST_MESSAGES, IN_SECONDS = 400, 10.0
"""More than a page ever sends."""

MOST_FRAMES = 2**53

_NULLABLE = ("steps", "guidance", "sampler", "seed_image", "strength", "look_ahead_s")
"""Settings that may be set back to the model's own; null leaves the others as they are."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class PromptPart(_Strict):
    """One prompt, and how much it counts."""

    text: str = Field(max_length=20_000)
    weight: float = Field(1.0, ge=0, le=1000)


Prompts = Annotated[list[PromptPart], Field(min_length=1, max_length=MAX_PROMPTS)]
Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]


class Setup(_Strict):
    """The first message."""

    type: Literal["setup"]
    prompts: Prompts
    seed: Seed | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    format: Format = "s16le"
    session: str | None = Field(None, max_length=64)
    from_frame: int = Field(0, ge=0, le=MOST_FRAMES)
    key: str | None = Field(None, max_length=1000)


class Steer(_Strict):
    """Other prompts."""

    type: Literal["prompts"]
    prompts: Prompts
    glide: int | None = Field(None, ge=1, le=MAX_GLIDE)
    seed: Seed | None = None


class Configure(_Strict):
    """Other settings: in ``config``, or beside ``type``."""

    model_config = ConfigDict(extra="allow")
    type: Literal["config"]
    config: dict[str, Any] | None = None


class Play(_Strict):
    """Go on, or stop."""

    type: Literal["play", "pause"]


class Reset(_Strict):
    """Begin anew."""

    type: Literal["reset"]
    seed: Seed | None = None


class Acknowledge(_Strict):
    """What was played."""

    type: Literal["ack"]
    played_frames: int = Field(ge=0, le=MOST_FRAMES)


Wish = Annotated[Setup | Steer | Configure | Play | Reset | Acknowledge, Field(discriminator="type")]
_WISHES: TypeAdapter[Any] = TypeAdapter(Wish)


def live_routes(source: ServiceSource, rate: RateLimit) -> APIRouter:
    """The socket, and the pictures of what it plays."""
    routes = APIRouter(prefix=PREFIX, tags=["live"])

    @routes.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await _Connection(source, socket, rate).run()

    @routes.get(
        "/live/{session}/pictures/{clip}.png",
        response_class=Response,
        responses={200: {"content": {"image/png": {}}}},
    )
    async def picture(
        session: Annotated[str, InPath(pattern=r"^[A-Za-z0-9_-]{8,64}$")],
        clip: Annotated[int, InPath(ge=0, le=2**31)],
    ) -> Response:
        """The spectrogram of one of a live session's last clips: 8-bit grey, dark is loud."""
        found = source().live.find(session)
        content = None if found is None else found.picture(clip)
        if content is None:
            raise HTTPException(404, "This clip's picture is no longer kept")
        return Response(content, media_type="image/png", headers={"Cache-Control": NEVER_CHANGES})

    return routes


class _Refused(Exception):
    """The connection ends, with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Connection:
    """One socket, from its setup to its end."""

    def __init__(self, source: ServiceSource, socket: WebSocket, rate: RateLimit) -> None:
        self._source, self._socket, self._rate = source, socket, rate
        self._loop = asyncio.get_running_loop()
        self._outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
        self._times: deque[float] = deque(maxlen=MOST_MESSAGES)

    async def run(self) -> None:
        """Serve until either side has enough."""
        await self._socket.accept()
        session: LiveSession | None = None
        try:
            service = self._admitted()
            session = await self._set_up(service)
            await self._converse(service, session)
        except _Refused as refused:
            await self._close(refused.code, str(refused))
        except ServerBusy as busy:
            await self._close(TRY_LATER, busy.message)
        except WebSocketDisconnect:
            pass
        except Exception as error:
            log.error("A live connection failed", exc_info=error)
            await self._close(1011, "Something went wrong in the server")
        finally:
            if session is not None:
                session.detach(self._listen)

    def _listen(self, message: Message | None) -> None:
        with suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(self._outgoing.put_nowait, message)

    def _admitted(self) -> Service:
        headers, service = self._socket.headers, self._source()
        if service.draining:
            raise _Refused(GOING_AWAY, "The server is shutting down")
        if not host_allowed(headers.get("host", ""), service.settings.allowed_hosts):
            raise _Refused(REFUSED, "This server does not go by that name")
        if not origin_allowed(headers, service.settings):
            raise _Refused(REFUSED, "Pages of that site may not use this server")
        if self._rate.counted(client_of(self._socket.scope, headers, service.settings)) is not None:
            raise _Refused(TRY_LATER, "Too many requests a minute")
        return service

    async def _set_up(self, service: Service) -> LiveSession:
        try:
            setup = await asyncio.wait_for(self._wish(), SETUP_WITHIN_S)
        except asyncio.TimeoutError as error:
            raise _Refused(REFUSED, "There was no setup") from error
        except (RequestError, ValidationError) as error:
            await self._say_error(error)
            raise _Refused(REFUSED, "The setup was not understood") from error
        if not isinstance(setup, Setup):
            raise _Refused(REFUSED, "The first message is the setup")
        if not key_shown(self._socket.headers, service.settings, setup.key):
            raise _Refused(REFUSED, "This server wants a key")
        known = service.live.find(setup.session) if setup.session else None
        if known is not None:
            known.attach(self._listen, setup.from_frame)
            return known
        try:
            session = await run_in_threadpool(_opened, service, setup)
        except ServerBusy as busy:
            await self._say_error(busy)
            raise _Refused(TRY_LATER, busy.message) from busy
        except (RiffusionError, ValidationError) as error:
            await self._say_error(error)
            raise _Refused(REFUSED, "The setup cannot be played") from error
        session.attach(self._listen)
        return session

    async def _converse(self, service: Service, session: LiveSession) -> None:
        """Both directions at once, until one of them ends."""
        failures: list[Exception] = []
        async with anyio.create_task_group() as directions:

            async def to_the_end(direction: Callable[[], Awaitable[None]]) -> None:
                try:
                    await direction()
                except Exception as error:
                    failures.append(error)
                directions.cancel_scope.cancel()

            directions.start_soon(to_the_end, self._send)
            directions.start_soon(to_the_end, partial(self._hear, service, session))
        if failures:
            raise failures[0]
        await self._close(GOING_AWAY if service.draining else NORMAL, "The session has ended")

    async def _send(self) -> None:
        while (message := await self._outgoing.get()) is not None:
            if isinstance(message, bytes):
                await self._socket.send_bytes(message)
            else:
                await self._socket.send_text(json.dumps(message))

    async def _hear(self, service: Service, session: LiveSession) -> None:
        while True:
            await self._hear_one(service, session)

    async def _hear_one(self, service: Service, session: LiveSession) -> None:
        try:
            wish = await self._wish()
            await run_in_threadpool(_granted, service, session, wish)
        except (RiffusionError, ValidationError) as error:
            await self._say_error(error)

    async def _wish(self) -> Any:
        """The next message.

        Raises:
            RequestError, ValidationError: it is not understood.
        """
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        now = self._loop.time()
        self._times.append(now)
        if len(self._times) == MOST_MESSAGES and now - self._times[0] < IN_SECONDS:
            raise _Refused(REFUSED, "Too many messages")
        text = message.get("text")
        if text is None:
            raise RequestError("A message is JSON text", hint="See the description of live sessions")
        return _WISHES.validate_json(text)

    async def _say_error(self, error: Exception) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.send_text(json.dumps({"type": "error", **_facts(error)}))

    async def _close(self, code: int, reason: str) -> None:
        with suppress(RuntimeError, WebSocketDisconnect):
            await self._socket.close(code, reason[:120])


def _facts(error: Exception) -> dict[str, str]:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return {"code": "invalid", "message": f"{place}: {first['msg']}", "hint": "See /schema"}
    return error_facts(error).model_dump()


def _opened(service: Service, setup: Setup) -> LiveSession:
    config = _settings(service, setup.config)
    config_seed = config.pop("seed", None)
    seed = setup.seed if setup.seed is not None else config_seed or 0
    prompts = _parts(service, setup.prompts)
    if config.get("seed_image") is None:
        config.pop("strength", None)
    return service.live.open(StreamRequest(mix_text(prompts), seed=seed, **config), setup.format)


def _granted(service: Service, session: LiveSession, wish: Any) -> None:
    """Do what a message asks for."""
    grant: dict[type, Callable[[Any], None]] = {
        Acknowledge: lambda wish: session.acknowledge(wish.played_frames),
        Play: lambda wish: session.play(wish.type == "play"),
        Reset: lambda wish: session.reset(wish.seed),
        Steer: lambda wish: session.steer(_parts(service, wish.prompts), wish.glide, wish.seed),
        Configure: lambda wish: session.configure(
            _settings(service, wish.model_extra if wish.config is None else wish.config)
        ),
    }
    if type(wish) not in grant:
        raise RequestError("The session is set up already", hint="Open another socket for another session")
    grant[type(wish)](wish)


def _settings(service: Service, values: Any) -> dict[str, Any]:
    """A configuration's values, checked, with its picture read; None is the model's default."""
    model = service.bodies.live
    named = {name: value for name, value in values.items() if value is not None or name in _NULLABLE}
    given = model.model_validate(named).model_dump(exclude_unset=True)
    service.reader.sources(given)
    return given


def _parts(service: Service, prompts: list[PromptPart]) -> list[tuple[str, float]]:
    longest = service.settings.most_prompt_characters
    if any(len(each.text) > longest for each in prompts):
        raise RequestError(f"A prompt may have {longest:,} characters", hint="Shorten it")
    return [(each.text, each.weight) for each in prompts]
