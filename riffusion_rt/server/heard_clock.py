"""What a client says it has played in, the clock by which a stream paces itself out: time passes as sound is heard.

A clock on the wall would run on while a client's buffer is empty, or its tab asleep, and the stream would think
itself late. Between two blocks this one is set to where the client really is.
"""

from __future__ import annotations

import threading
import time

MOST_GUESSED_S = 2.0
"""Without a word from the client its playing is taken to go on for so long."""


class HeardClock:
    """An ``AudioClock`` that can be moved. Waiting ends early when ``closed`` is set."""

    def __init__(self, closed: threading.Event) -> None:
        self._closed = closed
        self._offset = 0.0

    def now(self) -> float:
        """Seconds since any moment."""
        return time.monotonic() - self._offset

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or when all is over."""
        self._closed.wait(max(0.0, seconds))

    def hold_back(self, seconds: float) -> None:
        """Count so many seconds as not having passed; negative ones have passed unnoticed."""
        self._offset += seconds


class Playing:
    """Where a client is in what it was sent: what it said last, and the time since."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._frames = 0
        self._said: float | None = None

    @property
    def frames(self) -> int:
        """What the client said last."""
        return self._frames

    def say(self, frames: int) -> None:
        """The client has played so many frames of the session; less than before is not believed."""
        self._frames, self._said = max(self._frames, frames), time.monotonic()

    def heard_s(self, sent_frames: int, *, going_on: bool) -> float:
        """Seconds of the session heard by now, guessed from the last word; nothing is heard that was not sent."""
        guessed = 0.0
        if self._said is not None and going_on:
            guessed = min(MOST_GUESSED_S, time.monotonic() - self._said)
        return min(self._frames / self._rate + guessed, sent_frames / self._rate)
