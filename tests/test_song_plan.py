"""A plan says in one line what a song is, is read back as it was written, and errors name their place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riffusion_engine.errors import RequestError
from riffusion_rt.song_plan import Section, SongPlan, completed, plan_as_toml, read_plan

LINE = 'intro 4 | verse 8 "jazz piano" | chorus 8 "electronic beats" | verse | chorus | outro'


def test_one_line_is_a_whole_song() -> None:
    plan = read_plan(LINE)
    assert [(each.name, each.bars, each.prompt, each.seed) for each in plan.sections] == [
        ("intro", 4, "jazz piano", 0),
        ("verse", 8, "jazz piano", 1),
        ("chorus", 8, "electronic beats", 2),
        ("verse", 8, "jazz piano", 1),
        ("chorus", 8, "electronic beats", 2),
        ("outro", 4, "jazz piano", 3),
    ]
    assert [each.fade for each in plan.sections] == ["in", None, None, None, None, "out"]
    assert [each.transition for each in plan.sections] == [1, 1, 1, 1, 1, 0]
    assert plan.bars == 40


def test_settings_may_follow_a_prompt_with_or_without_quotation_marks() -> None:
    (section,) = read_plan('verse 6 80\'s synth | "hard" seed=9 level=-4.5').sections[:1]
    assert (section.prompt, section.bars) == ("80's synth", 6)
    plan = read_plan('a 2 "x | y" seed=9 level=-4.5 fade=out transition=2 variation=0.3 | a variation=0.5')
    first, second = plan.sections
    assert (first.prompt, first.seed, first.level, first.fade, first.transition) == (
        "x | y",
        9,
        -4.5,
        "out",
        2,
    )
    assert (second.prompt, second.variation, second.level, second.fade) == ("x | y", 0.5, -4.5, None)


def test_a_plan_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    plan = read_plan(LINE)
    assert read_plan(plan_as_toml(plan)) == plan
    path = tmp_path / "song.toml"
    path.write_text(plan_as_toml(plan), encoding="utf-8")
    assert read_plan(str(path)) == plan


@given(
    prompt=st.text(max_size=40).filter(lambda text: "\0" not in text),
    title=st.text(st.characters(codec="utf-8"), max_size=20),
    bars=st.integers(1, 40),
    level=st.floats(-60, 12),
)
def test_any_text_survives_toml(prompt: str, title: str, bars: int, level: float) -> None:
    prompt = prompt.encode("utf-8", "replace").decode()
    plan = completed(
        SongPlan(title=title, sections=(Section(name="a", bars=bars, prompt=prompt, level=level),))
    )
    assert read_plan(plan_as_toml(plan)) == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("verse 8 | chorus 8", "No section of the plan has a prompt"),
        ('verse 8 "x | chorus', "Section 1 .* quotation mark is not closed"),
        ('verse "x" | | chorus', "Section 2 .* nothing in it"),
        ('verse 0 "x"', "Section 1 .*>= 1.* in bars"),
        ('verse "x" | chorus level=loud "y"', "Section 2 .* in level"),
        ('verse "x" fade=sideways', "Section 1 .* in fade"),
        ('verse 400 "x" | verse', "800 bars are too many"),
        ("[[sections]]\nname = 3", "in section 1, name"),
        ("[[sections]]\nname = 'a'\ntempo = 3", "tempo.* in section 1"),
        ("[[sections]]\nname = verse", "no TOML: .*line 2"),
        ("sampler = 'magic'\n[[sections]]\nname = 'a'\nprompt = 'x'", "no sampler"),
        ("absent.toml", "Cannot read the plan"),
        ("", "nothing in it"),
    ],
)
def test_errors_name_their_place(text: str, said: str) -> None:
    with pytest.raises(RequestError, match=f"(?s){said}"):
        read_plan(text)


def test_a_complete_plan_leaves_nothing_open() -> None:
    for section in read_plan(LINE).sections:
        assert not [name for name in ("bars", "prompt", "seed", "level") if getattr(section, name) is None]
    assert msgspec.structs.asdict(completed(read_plan(LINE))) == msgspec.structs.asdict(read_plan(LINE))
