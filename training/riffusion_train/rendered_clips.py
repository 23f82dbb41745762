"""A seed in, a data set out: pictures of rendered loops with their captions and their facts.

The folder holds ``pictures.npy`` (uint8, clips × bands × columns, as in a spectrogram image's channel) and
``clips.jsonl`` (caption, labels, beats, mode, patterns, manners). Clip ``i`` depends on the seed and on ``i`` alone,
so a rendering can be resumed, split over processes, and repeated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_train.captions import UNTUNED_FEELS, Part, caption
from riffusion_train.catalogue import (
    BEATS_PER_CLIP,
    HELD_OUT_MANNERS,
    INSTRUMENTS,
    MANNERS,
    Instrument,
)
from riffusion_train.phrases import SWINGING_FEELS, Note, Setting, compose, draw_setting
from riffusion_train.rendering import DEBIAN_SOUNDFONT, Orchestra, typewriter

COLUMNS = 512
MANNERS_FOLDER = "manners"
"""Where a run keeps the clips of ``render_manner``, beside its others."""
DUO_SHARE = 0.15
"""Share of clips with two players."""
MANNER_SHARE = 0.35
"""Share of clips in which an instrument that has other manners takes one."""


@dataclass(frozen=True)
class ClipFacts:
    """What is known of a rendered clip."""

    caption: str
    labels: tuple[str, ...]
    beats: int
    mode: str
    patterns: tuple[str, ...]
    """What each player plays, in the order of ``labels``."""
    manners: tuple[str, ...]
    """In which manner, a word of ``catalogue.MANNERS``, or "" for the instrument's own."""

    @property
    def swings(self) -> bool | None:
        """Whether anybody's off-beats are late, None if nobody plays notes."""
        players = {each.label: each for each in INSTRUMENTS}
        feels = [
            MANNERS[manner].feel if manner else players[label].feel
            for label, manner in zip(self.labels, self.manners, strict=True)
        ]
        tuned = [feel for feel in feels if feel not in UNTUNED_FEELS]
        return any(feel in SWINGING_FEELS for feel in tuned) if tuned else None


def reworded(rng: np.random.Generator, facts: ClipFacts) -> ClipFacts:
    """The same clip with another caption, as true as the first."""
    players = {each.label: each for each in INSTRUMENTS}
    parts = tuple(
        Part(players[label], pattern, manner)
        for label, pattern, manner in zip(facts.labels, facts.patterns, facts.manners, strict=True)
    )
    return replace(facts, caption=caption(rng, parts, facts.beats, facts.mode))


def render_clip(
    orchestra: Orchestra, seed: int, index: int, *, label: str | None = None
) -> tuple[NDArray[np.float32], ClipFacts]:
    """Clip ``index`` of the data set of ``seed``: samples float32 (225,792,) in ±1, and its facts.

    ``label`` fixes the (only) instrument instead of drawing it.
    """
    rng = np.random.default_rng([seed, index])
    setting = draw_setting(rng, draw_beats(rng))
    chosen = [i for i in INSTRUMENTS if i.label == label] if label else list(_draw_players(rng))
    return _clip(orchestra, rng, tuple(draw_part(rng, player) for player in chosen), setting)


def render_manner(orchestra: Orchestra, seed: int, index: int) -> tuple[NDArray[np.float32], ClipFacts]:
    """The same of a solo by one who plays in several manners: all such players alike often, and all their manners."""
    rng = np.random.default_rng([seed, index, 1])
    versatile = [player for player in INSTRUMENTS if learned_manners(player)]
    player = versatile[index % len(versatile)]
    setting = draw_setting(rng, draw_beats(rng))
    manner = str(rng.choice(["", *learned_manners(player)]))
    part = in_manner(player, manner) if manner else _own_part(rng, player)
    return _clip(orchestra, rng, (part,), setting)


def _clip(
    orchestra: Orchestra, rng: np.random.Generator, parts: tuple[Part, ...], setting: Setting
) -> tuple[NDArray[np.float32], ClipFacts]:
    sound = _play_together(orchestra, rng, parts, setting)
    facts = ClipFacts(
        caption(rng, parts, setting.beats, setting.mode),
        tuple(p.instrument.label for p in parts),
        setting.beats,
        setting.mode,
        tuple(p.pattern for p in parts),
        tuple(p.manner for p in parts),
    )
    return sound, facts


def render_parts(
    orchestra: Orchestra, rng: np.random.Generator, players: Sequence[Instrument]
) -> tuple[NDArray[np.float32], int]:
    """A clip of these players: samples float32 (225,792,) in ±1, and its beats."""
    beats = draw_beats(rng)
    parts = [_own_part(rng, player) for player in players]
    return _play_together(orchestra, rng, parts, draw_setting(rng, beats)), beats


def draw_beats(rng: np.random.Generator) -> int:
    """Beats of a clip, the middle tempi more often."""
    return int(rng.choice(BEATS_PER_CLIP, p=[0.2, 0.4, 0.25, 0.15]))


