"""Two callables in, the seconds each took out: by turns in one process, so that both meet the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Turns:
    """Seconds of every round."""

    ours_s: tuple[float, ...]
    peer_s: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times faster ours is: the median of the rounds' own ratios."""
        return statistics.median(peer / ours for ours, peer in zip(self.ours_s, self.peer_s, strict=True))

    def figures(self) -> dict[str, Any]:
        """Medians, 95th percentiles and the ratio, ready for a row."""
        return {
            "ours_s": median_and_p95(self.ours_s),
            "peer_s": median_and_p95(self.peer_s),
            "times_faster": round(self.ratio, 3),
        }


def median_and_p95(seconds: tuple[float, ...]) -> dict[str, float]:
    """The two figures that a row keeps of a series of times."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"median": round(statistics.median(ordered), 6), "p95": round(p95, 6), "runs": len(ordered)}


def by_turns(
    benchmark: Any, ours: Callable[[], Any], peer: Callable[[], Any], *, rounds: int, warmup: int = 1
) -> tuple[Turns, Any, Any]:
    """Time ``ours`` with pytest-benchmark, and ``peer`` in each round's untimed setup.

    Returns:
        The seconds, the last result of ours, and the peer's.
    """
    peer_s: list[float] = []
    theirs: list[Any] = []

    def run_peer() -> None:
        began = time.perf_counter()
        theirs[:] = [peer()]
        peer_s.append(time.perf_counter() - began)

    result = benchmark.pedantic(ours, setup=run_peer, rounds=rounds, warmup_rounds=warmup)
    return Turns(tuple(benchmark.stats.stats.data), tuple(peer_s[-rounds:])), result, theirs[0]
