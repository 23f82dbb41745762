"""What a denoiser learns from: clips turned by beats, described afresh, solos mixed to duos, some pairs never."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.spectrogram_image import image_from_mel
from riffusion_train.captions import Part
from riffusion_train.catalogue import (
    BEATS_PER_CLIP,
    HELD_OUT_MANNERS,
    HELD_OUT_PAIRS,
    INSTRUMENTS,
    MANNERS,
    UNTUNED,
    by_label,
)
from riffusion_train.clip_draws import SHARES, ClipDraws, roll_by_beats
from riffusion_train.duos import draw_pair, mix_duos, mixed_picture
from riffusion_train.phrases import Note, Setting
from riffusion_train.rendered_clips import (
    MANNERS_FOLDER,
    ClipFacts,
    draw_part,
    notes_of,
    open_pictures,
    read_facts,
    render_manner,
    reworded,
)
from riffusion_train.rendering import Orchestra

SETTING = Setting(beats=8, key=0, mode="major", progression=(0, 3))


def solo(label: str, beats: int = 8) -> ClipFacts:
    pattern = next(each.patterns[0] for each in INSTRUMENTS if each.label == label)
    return ClipFacts(label, (label,), beats, "minor", (pattern,), ("",))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one solo of every instrument, with random pictures and latents that bear the clip's index."""
    facts = [solo(each.label) for each in INSTRUMENTS]
    pictures = open_pictures(tmp_path / "clips", len(facts)) if (tmp_path / "clips").mkdir() is None else None
    assert pictures is not None
    pictures[:] = np.random.default_rng(0).integers(0, 255, pictures.shape, np.uint8)
    write_facts(tmp_path / "clips", facts)
    write_latents(tmp_path / "latents.npy", len(facts))
    return tmp_path


def write_facts(folder: Path, facts: list[ClipFacts]) -> None:
    lines = [json.dumps({"index": i, **asdict(each)}) + "\n" for i, each in enumerate(facts)]
    (folder / "clips.jsonl").write_text("".join(lines))


def write_latents(path: Path, count: int) -> None:
    np.save(path, np.broadcast_to(np.arange(count, dtype=np.float16)[:, None, None, None], (count, 1, 8, 8)))


def test_rolls_move_by_whole_beats() -> None:
    latent = np.broadcast_to(np.arange(32.0), (1, 1, 32))
    for beats in BEATS_PER_CLIP:
        shifts = {int(roll_by_beats(np.random.default_rng(s), latent, beats)[0, 0, 0]) for s in range(64)}
        assert all(shift * beats % 32 == 0 for shift in shifts)
        assert len(shifts) > 1


def test_words_change_and_facts_do_not() -> None:
    facts = ClipFacts("piano", ("piano", "drums"), 10, "major", ("chords", "riff"), ("", ""))
    told = [reworded(np.random.default_rng(seed), facts) for seed in range(50)]
    assert len({each.caption for each in told}) > 25
    for each in told:
        assert (each.labels, each.beats, each.mode, each.patterns) == (
            facts.labels,
            facts.beats,
            facts.mode,
            facts.patterns,
        )
        assert "piano" in each.caption and "drum" in each.caption


def test_a_manner_is_always_named_and_some_are_never_learned() -> None:
    facts = ClipFacts("", ("organ", "drums"), 8, "minor", ("riff", "riff"), ("funky", ""))
    told = [reworded(np.random.default_rng(seed), facts).caption for seed in range(50)]
    assert all(any(f"funky {name}" in text for name in by_label("organ").names) for text in told)
    rng = np.random.default_rng(0)
    drawn = {(each.label, draw_part(rng, each).manner) for each in INSTRUMENTS for _ in range(60)}
    assert drawn.isdisjoint(HELD_OUT_MANNERS)
    assert {manner for _, manner in drawn} == {"", *MANNERS}
    assert all(word in by_label(label).manners for label, word in HELD_OUT_MANNERS)


def test_an_instrument_may_be_called_what_it_always_is_but_not_twice() -> None:
    def told(label: str) -> set[str]:
        return {reworded(np.random.default_rng(seed), solo(label)).caption for seed in range(80)}

    assert any("jazzy saxophone" in text for text in told("saxophone"))
    assert any("saxophone" in text and "jazzy" not in text for text in told("saxophone"))
    assert not any("jazzy jazz" in text for text in told("jazz piano"))
    assert not any(word in text for word in MANNERS for text in told("flute"))


