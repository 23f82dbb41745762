"""Live sessions in, each found again by its id, and one more refused when there are as many as can be."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from riffusion_rt.server.work_queue import ServerBusy

if TYPE_CHECKING:
    from riffusion_rt.server.service_settings import ServiceSettings

RETRY_AFTER_S = 15.0


class LiveOne(Protocol):
    """What a place among others asks of a session."""

    id: str

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def connected(self) -> bool:
        """Whether anybody listens."""
        ...

    def close(self) -> None:
        """End it."""
        ...


Session = TypeVar("Session", bound=LiveOne)


class SessionPlaces(Generic[Session]):
    """Live sessions by their ids, up to a number."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._open = True

    def __len__(self) -> int:
        return sum(not session.over for session in list(self._sessions.values()))

    def find(self, identity: str) -> Session | None:
        """The session of that id, if it has not ended."""
        with self._lock:
            session = self._sessions.get(identity)
            return None if session is None or session.over else session

    def refuse_more(self) -> None:
        """Open no more, and end those there are: they have no end of their own."""
        with self._lock:
            self._open = False
            sessions = list(self._sessions.values())
        for session in sessions:
            session.close()

    def _make_room(self) -> None:
        """Raise ServerBusy if one more session cannot be. The lock is held."""
        self._forget_ended()
        lost = [each for each in self._sessions.values() if not each.connected]
        if len(self._sessions) >= self._settings.most_live and lost:
            # Nobody listens there; somebody wants to here.
            self._give_up(lost[0])
        if not self._open or len(self._sessions) >= self._settings.most_live:
            raise too_many(f"{len(self._sessions)} live sessions are playing already")

    def _give_up(self, session: Session) -> None:
        session.close()
        self._forget_ended()

    def _forget_ended(self) -> None:
        for identity in [each.id for each in self._sessions.values() if each.over]:
            del self._sessions[identity]


def too_many(message: str) -> ServerBusy:
    """There is no place for one more session now."""
    return ServerBusy(message, hint="Try again later", retry_after_s=RETRY_AFTER_S, yours=False)
