"""A request for some engine in, one call of one replica out: its events, and letters to it while it is under way."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from riffusion_engine.errors import EngineError
from riffusion_rt.scale.mailbox import Letter

if TYPE_CHECKING:
    from riffusion_rt.scale.engine_replica import EngineFacts, Event

ANSWER_S = 5.0
"""How long a question to a call may stay open."""


class EngineLost(EngineError):
    """The replica or its node died while it was at a call."""


@dataclass(frozen=True)
class Engines:
    """All engine replicas, as the door sees them."""

    handle: Any
    """Serve's handle of the deployment."""
    mailbox: Any
    """The actor that letters go through."""
    on_facts: Callable[[EngineFacts], None]
    """Told when a call is answered by a model that is not the one known."""
    on_counts: Callable[[str, Any], None]
    """Told what a replica's network did so far."""


class EngineCall:
    """One call. Its events are read by one thread; letters may be sent by any."""

    def __init__(self, engines: Engines, known: str) -> None:
        self.id = secrets.token_urlsafe(12)
        self._engines, self._known = engines, known
        self._lock = threading.Lock()
        self._replica: str | None = None
        self._early: list[Letter] = []
        self._questions: dict[int, Future[Any]] = {}
        self._given_up = False
        self._response: Any = None

    def events(self, method: str, *values: Any) -> Iterator[Event]:
        """The call's events but those that concern the call itself.

        Raises:
            EngineLost: its replica died. What it said before holds.
            BaseException: what the making raised.
        """
        import ray
        from ray.serve.exceptions import RayServeException

        try:
            remote = getattr(self._engines.handle.options(stream=True), method)
            self._response = remote.remote(self.id, *values, self._known, self._engines.mailbox)
            for events in self._response:
                for event in events:
                    yield from self._sorted(event)
        except ray.exceptions.RayTaskError:
            raise  # A fault of the program, which another replica has too.
        except (ray.exceptions.RayError, RayServeException) as error:
            if self._given_up:
                yield ("cancelled",)
                return
            raise EngineLost(
                "The engine that was at this died", hint="It is done again by another one"
            ) from error
        finally:
            for question in list(self._questions.values()):
                question.cancel()

    def post(self, name: str, *values: Any) -> None:
        """Send a letter; before it is known where to, it is kept."""
        letter = Letter(self.id, name, values)
        with self._lock:
            if self._replica is None:
                self._early.append(letter)
            else:
                self._engines.mailbox.post.remote(self._replica, letter)

    def ask(self, what: str, *values: Any) -> Any:
        """Ask, and wait for the answer; None if there is none."""
        answer: Future[Any] = Future()
        number = secrets.randbits(62)
        self._questions[number] = answer
        self.post("ask", number, what, *values)
        try:
            return answer.result(ANSWER_S)
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
            return None
        finally:
            self._questions.pop(number, None)

    def give_up(self) -> None:
        """Nobody wants it any more: it ends at its next step, or is taken out of Serve's queue."""
        self._given_up = True
        self.post("cancel")
        if self._replica is None and self._response is not None:
            with suppress(Exception):  # It may be ending by itself.
                self._response.cancel()

    def _sorted(self, event: Event) -> Iterator[Event]:
        name = event[0]
        if name == "here":
            self._settle(event[1])
            if event[2] is not None:
                self._engines.on_facts(event[2])
        elif name == "answer":
            question = self._questions.get(event[1])
            if question is not None and not question.done():
                question.set_result(event[2])
        else:
            if name in ("done", "cancelled", "failed") and self._replica is not None:
                self._engines.on_counts(self._replica, event[-1])
            yield event

    def _settle(self, replica: str) -> None:
        with self._lock:
            self._replica = replica
            for letter in self._early:
                self._engines.mailbox.post.remote(replica, letter)
            self._early.clear()
