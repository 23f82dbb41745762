"""--precision promises one type for each graph, and names what it does not know."""

from __future__ import annotations

import pytest

from riffusion_engine.errors import ExportError
from riffusion_export.precision import GRAPHS, Precision, parse_precisions


def test_one_type_is_for_all_graphs() -> None:
    assert parse_precisions("fp16") == dict.fromkeys(GRAPHS, Precision("float16", "float16"))


def test_graphs_left_out_compute_in_float32() -> None:
    chosen = parse_precisions("unet=float16, text_encoder=auto")
    assert [chosen[name].compute for name in GRAPHS] == ["auto", "float16", "float32", "float32"]


def test_a_lone_type_in_a_list_is_for_the_rest_and_vae_is_both_halves() -> None:
    chosen = parse_precisions("vae=fp32,half")
    assert [chosen[name].compute for name in GRAPHS] == ["float16", "float16", "float32", "float32"]


def test_bfloat16_graphs_keep_bfloat16_weights_and_the_others_theirs() -> None:
    chosen = parse_precisions("unet=bf16")
    assert chosen["unet"] == Precision("bfloat16", "bfloat16")
    assert chosen["vae_decoder"] == Precision("float32", "float16")


@pytest.mark.parametrize(
    ("precision", "weights", "said"),
    [
        ("int8", "float16", "--precision cannot be 'int8'"),
        ("float32", "int8", "--weights cannot be 'int8'"),
        ("float32", "auto", "--weights cannot be 'auto'"),
        ("vocoder=float16", "float16", "a graph 'vocoder' that there is not"),
        ("unet=", "float16", "cannot be ''"),
        ("float16", "float32", "no use for float32 weights"),
        ("auto", "float32", "no use for float32 weights"),
        ("float16", "bfloat16", "no use for bfloat16 weights"),
        ("unet=bf16", "float32", "no use for float32 weights"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(precision: str, weights: str, said: str) -> None:
    with pytest.raises(ExportError, match=said) as caught:
        parse_precisions(precision, weights)
    assert caught.value.hint
