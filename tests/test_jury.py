"""The jury hears what it was taught, and its measures of sets of clips mean what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from riffusion_train.catalogue import BEATS_PER_CLIP
from riffusion_train.jury import (
    JURY_RECIPE,
    frechet_distance,
    judge,
    load_jury,
    nearest_distances,
    onset_lag,
    train_jury,
)
from riffusion_train.jury_renders import JuryRenders, with_mixed_duos


def renders(count: int) -> JuryRenders:
    """Low steady lines called piano, and high pulses of eight beats called drums."""
    rng = np.random.default_rng(0)
    pictures = np.full((count, 512, 512), 255, np.uint8)
    for index, picture in enumerate(pictures):
        if index % 2:
            at = int(rng.integers(64))
            picture[20:200, at::64] = picture[20:200, at + 1 :: 64] = picture[20:200, at + 2 :: 64] = 0
        else:
            picture[int(rng.integers(300, 480)) :][:8] = 0
    labels = tuple(("drums",) if index % 2 else ("piano",) for index in range(count))
    beats = np.array([8 if index % 2 else 6 for index in range(count)])
    swings = np.array([-1 if index % 2 else 0 for index in range(count)])
    return JuryRenders(pictures, labels, beats, swings)


def test_a_jury_hears_instruments_and_beats_that_it_was_taught(tmp_path: Path) -> None:
    taught = renders(24)
    path = tmp_path / "jury.pt"
    reports = list(train_jury(taught, path, replace(JURY_RECIPE, steps=60, batch=8)))
    assert reports[-1].measure > 0.9
    verdict = judge(load_jury(path), renders(32).pictures[24:])
    assert verdict.top() == ["piano", "drums"] * 4
    assert verdict.tempo() == [6, 8] * 4
    assert verdict.embeddings.shape == (8, 96)


def melodies(rng: np.random.Generator, count: int, off_beat: float) -> np.ndarray:
    """Tones on most beats and on off-beats at a share of a beat, at any pitch and tempo."""
    pictures = np.full((count, 512, 512), 255, np.uint8)
    for picture in pictures:
        beats = int(rng.choice(BEATS_PER_CLIP))
        for start in np.concatenate([np.arange(beats), np.arange(beats) + off_beat]):
            if rng.random() < 0.8:
                column, row = int(start / beats * 512), int(rng.integers(100, 480))
                picture[row : row + 6, column : column + 12] = rng.integers(0, 120)
    return pictures


def test_a_jury_hears_where_off_beats_fall(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # Only every sixth swings: a rare answer is no worse heard for being rare.
    learnt = np.concatenate([melodies(rng, 500, 1 / 2), melodies(rng, 100, 2 / 3)])
    swings = np.repeat([0, 1], [500, 100])
    taught = JuryRenders(learnt, (("piano",),) * 600, np.full(600, 8), swings)
    list(train_jury(taught, tmp_path / "jury.pt", replace(JURY_RECIPE, steps=2, batch=8)))
    jury = load_jury(tmp_path / "jury.pt")
    straight, swung = (judge(jury, melodies(rng, 40, share)).swings > 0.5 for share in (1 / 2, 2 / 3))
    assert straight.mean() < 0.2
    assert swung.mean() > 0.8


def test_duos_are_mixed_of_solos_of_one_tempo() -> None:
    solos = replace(renders(6), beats=np.array([6, 8, 8, 8, 6, 6]))
    more = with_mixed_duos(solos, 5, seed=0)
    assert len(more) == len(more.pictures) == 11
    assert more.labels[:6] == solos.labels
    for picture, names, beats, swings in zip(
        more.pictures[6:], more.labels[6:], more.beats[6:], more.swings[6:], strict=True
    ):
        assert set(names) == {"piano", "drums"}
        assert swings == 0  # The piano's: drums have none.
        players = [
            index
            for index in range(6)
            if solos.beats[index] == beats and (picture <= solos.pictures[index].astype(int) + 60).all()
        ]
        assert {solos.labels[index][0] for index in players} == {"piano", "drums"}


def test_the_distance_of_two_gaussians_is_known() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((20_000, 3))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, one + np.array([2.0, 0, 0])) == pytest.approx(4, abs=1e-6)
    # Spreads of 1 and 3 in one dimension of three: (3 - 1) squared.
    assert frechet_distance(one, one * np.array([3.0, 1, 1])) == pytest.approx(4, abs=0.2)


def test_a_turned_copy_is_found_and_a_stranger_is_not() -> None:
    clips = np.random.default_rng(1).integers(0, 255, (3, 512, 512)).astype(np.uint8)
    smooth = np.repeat(np.repeat(clips[:, ::16, ::8], 16, axis=1), 8, axis=2)
    copy = np.roll(smooth[:1], 160, axis=2)
    near, far = nearest_distances(copy, smooth), nearest_distances(copy, smooth[1:])
    assert near[0] < 0.01 < 0.1 < far[0]


@pytest.mark.parametrize("columns", [-20, -2, 0, 1, 12])
def test_a_walk_whose_onsets_move_is_found_out(columns: int) -> None:
    rng = np.random.default_rng(1)
    first = melodies(rng, 1, 1 / 2)[0]
    other = np.where(rng.random((512, 1)) < 0.5, 255, first).astype(
        np.uint8
    )  # Half of it goes, the rest moves.
    pictures = np.stack([first, np.roll(other, columns, axis=1)])
    assert onset_lag(pictures) == pytest.approx(abs(columns), abs=0.1)
