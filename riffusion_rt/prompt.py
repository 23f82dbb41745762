"""A prompt as typed in, spans of plain text with their weights out."""

from __future__ import annotations

import math
import re
from itertools import groupby

from riffusion_engine.errors import RequestError

EMPHASIS = 1.1
"""What one pair of round brackets multiplies a weight by, and one pair of square brackets divides it by."""

WEIGHT_LIMIT = 10.0
"""Largest weight. Embeddings scaled further lie so far from any the model was trained on that it draws
noise."""

NESTING_LIMIT = 32
"""Brackets open at once. Round ones alone exceed `WEIGHT_LIMIT` at 25; more only costs time."""

_BRACKET_HINT = r"Use a weight such as (piano:1.5), or write \( and \) for brackets that are text"

_SYNTAX = re.compile(
    r"""
      \\(?P<escaped>[()\[\]\\])
    | :\s*(?P<weight>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*\)
    | (?P<bracket>[()\[\]])
    """,
    re.VERBOSE,
)


def parse_weights(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into spans that share a weight, in order.

    ``(x)`` weighs x 1.1 times as much, ``[x]`` 1.1 times less, ``(x:1.5)`` 1.5 times; brackets nest and
    multiply. ``\(``, ``\)``, ``\[``, ``\]`` and ``\\`` stand for the characters themselves. An opening
    bracket that is never closed reaches to the end of the prompt; a closing one that was never opened is
    text, and so is a colon with a number outside round brackets. The syntax is the one users of Stable
    Diffusion know.

    Returns:
        At least one ``(text, weight)``. Neighbours of equal weight are one span; a prompt without text is
        ``("", 1.0)``.

    Raises:
        RequestError: a weight lies outside 0 to 10, after nesting, or brackets nest more than 32 deep.
    """
    spans: list[tuple[str, float]] = []
    round_starts: list[int] = []
    square_starts: list[int] = []

    def weigh(start: int, factor: float) -> None:
        spans[start:] = [(words, weight * factor) for words, weight in spans[start:]]

    def append(words: str) -> None:
        if words:
            spans.append((words, 1.0))

    position = 0
    for match in _SYNTAX.finditer(text):
        append(text[position : match.start()])
        position = match.end()
        bracket = match["bracket"]
        if match["escaped"]:
            append(match["escaped"])
        elif match["weight"] and round_starts:
            weigh(round_starts.pop(), float(match["weight"]))
        elif bracket == "(":
            round_starts.append(len(spans))
        elif bracket == "[":
            square_starts.append(len(spans))
        elif bracket == ")" and round_starts:
            weigh(round_starts.pop(), EMPHASIS)
        elif bracket == "]" and square_starts:
            weigh(square_starts.pop(), 1 / EMPHASIS)
        else:
            append(match[0])
        if len(round_starts) + len(square_starts) > NESTING_LIMIT:
            raise RequestError(
                f"Brackets in the prompt are nested more than {NESTING_LIMIT} deep",
                hint=_BRACKET_HINT,
            )
    append(text[position:])

    for start in round_starts:
        weigh(start, EMPHASIS)
    for start in square_starts:
        weigh(start, 1 / EMPHASIS)
    merged = _merge(spans)
    for words, weight in merged:
        _check_weight(words, weight)
    return merged


def _merge(spans: list[tuple[str, float]]) -> list[tuple[str, float]]:
    merged = [
        ("".join(words for words, _ in group), weight)
        for weight, group in groupby(spans, key=lambda span: span[1])
    ]
    return merged or [("", 1.0)]


def _check_weight(words: str, weight: float) -> None:
    if math.isfinite(weight) and 0.0 <= weight <= WEIGHT_LIMIT:
        return
    shown = " ".join(words.split())
    shown = shown if len(shown) <= 40 else f"{shown[:39]}…"
    hint = "To steer away from something, put it into the negative prompt" if weight < 0 else _BRACKET_HINT
    raise RequestError(
        f'The weight {weight:g} of "{shown}" in the prompt is outside 0 to {WEIGHT_LIMIT:g}', hint=hint
    )
