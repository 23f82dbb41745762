"""A model that is ready to play in, how fast it plays on this machine out, stage by stage and against real time."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from riffusion_engine.errors import RequestError
from riffusion_rt.request import ClipRequest

if TYPE_CHECKING:
    from riffusion_rt.pipeline import Riffusion

LIVE_MARGIN = 1.25
"""Clips must come this many times faster than they play for a stream to outlast a busy moment."""
_PROMPT = "funky piano"


@dataclass(frozen=True)
class Speed:
    """What was measured. All times in seconds, medians over ``runs`` clips after one that is not counted."""

    model: str
    device: str
    runs: int
    steps: int
    clip_s: float
    """Sound in one clip."""
    median_s: float
    """Work for one clip."""
    p95_s: float
    stages_s: dict[str, float]
    """The median of each stage: text, start, denoise, decode, phase."""
    parity: dict[str, float]
    """Relative L2 distance of each graph to torch, as it was measured at export."""

    @property
    def times_real_time(self) -> float:
        """Seconds of sound for each second of work."""
        return self.clip_s / self.median_s

    @property
    def live_steps(self) -> int:
        """The most steps at which a live stream would keep ahead; 0 if even one step is too many."""
        each = self.stages_s["denoise"] / self.steps
        rest = self.median_s - self.stages_s["denoise"]
        return max(0, int((self.clip_s / LIVE_MARGIN - rest) / each))

    @property
    def verdict(self) -> str:
        """What this speed is good for, in a sentence."""
        speed = f"{self.times_real_time:.2f}× real time at {self.steps} steps"
        if self.times_real_time >= LIVE_MARGIN:
            return f"Fast enough to play live: {speed}"
        if self.live_steps:
            return f"Too slow to play live with a margin: {speed}. Try --steps {self.live_steps}"
        return f"Too slow to play live at any number of steps: {speed}. Files are no problem"


def measure_speed(
    riffusion: Riffusion, *, runs: int = 5, steps: int | None = None
) -> Iterator[float | Speed]:
    """Make one clip to warm up and ``runs`` to measure; yields the share done after each, then the ``Speed``.

    Raises:
        RequestError: ``runs`` is below 1, or ``steps`` is out of range.
    """
    if runs < 1:
        raise RequestError(f"{runs} runs measure nothing", hint="Try --runs 5")
    request = ClipRequest(_PROMPT, steps=steps).resolved(riffusion.manifest.defaults)
    walls: list[float] = []
    stages: dict[str, list[float]] = {}
    for run in range(-1, runs):
        began = time.perf_counter()
        # Every run has another seed, so that nothing can come out of a cache.
        *_, clip = riffusion.iterate(dataclasses.replace(request, seed=run + 1))
        if run >= 0:
            walls.append(time.perf_counter() - began)
            for stage, seconds in clip.timings.items():  # type: ignore[union-attr]
                stages.setdefault(stage, []).append(seconds)
        yield (run + 2) / (runs + 1)
    ordered = sorted(walls)
    yield Speed(
        model=riffusion.manifest.name,
        device=riffusion.device,
        runs=runs,
        steps=request.steps or 0,
        clip_s=clip.duration_s,  # type: ignore[union-attr]
        median_s=statistics.median(walls),
        p95_s=ordered[min(runs - 1, round(0.95 * (runs - 1)))],
        stages_s={stage: statistics.median(seconds) for stage, seconds in stages.items()},
        parity={name: max(g.parity.values(), default=0.0) for name, g in riffusion.manifest.graphs.items()},
    )
