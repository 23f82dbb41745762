"""What one batch does in, a whole training out: it anneals, reports, saves, and goes on where it was stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from riffusion_train.checkpointing import load_state, save_state

REPORT_EVERY = 20
"""Batches between two reports."""


@dataclass(frozen=True)
class TrainingProgress:
    """One report of a running training: what was done and how well."""

    step: int
    fraction: float
    loss: float
    measure: float
    """Smoothed: peak signal-to-noise ratio in dB for an autoencoder, loss for a denoiser, share of right answers for
    one that listens."""


class TrainingLoop:
    """A training whose state lies in one file: what it is made of, how many batches it took, and how long.

    Attributes:
        step: batches so far.
        kept: the plain values that were saved beside the parts; empty at the beginning.
    """

    def __init__(
        self, path: Path, *, minutes: float, steps: int | None, save_every: int = 200, **parts: Any
    ) -> None:
        """Load into ``parts`` (modules and optimizers) what ``path`` has of them.

        Args:
            path: the state's file; it need not be there.
            minutes: wall time of the whole training, earlier runs included.
            steps: batches of the whole training; where they are given, time does not count.
            save_every: batches between two times that all is saved.
        """
        self._path, self._parts = path, parts
        self._minutes, self._steps, self._save_every = minutes, steps, save_every
        self.kept = load_state(path, **parts)
        self.step = int(self.kept.pop("step", 0))
        self._spent = float(self.kept.pop("spent", 0.0))

    def run(
        self, batch: Callable[[float], tuple[float, float]], leave: Callable[[], None] | None = None
    ) -> Iterator[TrainingProgress]:
        """Take batches until the time or the steps are used up, and report.

        Args:
            batch: learns from one batch; gets the share of the training that is done, gives its loss and its measure.
            leave: writes what others need of the training; called whenever the state is saved, and at the end.
        """
        started, running = time.monotonic() - self._spent, math.nan

        def save() -> None:
            spent = time.monotonic() - started
            save_state(self._path, **self._parts, **self.kept, step=self.step, spent=spent)
            if leave is not None:
                leave()

        while (done := self._share_done(started)) < 1:
            loss, measure = batch(done)
            self.step += 1
            running = measure if math.isnan(running) else 0.98 * running + 0.02 * measure
            if self.step % REPORT_EVERY == 0:
                yield TrainingProgress(self.step, done, loss, running)
            if self.step % self._save_every == 0:
                save()
        save()

    def _share_done(self, started: float) -> float:
        if self._steps is not None:
            return self.step / self._steps
        return (time.monotonic() - started) / (60 * self._minutes)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let ``optimizer`` learn at ``rate`` from now on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def warm_cosine(step: int, fraction: float, warm_steps: int = 100) -> float:
    """Learning-rate factor: linear warm-up, then a cosine down to 2 % at ``fraction`` 1."""
    return min(1.0, (step + 1) / warm_steps) * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))
    )