def test_a_manner_is_played_with_its_own_feel() -> None:
    def starts(manner: str) -> set[float]:
        part = Part(by_label("synth"), MANNERS[manner].pattern if manner else "melody", manner)
        notes = [n for seed in range(20) for n in notes_of(np.random.default_rng(seed), part, SETTING)]
        return {round(n.start % 1, 3) for n in notes}

    assert starts("") == {0.0, 0.5}
    assert starts("jazzy") == {0.0, 0.667}
    assert starts("funky") == {0.0, 0.25, 0.5, 0.75}


class Beeper:
    """Plays a burst of noise for every note."""

    def play(self, parts: list[tuple[bool, int, list[Note]]], beats: int, samples: int) -> np.ndarray:
        sound = np.zeros(samples, np.float32)
        for _, _, notes in parts:
            for note in notes:
                first = int(note.start / beats * samples) % samples
                sound[first : first + 2_000] = np.random.default_rng(note.pitch).normal(0, 0.1)
        return sound


def test_the_versatile_are_heard_in_all_their_manners_alike_and_in_none_that_is_held_out() -> None:
    told = [render_manner(cast(Orchestra, Beeper()), 0, index)[1] for index in range(240)]
    assert all(len(each.labels) == 1 for each in told)
    heard = Counter((each.labels[0], each.manners[0]) for each in told)
    players = Counter(each.labels[0] for each in told)
    assert set(players) == {each.label for each in INSTRUMENTS if each.manners}
    assert len(set(players.values())) == 1
    assert set(heard).isdisjoint(HELD_OUT_MANNERS)
    assert {manner for label, manner in heard if label == "flute"} == {"", "funky", "bluesy"}
    assert render_manner(cast(Orchestra, Beeper()), 0, 7)[1] == told[7]


def test_clips_of_every_folder_of_a_run_are_drawn(run: Path) -> None:
    (run / MANNERS_FOLDER).mkdir()
    jazzy = ClipFacts("", ("synth",), 8, "minor", ("melody",), ("jazzy",))
    write_facts(run / MANNERS_FOLDER, [jazzy])
    np.save(run / "manner_latents.npy", np.full((1, 1, 8, 8), 99, np.float16))
    draws = ClipDraws.of_run(run)
    assert len(draws.facts) == len(draws.latents) == len(INSTRUMENTS) + 1
    drawn = draws.draw(np.random.default_rng(0), 64)
    of_it = drawn.latents[:, 0, 0, 0] == 99
    assert of_it.any() and not of_it.all()
    assert [each.manners == ("jazzy",) for each in drawn.facts] == of_it.tolist()


def test_a_clip_swings_if_anybody_does_and_drums_alone_do_neither() -> None:
    def swings(*players: tuple[str, str]) -> bool | None:
        labels, manners = zip(*players, strict=True)
        return ClipFacts("", labels, 8, "minor", ("melody",) * len(players), manners).swings

    assert swings(("flute", "")) is False
    assert swings(("flute", "bluesy")) is True
    assert swings(("saxophone", "")) is True
    assert swings(("saxophone", "classical")) is False
    assert swings(("drums", "")) is None
    assert swings(("drums", ""), ("flute", "")) is False
    assert swings(("drums", ""), ("jazz piano", "")) is True


def test_draws_are_the_runs_clips_and_their_captions_name_them(run: Path) -> None:
    drawn = ClipDraws.of_run(run).draw(np.random.default_rng(0), 64)
    assert drawn.latents.shape == (64, 1, 8, 8)
    assert drawn.beats.tolist() == [8] * 64
    for latent, text in zip(drawn.latents, drawn.captions, strict=True):
        player = INSTRUMENTS[int(latent[0, 0, 0])]
        assert any(name in text for name in player.names), (player.label, text)


def test_rare_tempi_are_drawn_as_often_as_common_ones(run: Path) -> None:
    write_facts(run / "clips", [solo(each.label, 12 if i == 0 else 8) for i, each in enumerate(INSTRUMENTS)])
    drawn = ClipDraws.of_run(run).draw(np.random.default_rng(0), 400)
    rare = int((drawn.latents[:, 0, 0, 0] == 0).sum())
    assert 160 < rare < 240
    assert int((drawn.beats == 12).sum()) == rare
    assert len(set(drawn.latents[:, 0, 0, 0].tolist())) == len(INSTRUMENTS)


