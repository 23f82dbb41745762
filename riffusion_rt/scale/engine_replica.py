"""One call for a clip or a live session in, its events out as they come: a replica that owns a model.

Every call is a stream of lists of events; an event is a tuple, its name first:

``("here", replica, facts | None)`` where the call lives, and of which model if the caller does not know it;
``("stage", share, previewed)``, ``("clip", clip)`` of a making; ``("opened", id)``, ``("said", number, message)`` of a
live session; ``("answer", number, value)`` to a letter that asked; and at last ``("done", counts)``,
``("cancelled", counts)`` or ``("failed", error, counts)``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from riffusion_engine.devices import available_cores
from riffusion_engine.errors import DeviceError, EngineError, RiffusionError
from riffusion_rt.scale.cluster_settings import checked
from riffusion_rt.scale.mailbox import Letter
from riffusion_rt.server.answers import error_facts, log
from riffusion_rt.server.engine_owner import EngineOwner
from riffusion_rt.server.live_sessions import Listener, LiveSession, LiveSessions
from riffusion_rt.server.making import Studio
from riffusion_rt.server.service import open_engine
from riffusion_rt.server.service_settings import ServiceSettings
from riffusion_rt.server.unet_batches import Ticket, WorkCancelled
from riffusion_rt.server.work_queue import ServerBusy, Stage

if TYPE_CHECKING:
    from riffusion_engine.manifest import Manifest
    from riffusion_rt.clip import Clip
    from riffusion_rt.server.making import Making
    from riffusion_rt.stream_request import StreamRequest

Event = tuple[Any, ...]

MOST_FAILURES = 3
"""Makings that may fail one after another, for reasons that are not the request's, before a replica is unwell."""

LOOK_S = 1.0
"""How often a call that has nothing to say looks whether its session has ended."""


@dataclasses.dataclass(frozen=True)
class EngineFacts:
    """What the door must know of a model."""

    manifest: Manifest
    device: str
    digest: str
    """Tells models of one name apart."""


class EngineReplica:
    """A model and the calls it is at. Serve makes one in each replica.

    Args:
        settings: of ``ServiceSettings``: the model, the device, threads, rows and lanes.
        live: sessions at most.

    Raises:
        ModelNotFoundError, BundleError, DeviceError, MissingExtraError: the model cannot be opened.
    """

    def __init__(self, settings: dict[str, Any], live: int = 4) -> None:
        self._settings: ServiceSettings = checked(
            ServiceSettings, {**settings, "most_live": live}, "engine's settings"
        )
        self.owner: EngineOwner = open_engine(self._settings)
        self.owner.warm_up()
        self._studio = Studio(finishing=available_cores())
        self._live = LiveSessions(self.owner, self._settings)
        self._facts = facts_of(self.owner)
        self._name = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        self._calls: dict[str, Call] = {}
        self._mailboxes: set[str] = set()
        self._failures = 0

    async def facts(self) -> EngineFacts:
        """Of the model."""
        return self._facts

    def check_health(self) -> None:
        """Serve asks; what raises is replaced.

        Raises:
            EngineError: makings fail one after another, as they do when a GPU is lost.
        """
        if self._failures >= MOST_FAILURES:
            raise EngineError(
                f"The last {self._failures} makings failed", hint="The replica is started again by itself"
            )

    async def make(
        self,
        identity: str,
        request: Making,
        recording: bytes | None,
        client: str,
        known: str,
        mailbox: Any,
    ) -> AsyncIterator[list[Event]]:
        """Make a clip. ``recording`` replaces the request's own, which lies on another machine."""
        call = Call(Ticket(client), self.owner.cancel)
        work = threading.Thread(target=self._make, args=(call, request, recording), daemon=True)
        async for events in self._told(identity, call, work, known, mailbox):
            yield events

    async def play(
        self, identity: str, request: StreamRequest, form: Any, known: str, mailbox: Any
    ) -> AsyncIterator[list[Event]]:
        """Play a live session until it ends."""
        call = Call(Ticket(identity), self.owner.cancel)
        work = threading.Thread(target=self._open, args=(call, request, form), daemon=True)
        try:
            async for events in self._told(identity, call, work, known, mailbox):
                yield events
        finally:
            if call.session is not None:
                call.session.close()

    async def _told(
        self, identity: str, call: Call, work: threading.Thread, known: str, mailbox: Any
    ) -> AsyncIterator[list[Event]]:
        self._calls[identity] = call
        self._listen_to(mailbox)
        work.start()
        try:
            yield [("here", self._name, None if known == self._facts.digest else self._facts)]
            while not call.ended:
                events = await call.next_events()
                if events:
                    yield events
        finally:
            del self._calls[identity]
            self.owner.cancel(call.ticket)

    def _make(self, call: Call, request: Making, recording: bytes | None) -> None:
        with self._ending(call), _at_hand(request, recording) as here:
            for event in self.events(call.ticket, here):
                if isinstance(event, Stage):
                    call.stage = event
                    call.say("stage", event.share, event.preview is not None)
                else:
                    call.say("clip", event)

    def events(self, ticket: Ticket, request: Making) -> Iterator[Stage | Clip]:
        """How far the making of a request is, and at last what it made."""
        return self._studio.events(self.owner.model_for(ticket), request)

    def _open(self, call: Call, request: StreamRequest, form: Any) -> None:
        with self._ending(call, after=False):
            call.session = self._live.open(request, form)
            call.counted = lambda: self.owner.counts
            call.say("opened", call.session.id)

    @contextmanager
    def _ending(self, call: Call, *, after: bool = True) -> Iterator[None]:
        """Say how the work of a call ended; ``after`` it even if it went well."""
        try:
            yield
            self._failures = 0
            if after:
                call.say("done", self.owner.counts)
        except WorkCancelled:
            call.say("cancelled", self.owner.counts)
        except (RiffusionError, OSError) as error:
            self._failures += isinstance(error, DeviceError)
            call.say("failed", portable(error), self.owner.counts)
        except Exception as error:
            self._failures += 1
            log.error("A making failed", exc_info=error)
            call.say("failed", RuntimeError(f"{type(error).__name__}: {error}"), self.owner.counts)

    def _listen_to(self, mailbox: Any) -> None:
        name = mailbox._actor_id.hex()
        if name not in self._mailboxes:
            self._mailboxes.add(name)
            threading.Thread(target=self._read_letters, args=(mailbox, name), daemon=True).start()

    def _read_letters(self, mailbox: Any, name: str) -> None:
        import ray

        while True:
            try:
                letters: list[Letter] = ray.get(mailbox.take.remote(self._name))
            except ray.exceptions.RayActorError:
                break
            for letter in letters:
                call = self._calls.get(letter.call)
                if call is not None:
                    call.hear(letter)
        # The door has gone, and with it everyone who listened.
        self._mailboxes.discard(name)
        for call in list(self._calls.values()):
            call.give_up()


