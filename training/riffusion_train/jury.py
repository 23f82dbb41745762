"""Pictures in, what is heard out: instruments, beats in a clip, swing, and an embedding to compare sets of clips by.

The jury learns from ``JuryRenders`` alone: real renders that no generator was trained on. It never hears a generated
clip before it judges one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from riffusion_train.catalogue import BEATS_PER_CLIP
from riffusion_train.checkpointing import load_state, save_state
from riffusion_train.jury_renders import JuryRenders
from riffusion_train.listener import LABELS, ListenerRecipe, learn_to_hear, pooled
from riffusion_train.training_loop import TrainingProgress

JURY_RECIPE = ListenerRecipe(steps=1200, weight_decay=2e-2)
JURY_POOLED = 4
"""Bands and columns averaged into one: the jury looks closer than the listener."""
RHYTHM_BANDS, RHYTHM_CYCLES = 8, 64
"""Rhythm is seen as the spectrum of each band's rise, up to this many cycles a clip: a loop's beats are whole ones."""
EMBEDDING = 96
BEAT_PARTS = 24
FOLDED = len(BEATS_PER_CLIP) * RHYTHM_BANDS * BEAT_PARTS
SWING_STEPS = 1200


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the jury believes of ``n`` clips."""

    instruments: NDArray[np.float32]
    """Probability of each instrument to be among the players, (n, labels) in the order of ``LABELS``."""
    beats: NDArray[np.float32]
    """Probabilities of ``BEATS_PER_CLIP``, (n, 4)."""
    swings: NDArray[np.float32]
    """Probability that it swings, (n,), were half of all clips to do so."""
    embeddings: NDArray[np.float32]
    """(n, 96)."""

    def top(self) -> list[str]:
        """The likeliest instrument of each clip."""
        return [LABELS[index] for index in self.instruments.argmax(axis=1)]

    def tempo(self) -> list[int]:
        """The likeliest number of beats of each clip."""
        return [BEATS_PER_CLIP[index] for index in self.beats.argmax(axis=1)]


class Jury(nn.Module):
    """A convolutional network for timbre, indifferent to when a thing is played, and small ones for tempo and swing."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 1
        for out in (width, 2 * width, 4 * width, 6 * width):
            blocks += [
                nn.Conv2d(channels, out, 3, padding=1, padding_mode="circular" if channels > 1 else "zeros"),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            channels = out
        self.timbre = nn.Sequential(*blocks)
        self.embed = nn.Sequential(nn.Dropout(0.3), nn.Linear(2 * channels * 8, EMBEDDING), nn.ReLU())
        self.instruments = nn.Linear(EMBEDDING, len(LABELS))
        self.rhythm = nn.Sequential(
            nn.Dropout(0.2), nn.Linear(RHYTHM_BANDS * RHYTHM_CYCLES, 128), nn.ReLU(), nn.Dropout(0.2)
        )
        self.beats = nn.Linear(128, len(BEATS_PER_CLIP))
        self.swings = nn.Sequential(
            nn.BatchNorm1d(FOLDED, affine=False),
            nn.Dropout(0.3),
            nn.Linear(FOLDED, 128),
            nn.ReLU(),
            nn.Dropout(0.4),
            nn.Linear(128, 1),
        )

    def forward(self, pooled: Tensor, rhythm: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of instruments and beats, and embeddings, of pooled pictures and rhythm spectra.

        ``swings`` is a network of its own, of ``folded_beats``.
        """
        features = self.timbre(pooled)
        over_time = torch.cat([features.mean(dim=3), features.amax(dim=3)], dim=1).flatten(1)
        embeddings, moves = self.embed(over_time), self.rhythm(rhythm)
        return self.instruments(embeddings), self.beats(moves), embeddings


