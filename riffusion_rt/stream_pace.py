"""How long drawing takes in, how many steps the next clip may take out, so that no block comes after its time.

Time is asked of a clock that the caller may replace: nothing here knows real time.
"""

from __future__ import annotations

import time
from typing import Protocol

LEAST_STEPS = 4
"""Fewer are not planned, only fallen back to in the middle of a clip: pictures are mush below it."""

SAFETY = 0.8
"""Share of the time to a deadline that a clip is planned to take: a busy moment may use the rest."""

HURRIED = 0.5
"""Share of the wanted steps below which phases are reconstructed quickly, to have more of them."""

QUICK_SHARE = 0.65
"""What decoding and quick phases take of what decoding and the usual ones do (0.60 s of 0.90 s on two cores)."""

FORGETTING = 0.3
"""How much of a quicker clip is believed at once; a slower one is believed wholly."""


class AudioClock(Protocol):
    """Seconds that pass as sound plays."""

    def now(self) -> float:
        """Seconds since any moment."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after so many seconds."""
        ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Seconds since any moment."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(max(seconds, 0.0))


class Pace:
    """Keeps a live stream ahead of what is heard, by no more than its look-ahead.

    The first block starts the playing. A block that comes late lets the listener wait, and all that follows moves.
    """

    def __init__(self, steps: int, clip_s: float, look_ahead_s: float, clock: AudioClock) -> None:
        """
        Args:
            steps: wanted for every clip.
            clip_s: seconds that a clip plays.
            look_ahead_s: how long before its time a block is handed out at the earliest.
            clock: what sound is played by.
        """
        self.wanted_steps = steps
        self._clip_s = clip_s
        self._look_ahead_s = look_ahead_s
        self._clock = clock
        self._origin: float | None = None
        self._step_s = 0.0
        self._rest_s = 0.0

    @property
    def played_s(self) -> float:
        """Seconds of the stream that have been heard."""
        return 0.0 if self._origin is None else self._clock.now() - self._origin

    def now(self) -> float:
        """The clock's time."""
        return self._clock.now()

    def wait_for(self, start_s: float) -> None:
        """Return when a block that starts at ``start_s`` of the stream may be made: a look-ahead before its time."""
        early = start_s - self._look_ahead_s - self.played_s
        if self._origin is not None and early > 0:
            self._clock.wait(early)

    def steps_for(self, start_s: float) -> tuple[int, bool]:
        """Steps that a clip can take which must be heard from ``start_s`` on, and whether its phases must be quick."""
        if self._origin is None or self._step_s <= 0:
            return self.wanted_steps, False
        room = SAFETY * min(start_s - self.played_s, self._clip_s)
        steps, quick = (room - self._rest_s) / self._step_s, False
        if steps < HURRIED * self.wanted_steps:
            # Half of the steps cost more to the ear than half of the phase loop.
            steps, quick = (room - QUICK_SHARE * self._rest_s) / self._step_s, True
        return max(min(LEAST_STEPS, self.wanted_steps), min(self.wanted_steps, int(steps))), quick

    def must_stop(self, start_s: float, step_s: float, quick: bool) -> bool:
        """Whether another step of ``step_s``, and what follows the steps, would come too late for ``start_s``."""
        if self._origin is None:
            return False
        rest_s = self._rest_s * (QUICK_SHARE if quick else 1)
        needed = max(step_s, self._step_s) + rest_s / SAFETY
        return self.played_s + needed > start_s

    def drew(self, steps: int, denoise_s: float, rest_s: float, quick: bool) -> None:
        """Learn from a clip: what its steps took, and all else together."""
        self._step_s = _believed(self._step_s, denoise_s / steps)
        self._rest_s = _believed(self._rest_s, rest_s / (QUICK_SHARE if quick else 1))

    def delivered(self, start_s: float) -> float:
        """A block that starts at ``start_s`` is handed out now: the seconds by which it is late, 0 if it is not."""
        if self._origin is None:
            self._origin = self._clock.now() - start_s
        late = max(0.0, self.played_s - start_s)
        self._origin += late
        return late


def _believed(before: float, found: float) -> float:
    return found if found >= before else (1 - FORGETTING) * before + FORGETTING * found
