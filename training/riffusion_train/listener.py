"""Pictures in, instrument names out: a classifier trained on real renders only, to judge what a model plays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from riffusion_train.catalogue import INSTRUMENTS
from riffusion_train.checkpointing import load_state, save_state
from riffusion_train.training_loop import REPORT_EVERY, TrainingProgress, set_rate, warm_cosine

LABELS: tuple[str, ...] = tuple(i.label for i in INSTRUMENTS)
POOLED = 8
"""Bands and columns averaged into one before the network looks: 512×512 becomes 64×64."""


@dataclass(frozen=True)
class ListenerRecipe:
    """``steps`` batches of ``batch`` pictures."""

    steps: int = 400
    batch: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


class Listener(nn.Module):
    """A small convolutional network whose pooling over time makes it indifferent to when a thing is played."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 1
        for out in (width, 2 * width, 4 * width, 4 * width):
            blocks += [
                nn.Conv2d(channels, out, 3, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = out
        self.features = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.Flatten(1), nn.Dropout(0.3), nn.Linear(2 * channels * 4, len(LABELS)))

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (n, labels) of pooled pictures (n, 1, bands, columns)."""
        features = self.features(pictures)
        over_time = torch.cat([features.mean(dim=3), features.amax(dim=3)], dim=1)
        logits: Tensor = self.head(over_time)
        return logits


def pooled(pictures: NDArray[np.uint8], factor: int = POOLED) -> NDArray[np.float32]:
    """uint8 (n, bands, columns) to float32 (n, bands/factor, columns/factor), 0 for silence and 1 for the loudest."""
    count, bands, columns = pictures.shape
    blocks = pictures.reshape(count, bands // factor, factor, columns // factor, factor)
    return np.asarray(1 - blocks.mean(axis=(2, 4), dtype=np.float32) / 255, np.float32)


def train_listener(
    pictures: NDArray[np.uint8],
    labels: Sequence[str],
    path: Path,
    recipe: ListenerRecipe = ListenerRecipe(),
) -> Iterator[TrainingProgress]:
    """Train on pictures of one instrument each, rolled in time and lightly blurred; leave the weights at ``path``."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    inputs = np.concatenate([pooled(pictures[i : i + 64]) for i in range(0, len(pictures), 64)])
    targets = torch.tensor([LABELS.index(label) for label in labels])
    model = Listener().train()

    def judged(chosen: NDArray[np.intp], seen: Tensor) -> tuple[Tensor, float]:
        logits = model(seen)
        loss = nn.functional.cross_entropy(logits, targets[chosen], label_smoothing=0.05)
        return loss, float((logits.argmax(1) == targets[chosen]).float().mean())

    yield from learn_to_hear(model, inputs, judged, recipe, rng)
    save_state(path, model=model)


def learn_to_hear(
    model: nn.Module,
    pictures: NDArray[np.float32],
    judged: Callable[[NDArray[np.intp], Tensor], tuple[Tensor, float]],
    recipe: ListenerRecipe,
    rng: np.random.Generator,
) -> Iterator[TrainingProgress]:
    """Train on pooled pictures (n, bands, columns), each time turned, and some of them blurred, by chance.

    Args:
        judged: which pictures were chosen, and the batch (batch, 1, bands, columns) in; its loss, and the share of
            it that was heard rightly, out.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    right = 0.0
    for step in range(recipe.steps):
        set_rate(optimizer, recipe.learning_rate * warm_cosine(step, step / recipe.steps, warm_steps=30))
        chosen = rng.integers(len(pictures), size=recipe.batch)
        batch = np.stack([np.roll(pictures[i], int(rng.integers(pictures.shape[2])), axis=1) for i in chosen])
        seen = torch.from_numpy(batch)[:, None]
        # A generated picture is a little softer and noisier than a rendered one: neither may decide.
        if rng.random() < 0.5:
            seen = nn.functional.avg_pool2d(seen, 3, stride=1, padding=1)
        seen = (seen + 0.03 * torch.randn_like(seen)).clamp(0, 1)
        loss, hit = judged(chosen, seen)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        right = hit if step == 0 else 0.95 * right + 0.05 * hit
        if (step + 1) % REPORT_EVERY == 0:
            yield TrainingProgress(step + 1, (step + 1) / recipe.steps, float(loss.detach()), right)


def load_listener(path: Path) -> Listener:
    """The trained classifier, ready to judge."""
    model = Listener()
    load_state(path, model=model)
    return model.eval()


@torch.no_grad()
def probabilities(model: Listener, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the classifier believes, float32 (n, labels) in the order of ``LABELS``."""
    return torch.softmax(model(torch.from_numpy(pooled(pictures))[:, None]), dim=1).numpy()
