"""A run's latents and facts in, training batches out: clips turned by whole beats and described in fresh words."""

from __future__ import annotations

import math
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
from riffusion_train.rendered_clips import ClipFacts, open_pictures, read_facts, reworded

LATENTS = {"clips": "latents.npy", duos.FOLDER: "duo_latents.npy"}
"""A data set's folder in the run, and the file that keeps its latents."""


@dataclass(frozen=True, eq=False)
class ClipDraws:
    """Everything that a denoiser learns from: ``latents`` float16 (clips, c, h, w) and as many facts."""

    latents: NDArray[np.float16]
    facts: list[ClipFacts]

    @classmethod
    def of_run(cls, run: Path) -> ClipDraws:
        """Of the run's rendered clips and of its duos, if it has any; without the pairs that are held out."""
        folders = folders_of_clips(run)
        facts = [each for name in folders for each in read_facts(run / name)]
        latents = np.concatenate([cached_latents(run, name) for name in folders])
        kept = [i for i, each in enumerate(facts) if frozenset(each.labels) not in HELD_OUT_PAIRS]
        return cls(latents[kept], [facts[i] for i in kept])

    @cached_property
    def _by_tempo(self) -> dict[int, NDArray[np.intp]]:
        beats = np.array([each.beats for each in self.facts])
        return {int(number): np.flatnonzero(beats == number) for number in np.unique(beats)}

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, list[str]]:
        """``count`` clips: latents float32 (count, c, h, w), and a caption of each that may never have been used.

        Every tempo comes as often as the others: what is commonest would be played when another is asked for.
        """
        by_tempo = list(self._by_tempo.values())
        tempi = rng.integers(len(by_tempo), size=count)
        chosen = [int(rng.choice(by_tempo[tempo])) for tempo in tempi]
        rolled = [roll_by_beats(rng, self.latents[i], self.facts[i].beats) for i in chosen]
        captions = [reworded(rng, self.facts[i]).caption for i in chosen]
        return torch.from_numpy(np.stack(rolled)).float(), captions


def folders_of_clips(run: Path) -> list[str]:
    """Names of the folders in ``run`` that hold clips: the rendered ones, and its duos if it has any."""
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
