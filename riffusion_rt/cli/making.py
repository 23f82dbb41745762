"""A running request in, its bar, its files and its entry in the report out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from riffusion_rt.cli.report import Report
from riffusion_rt.cli.stopwatch import process_age_s

if TYPE_CHECKING:
    from PIL import Image

    from riffusion_rt.clip import Clip
    from riffusion_rt.pipeline import StepProgress

LAST_STAGE = "drawing and sounding"


def watched(
    events: Iterator[StepProgress | Clip],
    title: str,
    report: Report,
    frames: list[Image.Image] | None = None,
) -> Iterator[Clip]:
    """The clips among a request's events, while a bar shows its steps; each step's picture goes to ``frames``."""
    from riffusion_rt.clip import Clip

    with report.progress(title, "step") as advance:
        for event in events:
            if isinstance(event, Clip):
                yield event
                continue
            if frames is not None:
                frames.append(event.preview())
            advance(event.step, event.steps, LAST_STAGE if event.step == event.steps else "")


def saved(clip: Clip, path: Path, report: Report, note: str = "") -> dict[str, Any]:
    """Write a clip and its picture, say so, and return the report's entry."""
    started = time.perf_counter()
    audio, image = clip.save(path)
    written = time.perf_counter() - started
    report.line(
        f"{audio} and {image.name}: {clip.duration_s:.2f} s, seed {clip.request.seed}{note and ', ' + note}"
    )
    return {
        "audio": audio,
        "image": image,
        "seed": clip.request.seed,
        "duration_s": clip.duration_s,
        "sample_rate": clip.sample_rate,
        "samples": clip.samples.shape[1],
        "request": clip.request.settings(),
        "seconds": rounded({**clip.timings, "write": written}),
    }


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """To the millisecond, for the report."""
    return {stage: round(value, 3) for stage, value in seconds.items()}


class Stopwatch:
    """When the process started, had imported, had loaded and was done, as the report says it."""

    def __init__(self) -> None:
        self._started = self._imported = self._loaded = process_age_s()

    def imported(self) -> None:
        """Everything is imported, and the request checked."""
        self._imported = self._loaded = process_age_s()

    def loaded(self) -> None:
        """The model is open."""
        self._loaded = process_age_s()

    def seconds(self) -> dict[str, float]:
        """Seconds of each part, and since the process began."""
        return rounded(
            {
                "start": self._started,
                "import": self._imported - self._started,
                "load": self._loaded - self._imported,
                "total": process_age_s(),
            }
        )
