"""Solos in, duos out: pictures of two clips of one tempo laid over each other, as many combinations as wanted.

Beats and typewriters have no pitch, so they go with any other clip of their tempo and nothing needs to be rendered
again. Two sounds that share no phase add in power, so the mixed amplitude is the root of the sum of squares, after
both were brought to the same loudness (root mean square), as the renderer does with its own duos.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.spectrogram_image import image_from_mel, mel_from_image
from riffusion_train.catalogue import HELD_OUT_PAIRS, UNTUNED
from riffusion_train.rendered_clips import ClipFacts, open_pictures, read_facts, reworded

FOLDER = "duos"
"""Where a run keeps them, laid out as its rendered clips are."""


def mix_duos(run: Path, count: int, *, seed: int = 0) -> Iterator[int]:
    """Mix ``count`` duos of ``run/clips`` into ``run/duos``, yielding how many are done; what is there is kept.

    Duo ``i`` depends on the clips, the seed and ``i`` alone.
    """
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "clips.jsonl"
    done = len(read_facts(folder)) if listing.exists() else 0
    facts, pictures = read_facts(run / "clips"), open_pictures(run / "clips")
    mixed = open_pictures(folder, count)
    with listing.open("a") as lines:
        for index in range(done, count):
            rng = np.random.default_rng([seed, index])
            one, other = draw_pair(rng, facts)
            mixed[index] = mixed_picture(pictures[one], pictures[other])
            together = facts_of_both(rng, facts[one], facts[other])
            lines.write(json.dumps({"index": index, **asdict(together)}) + "\n")
            lines.flush()
            yield index + 1
    del mixed  # flushes the memory map


def draw_pair(rng: np.random.Generator, facts: list[ClipFacts]) -> tuple[int, int]:
    """Two solos of one tempo, the first without pitch, whose instruments are not a pair that is held out."""
    solos = [i for i, each in enumerate(facts) if len(each.labels) == 1]
    untuned = [i for i in solos if facts[i].labels[0] in UNTUNED]
    while True:
        one, other = int(rng.choice(untuned)), int(rng.choice(solos))
        labels = frozenset((*facts[one].labels, *facts[other].labels))
        if facts[one].beats == facts[other].beats and len(labels) == 2 and labels not in HELD_OUT_PAIRS:
            return one, other


def mixed_picture(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, uint8 (bands, columns), of two equally loud sounds at once."""
    params = SpectrogramParams()
    power = np.zeros((1, *one.shape), np.float32)
    for picture in (one, other):
        mel = mel_from_image(Image.fromarray(picture).convert("RGB"), params)
        power += np.square(mel) / max(float(np.mean(np.square(mel))), 1e-12)
    return np.asarray(image_from_mel(np.sqrt(power), params))[:, :, 0]


def facts_of_both(rng: np.random.Generator, one: ClipFacts, other: ClipFacts) -> ClipFacts:
    """The facts of a duo, its players in random order; the mood is the second's, who may have pitch."""
    players = [one, other] if rng.random() < 0.5 else [other, one]
    labels = tuple(player.labels[0] for player in players)
    patterns = tuple(player.patterns[0] for player in players)
    manners = tuple(player.manners[0] for player in players)
    return reworded(rng, ClipFacts("", labels, one.beats, other.mode, patterns, manners))