def seen_by_jury(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (n, 512, 512) to float32 (n, 128, 128), 0 for silence and 1 for the loudest."""
    return pooled(pictures, JURY_POOLED)


def rhythm_spectra(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Spectra of each band's rise over a looping clip, float32 (n, 8 × 64): where beats and their divisions stand out.

    Magnitudes only, so that it does not matter where in its loop a clip starts; each clip's own mean is taken out.
    """
    count, bands, columns = pictures.shape
    levels = (
        1 - pictures.reshape(count, RHYTHM_BANDS, bands // RHYTHM_BANDS, columns).astype(np.float32) / 255
    )
    rise = np.maximum(levels - np.roll(levels, 1, axis=3), 0).mean(axis=2)
    spectrum = np.log(np.abs(np.fft.rfft(rise, axis=2))[:, :, 1 : RHYTHM_CYCLES + 1] + 1e-2)
    spectrum -= spectrum.mean(axis=(1, 2), keepdims=True)
    return np.asarray(spectrum.reshape(count, -1), np.float32)


def folded_beats(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Where within a beat each band rises, float32 (n, 4 × 8 × 24): for each number of beats that a clip may have.

    The off-beat of swing comes at two thirds of a beat, where a straight one comes at the half. Clips begin on a beat.
    Each clip's rises are shares of their own mean.
    """
    count, bands, columns = pictures.shape
    levels = (
        1 - pictures.reshape(count, RHYTHM_BANDS, bands // RHYTHM_BANDS, columns).astype(np.float32) / 255
    )
    rise = np.maximum(levels - np.roll(levels, 1, axis=3), 0).mean(axis=2)
    rise /= rise.mean(axis=(1, 2), keepdims=True) + 1e-3
    folded = []
    for beats in BEATS_PER_CLIP:
        phase = (np.arange(columns) + 0.5) / columns * beats % 1
        into = np.zeros((columns, BEAT_PARTS), np.float32)
        into[np.arange(columns), (phase * BEAT_PARTS).astype(int)] = 1
        folded.append(rise @ (into / into.sum(axis=0)))
    return np.asarray(np.stack(folded, axis=1).reshape(count, -1), np.float32)


def train_jury(
    renders: JuryRenders, path: Path, recipe: ListenerRecipe = JURY_RECIPE
) -> Iterator[TrainingProgress]:
    """Train on renders, rolled in time and lightly blurred; leave the weights at ``path``."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    pictures = _by_parts(seen_by_jury, renders.pictures)
    rhythm = torch.from_numpy(_by_parts(rhythm_spectra, renders.pictures))
    players = torch.tensor([[float(label in names) for label in LABELS] for names in renders.labels])
    beats = torch.tensor([BEATS_PER_CLIP.index(int(number)) for number in renders.beats])
    model = Jury().train()

    def judged(chosen: NDArray[np.intp], seen: Tensor) -> tuple[Tensor, float]:
        heard, counted, _ = model(seen, rhythm[chosen] + 0.1 * torch.randn_like(rhythm[chosen]))
        loss = 10 * nn.functional.binary_cross_entropy_with_logits(heard, players[chosen])
        loss = loss + 0.3 * nn.functional.cross_entropy(counted, beats[chosen], label_smoothing=0.05)
        return loss, float(players[chosen].gather(1, heard.argmax(1, keepdim=True)).mean())

    yield from learn_to_hear(model, pictures, judged, recipe, rng)
    _learn_to_hear_swing(model.swings, renders)
    save_state(path, model=model)


def _learn_to_hear_swing(ear: nn.Module, renders: JuryRenders) -> None:
    """Train the small network for swing; a clip's own chance to swing is taken to be a half, whatever the renders'."""
    asked = np.flatnonzero(renders.swings >= 0)
    if not len(asked):
        return
    folded = torch.from_numpy(_by_parts(folded_beats, renders.pictures[asked]))
    swings = torch.from_numpy(renders.swings[asked]).float()
    yes = float(swings.sum())
    balance = torch.tensor((len(swings) - yes) / yes if 0 < yes < len(swings) else 1.0)
    optimizer = torch.optim.AdamW(ear.parameters(), lr=1e-3, weight_decay=3e-2)
    ear.train()
    for _ in range(SWING_STEPS):
        chosen = torch.randint(len(swings), (64,))
        seen = folded[chosen] * (1 + 0.1 * torch.randn_like(folded[chosen]))
        loss = nn.functional.binary_cross_entropy_with_logits(
            ear(seen)[:, 0], swings[chosen], pos_weight=balance
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    ear.eval()


def load_jury(path: Path) -> Jury:
    """The trained jury, ready to judge."""
    model = Jury()
    load_state(path, model=model)
    return model.eval()


@torch.no_grad()
def judge(model: Jury, pictures: NDArray[np.uint8], batch: int = 64) -> Verdict:
    """What the jury hears in pictures, uint8 (n, 512, 512)."""
    parts = []
    for first in range(0, len(pictures), batch):
        some = pictures[first : first + batch]
        heard = model(torch.from_numpy(seen_by_jury(some))[:, None], torch.from_numpy(rhythm_spectra(some)))
        parts.append((*heard, model.swings(torch.from_numpy(folded_beats(some)))[:, 0]))
    heard, counted, embeddings, swung = (torch.cat(each) for each in zip(*parts, strict=True))
    return Verdict(
        heard.sigmoid().numpy(), counted.softmax(1).numpy(), swung.sigmoid().numpy(), embeddings.numpy()
    )


def frechet_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Fréchet distance of two sets of embeddings (n, d), as of two Gaussians (arXiv 1706.08500)."""
    from scipy.linalg import sqrtm

    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    one_spread, other_spread = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    apart = float(np.square(first.mean(axis=0) - second.mean(axis=0)).sum())
    root = np.real(sqrtm(one_spread @ other_spread))
    return apart + float(np.trace(one_spread + other_spread - 2 * root))


def nearest_distances(clips: NDArray[np.uint8], among: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far each clip is from the nearest of others, whatever the start of its loop: 0 for the same one.

    Relative L2 distance of pictures of 32 bands by 64 columns at the best of all turns.

    Args:
        clips: uint8 (n, 512, 512).
        among: uint8 (m, 512, 512).
    """
    ours, theirs = (_by_parts(_small_spectra, each) for each in (clips, among))
    powers = np.square(np.abs(theirs)).sum(axis=(1, 2))
    nearest = []
    for spectrum in ours:
        overlap = np.fft.ifft((np.conj(theirs) * spectrum).sum(axis=1), axis=1).real.max(axis=1)
        own = float(np.square(np.abs(spectrum)).sum())
        squares = (own + powers - 2 * overlap * theirs.shape[2]) / np.sqrt(own * powers)
        nearest.append(float(np.sqrt(max(squares.min(), 0.0))))
    return np.array(nearest)


def onset_lag(pictures: NDArray[np.uint8]) -> float:
    """The largest move of onsets from one of some pictures (n, 512, 512) to the next, in columns.

    That is where their cross-correlation over the loop peaks, up to half of the slowest beat to either side.
    """
    levels = 1 - pictures.astype(np.float64) / 255
    rise = np.maximum(levels - np.roll(levels, 1, axis=2), 0).mean(axis=1)
    spectra = np.fft.rfft(rise - rise.mean(axis=1, keepdims=True), axis=1)
    fine, columns = 16, rise.shape[1]
    widest = fine * columns // (2 * min(BEATS_PER_CLIP))
    together = np.fft.irfft(spectra[1:] * np.conj(spectra[:-1]), n=fine * columns, axis=1)
    near = np.roll(together, widest, axis=1)[:, : 2 * widest + 1]
    return float(np.abs(near.argmax(axis=1) - widest).max() / fine)


def _small_spectra(pictures: NDArray[np.uint8]) -> NDArray[np.complex64]:
    count, bands, columns = pictures.shape
    small = 1 - pictures.reshape(count, 32, bands // 32, 64, columns // 64).mean(axis=(2, 4)) / 255
    return np.asarray(np.fft.fft(small, axis=2), np.complex64)


def _by_parts(
    function: Callable[[NDArray[np.uint8]], NDArray[Any]], pictures: NDArray[np.uint8], batch: int = 128
) -> NDArray[Any]:
    return np.concatenate([function(pictures[i : i + batch]) for i in range(0, len(pictures), batch)])
