"""A run's jury in, the instruments that it hears in pictures out, and how far that can be trusted.

The jury is made by ``python benchmarks/mini_evaluation.py prepare --run RUN``; it never heard a generated clip.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

RUN = click.option(
    "--run", type=click.Path(path_type=Path, exists=True), default=Path("runs/mini"), show_default=True
)


class Ear:
    """Names the instrument of pictures, uint8 (n, bands, columns)."""

    def __init__(self, run: Path) -> None:
        from riffusion_train.jury import load_jury
        from riffusion_train.jury_renders import JuryRenders

        self._jury = load_jury(run / "jury.pt")
        unheard = JuryRenders.load(run / "jury_held_out.npz")
        self._solos = unheard.part(np.flatnonzero([len(names) == 1 for names in unheard.labels]))

    def names(self, pictures: NDArray[np.uint8]) -> list[str]:
        """The likeliest instrument of each picture."""
        from riffusion_train.jury import judge

        return judge(self._jury, pictures).top()

    def name_of_all(self, pictures: NDArray[np.uint8]) -> str:
        """The instrument that is likeliest in all of the pictures together."""
        from riffusion_train.jury import LABELS, judge

        return LABELS[judge(self._jury, pictures).instruments.mean(axis=0).argmax()]

    def probability(self, pictures: NDArray[np.uint8], label: str) -> NDArray[np.float32]:
        """Of an instrument to be among the players, (n,)."""
        from riffusion_train.jury import LABELS, judge

        return judge(self._jury, pictures).instruments[:, LABELS.index(label)]

    def unheard(self, label: str) -> NDArray[np.uint8]:
        """Renders of one player that neither a model nor the jury learned from."""
        return self._solos.pictures[[i for i, names in enumerate(self._solos.labels) if names == (label,)]]

    def right_about(self, *labels: str) -> dict[str, float]:
        """Share of such renders that it names rightly, for each of the labels."""
        return {
            label: round(float(np.mean([name == label for name in self.names(self.unheard(label))])), 3)
            for label in dict.fromkeys(labels)
        }
