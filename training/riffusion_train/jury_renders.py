"""A seed and soundfonts in, renders that no generator learned from out: what a jury is trained on and held against.

They differ from the data set in three ways: other seeds, another soundfont beside the first, and feels that are drawn
apart from instruments (any melodic one may swing), so that a jury learns the two as separate things.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riffusion_train.captions import UNTUNED_FEELS
from riffusion_train.catalogue import INSTRUMENTS, Instrument
from riffusion_train.duos import mixed_picture
from riffusion_train.phrases import SWINGING_FEELS
from riffusion_train.rendered_clips import picture_of, render_parts
from riffusion_train.rendering import DEBIAN_SOUNDFONT, Orchestra

SECOND_SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
"""Where Debian's ``fluid-soundfont-gm`` (MIT) puts its file: recordings that the data set does not use."""

DUO_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class JuryRenders:
    """``pictures`` uint8 (n, bands, columns), labels of one or two players each, beats of a clip, whether it swings."""

    pictures: NDArray[np.uint8]
    labels: tuple[tuple[str, ...], ...]
    beats: NDArray[np.int64]
    swings: NDArray[np.int64]
    """1 if it does, 0 if not, -1 where the question has no meaning (drums and typewriters)."""

    def save(self, path: Path) -> None:
        """Write everything to one compressed file."""
        from riffusion_engine.whole_file import whole_file

        with whole_file(path) as file:
            np.savez_compressed(
                file,
                pictures=self.pictures,
                labels=np.array(["+".join(names) for names in self.labels]),
                beats=self.beats,
                swings=self.swings,
            )

    @classmethod
    def load(cls, path: Path) -> JuryRenders:
        """Read what ``save`` wrote."""
        with np.load(path) as file:
            labels = tuple(tuple(str(names).split("+")) for names in file["labels"])
            return cls(file["pictures"], labels, file["beats"], file["swings"])

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: NDArray[np.intp]) -> JuryRenders:
        """Some of them."""
        labels = tuple(self.labels[int(i)] for i in chosen)
        return JuryRenders(self.pictures[chosen], labels, self.beats[chosen], self.swings[chosen])


def render_jury(
    count: int,
    seed: int,
    soundfonts: Sequence[Path] = (DEBIAN_SOUNDFONT, SECOND_SOUNDFONT),
    processes: int = 2,
) -> Iterator[int | JuryRenders]:
    """Render ``count`` clips, all instruments alike and soundfonts by turns; yields how many are done, last all."""
    jobs = [(seed, index, soundfonts[index % len(soundfonts)]) for index in range(count)]
    made = []
    with ProcessPoolExecutor(processes) as pool:
        for each in pool.map(_render, jobs, chunksize=8):
            made.append(each)
            yield len(made)
    pictures, labels, beats, swings = zip(*made, strict=True)
    yield JuryRenders(np.stack(pictures), labels, np.array(beats), np.array(swings))


def with_mixed_duos(renders: JuryRenders, count: int, seed: int) -> JuryRenders:
    """The same, and ``count`` duos mixed of its solos: any two instruments of one tempo, all pairs alike.

    Two players are harder to tell than one, and a rendering has few of them.
    """
    rng = np.random.default_rng(seed)
    solos: dict[tuple[str, int], list[int]] = {}
    for index, names in enumerate(renders.labels):
        if len(names) == 1:
            solos.setdefault((names[0], int(renders.beats[index])), []).append(index)
    pairs = [(one, other) for one, other in itertools.combinations(solos, 2) if one[1] == other[1]]
    pictures, labels, beats, swings = [], [], [], []
    for which in rng.integers(len(pairs), size=count):
        one, other = (int(rng.choice(solos[player])) for player in pairs[which])
        pictures.append(mixed_picture(renders.pictures[one], renders.pictures[other]))
        labels.append((*renders.labels[one], *renders.labels[other]))
        beats.append(renders.beats[one])
        swings.append(max(renders.swings[one], renders.swings[other]))
    return JuryRenders(
        np.concatenate([renders.pictures, np.stack(pictures)]),
        (*renders.labels, *labels),
        np.concatenate([renders.beats, beats]),
        np.concatenate([renders.swings, swings]),
    )


_orchestras: dict[Path, Orchestra] = {}


def _render(job: tuple[int, int, Path]) -> tuple[NDArray[np.uint8], tuple[str, ...], int, int]:
    seed, index, soundfont = job
    if soundfont not in _orchestras:
        _orchestras[soundfont] = Orchestra(soundfont)
    rng = np.random.default_rng([seed, index])
    first = INSTRUMENTS[index // 2 % len(INSTRUMENTS)]
    players = [first]
    if rng.random() < DUO_SHARE:
        others = [instrument for instrument in INSTRUMENTS if instrument is not first]
        players.append(others[int(rng.integers(len(others)))])
    players = [_with_any_feel(rng, player) for player in players]
    sound, beats = render_parts(_orchestras[soundfont], rng, players)
    return picture_of(sound), tuple(player.label for player in players), beats, _swings(players)


def _with_any_feel(rng: np.random.Generator, instrument: Instrument) -> Instrument:
    """A melodic instrument in its own feel, or now and then swinging or straight against its habit."""
    if "piano" in instrument.label:
        return instrument  # Three of them differ by nothing but their feel.
    if instrument.feel == "plain" and "melody" in instrument.patterns and rng.random() < 0.35:
        return dataclasses.replace(instrument, feel="jazz", patterns=("melody",))
    if instrument.feel == "jazz" and instrument.patterns == ("melody",) and rng.random() < 0.35:
        return dataclasses.replace(instrument, feel="plain")
    return instrument


def _swings(players: Sequence[Instrument]) -> int:
    tuned = [player for player in players if player.feel not in UNTUNED_FEELS]
    if not tuned:
        return -1
    return int(any(player.feel in SWINGING_FEELS for player in tuned))