class Call:
    """One call under way: what it says, from any thread, and what it is told."""

    def __init__(self, ticket: Ticket, cancel: Callable[[Ticket], None]) -> None:
        self.ticket, self._cancel = ticket, cancel
        self.stage = Stage(0.0)
        self.session: LiveSession | None = None
        self.counted: Callable[[], Any] = lambda: None
        self.ended = False
        self._number = 0
        self._listener: Listener = self._listener_of(0)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def say(self, name: str, *values: Any) -> None:
        """Have an event sent."""
        with suppress(RuntimeError):  # The loop has ended.
            self._loop.call_soon_threadsafe(self._events.put_nowait, (name, *values))

    async def next_events(self) -> list[Event]:
        """What was said since; nothing after a while in which nothing was."""
        try:
            events = [await asyncio.wait_for(self._events.get(), LOOK_S)]
        except asyncio.TimeoutError:
            if self.session is not None and self.session.over:
                self.ended = True
                return [("done", self.counted())]
            return []
        while not self._events.empty():
            events.append(self._events.get_nowait())
        self.ended = events[-1][0] in ("done", "cancelled", "failed")
        # Of stages that came together only the last one matters.
        return [
            event
            for event, after in zip(events, [*events[1:], ("",)], strict=True)
            if not (event[0] == after[0] == "stage")
        ]

    def hear(self, letter: Letter) -> None:
        """Do what a letter says. It comes in the mailbox's thread and must not keep it."""
        if letter.name == "ask":
            number, what, *values = letter.values
            threading.Thread(target=self._answer, args=(number, what, *values), daemon=True).start()
        elif letter.name == "cancel":
            self._cancel(self.ticket)
        elif self.session is not None:
            try:
                self._steered(self.session, letter)
            except RiffusionError as error:
                self.say("said", self._number, {"type": "error", **error_facts(error).model_dump()})

    def give_up(self) -> None:
        """Nobody listens any more."""
        self._cancel(self.ticket)
        if self.session is not None:
            self.session.close()

    def _steered(self, session: LiveSession, letter: Letter) -> None:
        if letter.name == "attach":
            self._number, from_frame = letter.values
            self._listener = self._listener_of(self._number)
            session.attach(self._listener, from_frame)
        elif letter.name == "detach" and letter.values == (self._number,):
            session.detach(self._listener)
        elif letter.name in ("play", "acknowledge", "steer", "configure", "reset", "close"):
            getattr(session, letter.name)(*letter.values)

    def _listener_of(self, number: int) -> Listener:
        return lambda message: self.say("said", number, message)

    def _answer(self, number: int, what: str, *values: Any) -> None:
        answer: bytes | None = None
        with suppress(Exception):  # Whoever asks for what is no longer there is told nothing.
            if what == "preview" and self.stage.preview is not None:
                answer = self.stage.preview()
            elif what == "picture" and self.session is not None:
                answer = self.session.picture(*values)
        self.say("answer", number, answer)


def facts_of(owner: EngineOwner) -> EngineFacts:
    """What there is to know of an open model."""
    digest = hashlib.sha256(msgspec.json.encode(owner.manifest)).hexdigest()
    return EngineFacts(owner.manifest, owner.device, digest)


def portable(error: Exception) -> Exception:
    """An error as it can be sent to another process."""
    if isinstance(error, ServerBusy):
        return EngineBusy(error.message, hint=error.hint)
    return error


class EngineBusy(RiffusionError):
    """An engine has as many live sessions as it can have."""


@contextmanager
def _at_hand(request: Making, recording: bytes | None) -> Iterator[Making]:
    """The request, with its recording in a file of this machine."""
    from riffusion_rt.extend import ExtendRequest
    from riffusion_rt.remix import RemixRequest

    if recording is None or not isinstance(request, RemixRequest | ExtendRequest):
        yield request
        return
    with tempfile.TemporaryDirectory(prefix="riffusion-rt-") as folder:
        path = Path(folder) / "recording"
        path.write_bytes(recording)
        yield dataclasses.replace(request, audio=path)
