"""A client's wishes in, blocks out, of a live session that plays in some engine for as long as it lasts."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from riffusion_rt.scale.engine_calls import EngineLost
from riffusion_rt.scale.engine_replica import EngineBusy
from riffusion_rt.server.answers import error_facts, log
from riffusion_rt.server.live_sessions import Listener
from riffusion_rt.server.session_places import SessionPlaces, too_many
from riffusion_rt.server.unet_batches import Ticket

if TYPE_CHECKING:
    from riffusion_rt.scale.cluster_work import ClusterOwner
    from riffusion_rt.server.live_blocks import Format
    from riffusion_rt.server.service_settings import ServiceSettings
    from riffusion_rt.stream_request import StreamRequest

TRIES = 3
"""Engines that are asked whether they have room for a session."""

OPENED_WITHIN_S = 60.0
"""Of a session; an engine that must first be started may take longer, and the client may ask again."""


class RemoteSession:
    """A live session as the door sees it, with ``LiveSession``'s methods."""

    def __init__(self, owner: ClusterOwner, request: StreamRequest, form: Format) -> None:
        self.id = ""
        self._ticket = Ticket("live")
        self._owner, self._call = owner, owner.begin(self._ticket)
        self._lock = threading.Lock()
        self._listeners: dict[int, Listener] = {}
        self._number = 0
        self._over = threading.Event()
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._listen, args=(request, form), daemon=True)
        self._thread.start()

    def wait_until_open(self) -> None:
        """Return when it plays in some engine.

        Raises:
            EngineBusy: that engine has no room.
            RiffusionError: it cannot be played.
        """
        self._opened.wait(OPENED_WITHIN_S)
        if self._error is not None:
            raise self._error
        if not self.id:
            self.close()
            raise EngineBusy("No engine has room for a live session", hint="Try again later")

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over.is_set()

    @property
    def connected(self) -> bool:
        """Whether a client is there."""
        return bool(self._listeners)

    def attach(self, listener: Listener, from_frame: int = 0) -> None:
        """Send to this listener from now on, first what it lacks of what was sent; another one is told the end."""
        with self._lock:
            self._number += 1
            before, self._listeners = list(self._listeners.values()), {self._number: listener}
            self._call.post("attach", self._number, from_frame)
        for each in before:
            each(None)
        if self.over:
            self._end()

    def detach(self, listener: Listener) -> None:
        """The connection was lost."""
        with self._lock:
            for number, each in list(self._listeners.items()):
                if each == listener:
                    del self._listeners[number]
                    self._call.post("detach", number)

    def picture(self, clip: int) -> bytes | None:
        """A clip's picture, if it is still kept."""
        answer: bytes | None = self._call.ask("picture", clip)
        return answer

    def play(self, wanted: bool) -> None:
        """Go on, or stop drawing."""
        self._call.post("play", wanted)

    def acknowledge(self, frames: int) -> None:
        """The client has played so many frames of the session."""
        self._call.post("acknowledge", frames)

    def steer(self, prompts: Sequence[tuple[str, float]], glide: int | None, seed: int | None) -> None:
        """Go to other prompts; what is wrong with them comes as an error message."""
        self._call.post("steer", prompts, glide, seed)

    def configure(self, values: Mapping[str, Any]) -> None:
        """Take other settings over; what is wrong with them comes as an error message."""
        self._call.post("configure", dict(values))

    def reset(self, seed: int | None) -> None:
        """Begin anew."""
        self._call.post("reset", seed)

    def close(self) -> None:
        """End it; its listener is told."""
        if not self.over:
            self._call.post("close")
            self._call.give_up()
            self._end()

    def join(self) -> None:
        """Wait for its thread, once it is closed."""
        self._thread.join(OPENED_WITHIN_S)

    def _listen(self, request: StreamRequest, form: Format) -> None:
        try:
            for event in self._call.events("play", request, form):
                self._take(event)
        except EngineLost as error:
            self._fail(error)
        except Exception as error:
            log.error("A live session failed", exc_info=error)
            self._fail(error)
        finally:
            self._owner.end(self._ticket)
            self._end()
            self._opened.set()

    def _take(self, event: tuple[Any, ...]) -> None:
        if event[0] == "opened":
            self.id = event[1]
            self._opened.set()
        elif event[0] == "failed":
            self._fail(event[1])
        elif event[0] == "said":
            with self._lock:
                listener = self._listeners.get(event[1])
            if listener is not None:
                listener(event[2])

    def _fail(self, error: BaseException) -> None:
        """Tell whoever waits for it to open, or listens to it, why it ends."""
        self._error = error
        message = {"type": "error", **error_facts(error).model_dump()}
        if isinstance(error, EngineLost):
            message |= {"message": "The engine of this session died", "hint": "Set up another session"}
        with self._lock:
            listeners = list(self._listeners.values())
        for listener in listeners:
            listener(message)

    def _end(self) -> None:
        self._over.set()
        with self._lock:
            listeners, self._listeners = list(self._listeners.values()), {}
        for listener in listeners:
            listener(None)


class RemoteSessions(SessionPlaces[RemoteSession]):
    """All live sessions of a cluster, with ``LiveSessions``' methods: each id leads to the engine that plays it."""

    def __init__(self, owner: ClusterOwner, settings: ServiceSettings) -> None:
        super().__init__(settings)
        self._owner = owner

    def open(self, request: StreamRequest, form: Format) -> RemoteSession:
        """A new session, paused.

        Raises:
            ServerBusy: there are as many as can be, or no engine has room.
            RiffusionError: it cannot be played.
        """
        with self._lock:
            self._make_room()
        session = self._opened(request, form)
        with self._lock:
            self._sessions[session.id] = session
        return session

    def close(self) -> None:
        """End all of them."""
        self.refuse_more()

    def _give_up(self, session: RemoteSession) -> None:
        session.close()
        del self._sessions[session.id]  # Its end is told by its engine, in a while.

    def _opened(self, request: StreamRequest, form: Format) -> RemoteSession:
        for tried in range(1, TRIES + 1):
            session = RemoteSession(self._owner, request, form)
            try:
                session.wait_until_open()
                return session
            except (EngineBusy, EngineLost) as error:
                if tried == TRIES:
                    raise too_many(error.message) from error
        raise AssertionError
