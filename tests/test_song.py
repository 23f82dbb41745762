"""A song follows its plan: sections come back, its bars lie on one grid to the sample, its dynamics are heard."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from riffusion_rt import Riffusion
from riffusion_rt.audio_file import read_audio
from riffusion_rt.bar_grid import BarGrid
from riffusion_rt.cli import main
from riffusion_rt.contact_sheet import BARS_A_ROW, ContactSheet
from riffusion_rt.song import SILENT_DB, SongBlock, SongProgress, arranged, dynamics, iterate_song
from riffusion_rt.song_plan import SongPlan, read_plan, with_settings

LINE = 'verse 3 "bells" | chorus 4 "drums" | verse | chorus'
GRID = BarGrid(32, 441, 44_100)
QUICK = {"steps": 2, "seed_image": ""}


def quick(line: str) -> SongPlan:
    return with_settings(read_plan(line), QUICK)


@pytest.fixture(scope="module")
def song(toy_bundle: Path) -> list[SongBlock | SongProgress]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        return list(iterate_song(riffusion.model, quick(LINE)))


@pytest.fixture(scope="module")
def blocks(song: list[SongBlock | SongProgress]) -> list[SongBlock]:
    return [event for event in song if isinstance(event, SongBlock)]


def test_every_bar_of_the_plan_is_played_on_the_grid(blocks: list[SongBlock]) -> None:
    assert [block.bar for block in blocks] == list(range(14))
    assert [block.bar for block in blocks if block.begins] == [0, 3, 7, 10]
    assert all(after.start - before.start == before.samples.shape[1] for before, after in pairwise(blocks))
    assert blocks[-1].start + blocks[-1].samples.shape[1] == 14 * GRID.bar_samples


def test_a_section_comes_back_but_for_its_way_into_the_next(blocks: list[SongBlock]) -> None:
    def bars(first: int, last: int) -> np.ndarray:
        return np.stack([block.pixels for block in blocks[first:last]])

    np.testing.assert_array_equal(bars(0, 2), bars(7, 9))
    np.testing.assert_array_equal(bars(3, 6), bars(10, 13))
    assert not np.array_equal(bars(0, 2), bars(3, 5))
    # The first chorus walks back into the verse; the last one is followed by nothing.
    assert not np.array_equal(bars(6, 7), bars(13, 14))


def test_no_clip_is_drawn_twice(song: list[SongBlock | SongProgress]) -> None:
    progress = [event for event in song if isinstance(event, SongProgress)]
    clips = {bar.clip for bar in arranged(quick(LINE))}
    assert [event.drawn for event in progress] == list(range(1, len(clips) + 1))


def test_a_repeat_varies_on_request_and_only_then() -> None:
    same, varied = (arranged(quick(f"a 4 x | a variation={share}")) for share in (0, 0.4))
    assert [bar.clip for bar in same[:3]] == [bar.clip for bar in same[4:7]]
    assert all(first.clip != again.clip for first, again in zip(varied[:3], varied[4:7], strict=True))
    assert varied[4].clip.basis == varied[0].clip


def test_sections_that_are_no_whole_clips_are_cut_at_a_bar() -> None:
    bars = arranged(quick("a 3 x transition=0 | b 1 y | c 2 z"))
    assert [(bar.section, bar.half) for bar in bars] == [(0, 0), (0, 1), (0, 0), (1, 0), (2, 0), (2, 1)]


def test_a_transition_goes_evenly_over_its_bars() -> None:
    bars = arranged(quick("a 8 x transition=3 | b 2 y"))
    shares = [bar.clip.share for bar in bars]
    assert shares == [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 0, 0]
    assert {point.prompt: share for point, share in bars[5].clip.place}["y"] == 0.25


def test_levels_and_fades_follow_the_plan() -> None:
    times, levels = dynamics(quick("a 4 x fade=in | b 2 y level=-6 | c 4 z fade=out"), GRID)
    bars = [np.interp(bar * GRID.bar_samples, times, levels) for bar in (0, 3, 4, 5, 6, 10)]
    assert bars == pytest.approx([SILENT_DB, 0, -6, -6, 0, SILENT_DB])


def test_a_model_without_a_seed_image_and_with_one_differ(toy_bundle: Path) -> None:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        made = []
        for name in ("", "beat-94"):
            plan = with_settings(quick("a 1 x"), {"seed_image": name, "strength": 0.5})
            made.append(next(e for e in iterate_song(riffusion.model, plan) if isinstance(e, SongBlock)))
    assert not np.array_equal(made[0].pixels, made[1].pixels)


def test_a_contact_sheet_shows_every_bar_and_its_name() -> None:
    sheet = ContactSheet(32, 64)
    for bar in range(BARS_A_ROW + 1):
        sheet.add(np.full((64, 32, 3), 10 * bar, np.uint8), "verse" if bar == 0 else "")
    picture = np.asarray(sheet.picture())
    assert len(sheet) == BARS_A_ROW + 1
    assert picture.shape == (2 * (14 + 16), BARS_A_ROW * 8)
    assert (picture[20, 4::8] == np.arange(BARS_A_ROW) * 10).all()
    assert picture[50, 4] == 80
    assert picture[:14].min() < 50 and picture[30:44].min() == 255


@pytest.fixture
def run(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def go(*arguments: str, code: int = 0) -> Result:
        words = ["song", *arguments, "--model", str(toy_bundle), "--threads", "1", "--device", "cpu"]
        result = CliRunner().invoke(main, words, prog_name="riffusion-rt")
        assert result.exit_code == code, result.output
        return result

    return go


def test_one_command_writes_the_song_its_plan_and_its_picture(
    run: Callable[..., Result], tmp_path: Path, toy_bundle: Path
) -> None:
    content = json.loads(run('a 2 "bells" | b 1 "drums"', "--steps", "2", "-o", "s.wav", "--json").stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.png", "s.toml", "s.wav"]
    samples, _ = read_audio(tmp_path / "s.wav")
    assert samples.shape[1] == 3 * GRID.bar_samples == content["samples"]
    assert [(each["name"], each["start"]) for each in content["sections"]] == [("a", 0), ("b", 2 * 32 * 441)]
    assert len(msgspec.toml.decode((tmp_path / "s.toml").read_text())["sections"]) == 2
    again = json.loads(CliRunner().invoke(main, ["inspect", "s.wav", "--json"]).stdout)["again"]
    words = shlex.split(again)[1:]
    words[words.index("--model") + 1] = str(toy_bundle)
    assert CliRunner().invoke(main, [*words[:1], "-o", "t.wav", "--threads", "1", *words[1:]]).exit_code == 0
    np.testing.assert_array_equal(read_audio(tmp_path / "t.wav")[0], samples)
    assert (tmp_path / "s.png").read_bytes() == (tmp_path / "t.png").read_bytes()


def test_a_flac_song_says_what_it_is_of(run: Callable[..., Result], tmp_path: Path) -> None:
    run('a 1 "bells"', "--steps", "1", "-o", "s.flac", "-q", "--title", "First", "--seed", "4")
    found = json.loads(CliRunner().invoke(main, ["inspect", "s.flac", "--json"]).stdout)
    assert found["metadata"]["title"] == "First"
    assert msgspec.toml.decode(found["metadata"]["request"]["plan"])["sections"][0]["seed"] == 4


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("No section", ("verse 8",)),
        ("as .aac", ('a 1 "x"', "-o", "x.aac")),
        ("Expected `float` <= 1", ('a 1 "x"', "--movement", "2")),
        ("does not exist", ('a 1 "x"', "--seed-image", "absent.png")),
        ("threads must be", ('a 1 "x"', "--threads", "0")),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(
    run: Callable[..., Result], tmp_path: Path, said: str, arguments: tuple[str, ...]
) -> None:
    words = [*arguments]
    if "--threads" in words:
        result = CliRunner().invoke(main, ["song", *words])
        assert result.exit_code == 2 and said in result.stderr
        return
    result = run(*words, code=2)
    assert said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
