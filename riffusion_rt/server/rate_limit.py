"""A client's name in, whether it may ask for something costly now out, or in how many seconds."""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter


class RateLimit:
    """So many requests of each client in any minute."""

    def __init__(self, a_minute: int) -> None:
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rate = RateLimitItemPerMinute(a_minute)

    def counted(self, client: str) -> int | None:
        """Count one request of a client; the seconds it has to wait if it had too many."""
        if self._limiter.hit(self._rate, client):
            return None
        reset = self._limiter.get_window_stats(self._rate, client).reset_time
        return max(1, math.ceil(reset - time.time()))