def _play_together(
    orchestra: Orchestra, rng: np.random.Generator, parts: Sequence[Part], setting: Setting
) -> NDArray[np.float32]:
    samples = COLUMNS * SpectrogramParams().hop_length
    sound = np.zeros(samples, np.float32)
    for part in parts:
        sound += _balanced(_play(orchestra, rng, part, setting, samples))
    return sound / max(float(np.abs(sound).max()), 1e-6)


def draw_part(rng: np.random.Generator, player: Instrument) -> Part:
    """What a player plays: now and then in another manner than its own."""
    learned = learned_manners(player)
    if learned and rng.random() < MANNER_SHARE:
        return in_manner(player, str(rng.choice(learned)))
    return _own_part(rng, player)


def learned_manners(player: Instrument) -> list[str]:
    """In which it is heard: all of its own but those that are held out."""
    return [word for word in player.manners if (player.label, word) not in HELD_OUT_MANNERS]


def in_manner(player: Instrument, manner: str) -> Part:
    """What a player plays in ``manner``, a word of ``catalogue.MANNERS``."""
    return Part(player, MANNERS[manner].pattern, manner)


def _own_part(rng: np.random.Generator, player: Instrument) -> Part:
    return Part(player, str(rng.choice(list(player.patterns))))


def _draw_players(rng: np.random.Generator) -> tuple[Instrument, ...]:
    weights = np.array([i.weight for i in INSTRUMENTS])
    count = 2 if rng.random() < DUO_SHARE else 1
    return tuple(
        INSTRUMENTS[int(k)]
        for k in rng.choice(len(INSTRUMENTS), size=count, replace=False, p=weights / weights.sum())
    )


def _play(
    orchestra: Orchestra, rng: np.random.Generator, part: Part, setting: Setting, samples: int
) -> NDArray[np.float32]:
    if part.instrument.feel == "typewriter":
        return typewriter(rng, setting.beats, samples)
    notes = notes_of(rng, part, setting)
    drums = bool(part.instrument.drum_kits)
    programs = part.instrument.drum_kits or part.instrument.programs
    return orchestra.play([(drums, int(rng.choice(list(programs))), notes)], setting.beats, samples)


def notes_of(rng: np.random.Generator, part: Part, setting: Setting) -> list[Note]:
    """What ``part`` plays in ``setting``, in its manner."""
    feel = MANNERS[part.manner].feel if part.manner else part.instrument.feel
    return compose(rng, replace(part.instrument, feel=feel), setting, part.pattern)


def _balanced(sound: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(sound / max(float(np.sqrt(np.mean(sound**2))), 1e-6) * 0.1, np.float32)


def picture_of(sound: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The spectrogram image's one channel, uint8 (bands, columns), of a looping mono clip in ±1."""
    from riffusion_rt.spectrogram import mel_spectrogram
    from riffusion_rt.spectrogram_image import image_from_mel

    params = SpectrogramParams()
    mel = mel_spectrogram(sound[None], params, columns=COLUMNS, loop=True)
    return np.asarray(image_from_mel(mel, params))[:, :, 0]


_orchestra: Orchestra | None = None


def _open_orchestra(soundfont: Path) -> None:
    global _orchestra
    _orchestra = Orchestra(soundfont)


def _work(seed: int, index: int, manners: bool) -> tuple[int, NDArray[np.uint8], ClipFacts]:
    assert _orchestra is not None
    sound, facts = (render_manner if manners else render_clip)(_orchestra, seed, index)
    return index, picture_of(sound), facts


def render_dataset(
    folder: Path,
    count: int,
    *,
    seed: int = 0,
    soundfont: Path = DEBIAN_SOUNDFONT,
    processes: int = 2,
    manners: bool = False,
) -> Iterator[int]:
    """Render clips 0 … count-1 into ``folder``, yielding how many are done; what is already there is kept.

    They are those of ``render_clip``, with ``manners`` those of ``render_manner``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listing = folder / "clips.jsonl"
    done = len(listing.read_text().splitlines()) if listing.exists() else 0
    pictures = open_pictures(folder, count)
    with (
        ProcessPoolExecutor(processes, initializer=_open_orchestra, initargs=(soundfont,)) as pool,
        listing.open("a") as lines,
    ):
        work = partial(_work, seed, manners=manners)
        for index, picture, facts in pool.map(work, range(done, count), chunksize=8):
            pictures[index] = picture
            lines.write(json.dumps({"index": index, **asdict(facts)}) + "\n")
            lines.flush()
            yield index + 1
    del pictures  # flushes the memory map


def open_pictures(folder: Path, count: int | None = None) -> NDArray[np.uint8]:
    """The data set's pictures, memory-mapped: created for ``count`` clips if they are not there yet."""
    path = folder / "pictures.npy"
    if count is not None and not path.exists():
        shape = (count, SpectrogramParams().bands, COLUMNS)
        return np.asanyarray(np.lib.format.open_memmap(path, "w+", np.uint8, shape))
    return np.asanyarray(np.lib.format.open_memmap(path, "r+" if count is not None else "r"))


def read_facts(folder: Path) -> list[ClipFacts]:
    """The facts of every clip rendered so far, in order."""
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    return [
        ClipFacts(
            r["caption"],
            tuple(r["labels"]),
            r["beats"],
            r["mode"],
            tuple(r["patterns"]),
            tuple(r["manners"]),
        )
        for r in rows
    ]