def test_kinds_of_clips_come_by_their_shares_and_rare_players_oftener_than_they_lie_there(run: Path) -> None:
    jazzy = ClipFacts("", ("synth",), 8, "minor", ("melody",), ("jazzy",))
    duo = ClipFacts("", ("piano", "drums"), 8, "minor", ("melody", "riff"), ("", ""))
    facts = [*[solo("piano")] * 81, *[solo("choir")] * 9, *[jazzy] * 3, *[duo] * 7]
    write_facts(run / "clips", facts)
    write_latents(run / "latents.npy", len(facts))
    drawn = ClipDraws.of_run(run).draw(np.random.default_rng(0), 2000)
    shares = {
        labels: np.mean([each.labels == labels for each in drawn.facts])
        for labels in {f.labels for f in facts}
    }
    assert shares[("synth",)] == pytest.approx(SHARES["solo in another manner"], abs=0.03)
    assert shares[("piano", "drums")] == pytest.approx(SHARES["duo"], abs=0.03)
    assert shares[("choir",)] == pytest.approx(SHARES["solo"] / 4, abs=0.03)  # the roots are 9 and 3


def test_solos_to_be_heard_together_are_two_players_and_never_a_pair_that_is_held_out(run: Path) -> None:
    names = {each.label: each.names for each in INSTRUMENTS}
    pairs = ClipDraws.of_run(run).solos(np.random.default_rng(0), 600)

    def named(text: str, label: str) -> bool:
        return any(name in text for name in names[label])

    assert len(pairs) == 600 and len({one for one, _ in pairs}) > 100
    for held_out in HELD_OUT_PAIRS:
        first, second = sorted(held_out)
        assert not any(
            named(a, x) and named(b, y) for a, b in pairs for x, y in ((first, second), (second, first))
        )


def test_held_out_pairs_are_never_drawn(run: Path) -> None:
    held_out = sorted(min(HELD_OUT_PAIRS, key=sorted))
    pair = ClipFacts("", tuple(held_out), 8, "minor", ("melody", "riff"), ("", ""))
    write_facts(run / "clips", [*read_facts(run / "clips"), pair])
    write_latents(run / "latents.npy", len(INSTRUMENTS) + 1)
    draws = ClipDraws.of_run(run)
    assert len(draws.facts) == len(draws.latents) == len(INSTRUMENTS)
    drawn = draws.draw(np.random.default_rng(0), 200)
    assert float(drawn.latents.max()) < len(INSTRUMENTS)


def test_a_pair_has_one_tempo_one_player_without_pitch_and_is_not_held_out() -> None:
    facts = [solo(each.label, beats) for each in INSTRUMENTS for beats in BEATS_PER_CLIP]
    rng = np.random.default_rng(0)
    pairs = set()
    for _ in range(400):
        one, other = (facts[i] for i in draw_pair(rng, facts))
        assert one.beats == other.beats
        assert one.labels[0] in UNTUNED and one.labels != other.labels
        pairs.add(frozenset((one.labels[0], other.labels[0])))
    assert not pairs & HELD_OUT_PAIRS
    assert len(pairs) > 40


def test_duos_sound_as_both_do_and_go_on_where_they_stopped(run: Path) -> None:
    assert list(mix_duos(run, 2, seed=3))[-1] == 2
    first = open_pictures(run / "duos").copy()
    assert list(mix_duos(run, 2, seed=3)) == []
    assert first.any(axis=(1, 2)).all()
    assert all(len(each.labels) == 2 and each.caption for each in read_facts(run / "duos"))


def test_two_tones_are_both_in_the_mixed_picture_equally_loud() -> None:
    params = SpectrogramParams()

    def tone(band: int, loudness: float) -> np.ndarray:
        mel = np.full((1, params.bands, 64), 1e-3, np.float32)
        mel[0, band] = loudness
        return np.asarray(image_from_mel(mel, params))[:, :, 0]

    both = mixed_picture(tone(100, 1.0), tone(300, 30.0))
    rows = params.bands - 1 - np.array([100, 300])
    assert (both[rows] < 10).all()
    assert np.median(both) > 200
