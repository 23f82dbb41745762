"""A run's latents and facts in, training batches out: clips turned by whole beats and described in fresh words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from riffusion_train import duos
from riffusion_train.autoencoder import encode_pictures
from riffusion_train.catalogue import HELD_OUT_PAIRS
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.rendered_clips import MANNERS_FOLDER, ClipFacts, open_pictures, read_facts, reworded

SHARES = {"solo": 0.42, "solo in another manner": 0.28, "duo": 0.3}
"""How often each kind of clip is drawn."""

LATENTS = {"clips": "latents.npy", MANNERS_FOLDER: "manner_latents.npy", duos.FOLDER: "duo_latents.npy"}
"""A data set's folder in the run, and the file that keeps its latents."""


@dataclass(frozen=True, eq=False)
class ClipDraws:
    """Everything that a denoiser learns from: ``latents`` float16 (clips, c, h, w) and as many facts."""

    latents: NDArray[np.float16]
    facts: list[ClipFacts]

    @classmethod
    def of_run(cls, run: Path) -> ClipDraws:
        """Of the run's clips, in all folders that it has; without the pairs that are held out."""
        folders = folders_of_clips(run)
        facts = [each for name in folders for each in read_facts(run / name)]
        latents = np.concatenate([cached_latents(run, name) for name in folders])
        kept = [i for i, each in enumerate(facts) if frozenset(each.labels) not in HELD_OUT_PAIRS]
        return cls(latents[kept], [facts[i] for i in kept])

    @cached_property
    def _chances(self) -> dict[int, tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """By tempo: its clips, and how likely each is to be drawn."""
        return {
            number: _chances(self.facts, number) for number in sorted({each.beats for each in self.facts})
        }

    def draw(self, rng: np.random.Generator, count: int) -> Draw:
        """``count`` clips, rolled by whole beats, each with a caption that may never have been used.

        Every tempo comes as often as the others, and kinds of clips by ``SHARES``: what is commonest would be played
        when another is asked for. Of a kind, who plays comes as often as the root of the number of such clips.
        """
        by_tempo = list(self._chances.values())
        tempi = rng.integers(len(by_tempo), size=count)
        chosen = [int(rng.choice(by_tempo[tempo][0], p=by_tempo[tempo][1])) for tempo in tempi]
        rolled = [roll_by_beats(rng, self.latents[i], self.facts[i].beats) for i in chosen]
        facts = [reworded(rng, self.facts[i]) for i in chosen]
        return Draw(torch.from_numpy(np.stack(rolled)).float(), facts)

    def solos(self, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        """``count`` pairs of fresh captions of two different players, who are not a pair that is held out."""
        pairs: list[tuple[str, str]] = []
        while len(pairs) < count:
            one, other = (reworded(rng, self.facts[int(i)]) for i in rng.choice(self._solos, size=2))
            labels = frozenset((*one.labels, *other.labels))
            if len(labels) == 2 and labels not in HELD_OUT_PAIRS:
                pairs.append((one.caption, other.caption))
        return pairs

    @cached_property
    def _solos(self) -> NDArray[np.intp]:
        return np.array([i for i, each in enumerate(self.facts) if len(each.labels) == 1])


@dataclass(frozen=True, eq=False)
class Draw:
    """A batch: ``latents`` float32 (n, c, h, w), and facts of each clip, newly worded."""

    latents: Tensor
    facts: list[ClipFacts]

    @property
    def captions(self) -> list[str]:
        """One for each clip."""
        return [each.caption for each in self.facts]

    @property
    def beats(self) -> Tensor:
        """Beats of each clip, int64 (n,)."""
        return torch.tensor([each.beats for each in self.facts])

    @property
    def swings(self) -> Tensor:
        """Whether each clip swings, float32 (n,): 1 or 0, NaN where nobody plays notes."""
        return torch.tensor([math.nan if each.swings is None else float(each.swings) for each in self.facts])


def _chances(facts: Sequence[ClipFacts], beats: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Indices of the clips of one tempo, and their probabilities, which add up to 1."""
    chosen = [i for i, each in enumerate(facts) if each.beats == beats]
    kinds = [_kind(facts[i]) for i in chosen]
    alike = Counter(kinds)
    weights = np.array([alike[each] ** -0.5 for each in kinds])
    for name, share in SHARES.items():
        of_kind = np.array([kind[0] == name for kind in kinds])
        if of_kind.any():
            weights[of_kind] *= share / weights[of_kind].sum()
    return np.array(chosen), weights / weights.sum()


def _kind(facts: ClipFacts) -> tuple[str, ...]:
    """Its kind, a key of ``SHARES``, and who plays in which manner, in alphabetical order."""
    players = sorted(f"{label} {manner}" for label, manner in zip(facts.labels, facts.manners, strict=True))
    solo = "solo in another manner" if facts.manners[0] else "solo"
    return ("duo" if len(players) > 1 else solo, *players)


def folders_of_clips(run: Path) -> list[str]:
    """Names of the folders in ``run`` that hold clips: the rendered ones, and others if it has any."""
    return [name for name in LATENTS if (run / name / "clips.jsonl").exists()]


def roll_by_beats(rng: np.random.Generator, latent: NDArray[np.floating], beats: int) -> NDArray[np.floating]:
    """Roll a latent (c, h, w) in time by a random whole number of beats that is a whole number of latent columns.

    Beats stay on the grid that every clip of that tempo shares, so that walks between clips stay on the beat.
    """
    width = latent.shape[-1]
    laps = math.gcd(beats, width)
    return np.roll(latent, int(rng.integers(laps)) * (width // laps), axis=-1)


def cached_latents(run: Path, folder: str = "clips") -> NDArray[np.float16]:
    """Latents of the clips in ``run/folder``, float16 (count, c, h, w), encoded once and kept in the run."""
    count, path = len(read_facts(run / folder)), run / LATENTS[folder]
    if path.exists() and len(latents := np.load(path)) >= count:
        return np.asarray(latents[:count])
    model = AutoencoderKL.from_pretrained(run / "vae").eval().to(memory_format=torch.channels_last)
    quicken_group_norms(model)
    pictures = open_pictures(run / folder)[:count]
    with torch.autocast("cpu", torch.bfloat16):
        parts = tqdm(
            range(0, count, 8), desc=f"latents of {folder}", unit_scale=8, unit="clip", mininterval=5
        )
        latents = np.concatenate([_encode_loops(model, pictures[i : i + 8]) for i in parts])
    np.save(path, latents)
    return np.asarray(latents)


def _encode_loops(model: AutoencoderKL, pictures: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Latents of looping pictures, as if the encoder's padding were circular: its edges are cut off again."""
    factor = 2 ** (len(model.config.block_out_channels) - 1)
    edge = 2 * factor
    wrapped = np.concatenate([pictures[:, :, -edge:], pictures, pictures[:, :, :edge]], axis=2)
    return encode_pictures(model, wrapped)[..., 2:-2].astype(np.float16)
