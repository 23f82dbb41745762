"""What prompt weights promise to people who type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riffusion_engine.errors import RequestError
from riffusion_rt.prompt import EMPHASIS, WEIGHT_LIMIT, parse_weights


@pytest.mark.parametrize(
    ("prompt", "spans"),
    [
        ("funky piano", [("funky piano", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
        ("a (b) c", [("a ", 1.0), ("b", 1.1), (" c", 1.0)]),
        ("a [b] c", [("a ", 1.0), ("b", 1 / 1.1), (" c", 1.0)]),
        ("(solo:1.5) bass", [("solo", 1.5), (" bass", 1.0)]),
        ("(solo: .5 )", [("solo", 0.5)]),
        ("(solo:0)", [("solo", 0.0)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        ("((a))", [("a", 1.1 * 1.1)]),
        ("([a])", [("a", 1.0)]),
    ],
)
def test_brackets_weigh_what_they_enclose(prompt: str, spans: list[tuple[str, float]]) -> None:
    parsed = parse_weights(prompt)
    assert [words for words, _ in parsed] == [words for words, _ in spans]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in spans])


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (r"piano \(live\)", "piano (live)"),
        (r"\[a\]", "[a]"),
        (r"back\\slash", r"back\slash"),
        (r"just \a backslash\ ", r"just \a backslash" + "\\ "),
        ("smile :)", "smile :)"),
        ("at 12:30) sharp", "at 12:30) sharp"),
        ("a] b", "a] b"),
        ("ratio 3:4", "ratio 3:4"),
        ("tail\\", "tail\\"),
    ],
)
def test_escapes_and_stray_closers_are_text(prompt: str, text: str) -> None:
    assert parse_weights(prompt) == [(text, 1.0)]


def test_a_word_after_a_colon_is_text_inside_the_bracket() -> None:
    assert parse_weights("(verse:one)") == [("verse:one", 1.1)]


def test_an_unclosed_bracket_reaches_to_the_end() -> None:
    assert parse_weights("bass (and drums") == [("bass ", 1.0), ("and drums", 1.1)]
    assert parse_weights("bass [and drums") == [("bass ", 1.0), ("and drums", 1 / 1.1)]


def test_crossing_brackets_each_close_their_own_kind() -> None:
    parsed = parse_weights("(a [b) c]")
    assert [words for words, _ in parsed] == ["a ", "b", " c"]
    assert [weight for _, weight in parsed] == pytest.approx([1.1, 1.0, 1 / 1.1])


@pytest.mark.parametrize(
    "prompt",
    ["(x:11)", "(x:1e9)", "(x:-1)", "(x:1e999)", "((x:5):5)", "(" * 30 + "x" + ")" * 30, "(x:-1e999)"],
)
def test_absurd_weights_are_refused_with_a_way_out(prompt: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_weights(prompt)
    assert '"x"' in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="ab:.1 ()[]\\"))
def test_no_prompt_breaks_the_parser_or_leaves_the_range(prompt: str) -> None:
    try:
        spans = parse_weights(prompt)
    except RequestError:
        return
    assert spans
    assert all(0.0 <= weight <= WEIGHT_LIMIT for _, weight in spans)
    assert all(words for words, _ in spans) or spans == [("", 1.0)]


@given(st.text())
def test_escaping_every_bracket_gives_the_text_back(text: str) -> None:
    escaped = "".join(f"\\{letter}" if letter in "()[]\\" else letter for letter in text)
    assert parse_weights(escaped) == [(text, 1.0)]


@given(st.integers(min_value=0, max_value=20))
def test_nesting_multiplies(depth: int) -> None:
    ((words, weight),) = parse_weights("(" * depth + "x" + ")" * depth)
    assert words == "x"
    assert weight == pytest.approx(EMPHASIS**depth)


def test_brackets_without_end_are_refused_at_once() -> None:
    with pytest.raises(RequestError, match="nested"):
        parse_weights("([" * 100_000 + "x")
