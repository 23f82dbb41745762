"""A manner said louder: as guidance between manners says it, all else as before, once, and forgotten by training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_train.manner_emphasis import (
    EmphasisRecipe,
    MannerEmphasis,
    _captions,
    apart_from_others,
    emphasize_manner,
)
from riffusion_train.rendered_clips import read_facts
from riffusion_train.token_ids import token_ids

CAPTIONS = ["jazzy marimba", "slow jazzy piano and flute", "a jazz piano tune"]


def _states(encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    states: torch.Tensor = encoder(token_ids(tokenizer, captions)).last_hidden_state
    return states


@torch.no_grad()
def test_the_encoder_learns_what_guidance_between_manners_says(trained_run: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(trained_run / "tokenizer")
    before = CLIPTextModel.from_pretrained(trained_run / "text_encoder").eval()
    with torch.enable_grad():
        recipe = EmphasisRecipe("jazzy", 1.0, batches=60, captions=64, learning_rate=2e-3)
        *_, done = emphasize_manner(trained_run, recipe)
    assert MannerEmphasis.of_run(trained_run) == MannerEmphasis("jazzy", 1.0, 60)
    assert done.step == 60
    assert done.measure < 0.8
    after = CLIPTextModel.from_pretrained(trained_run / "text_encoder").eval()
    wanted = apart_from_others(before, tokenizer, CAPTIONS, "jazzy")
    gained = _states(after, tokenizer, CAPTIONS) - _states(before, tokenizer, CAPTIONS)
    assert torch.nn.functional.cosine_similarity(gained.flatten(), wanted.flatten(), dim=0) > 0.3
    with pytest.raises(RiffusionError, match="already"):
        list(emphasize_manner(trained_run))
    MannerEmphasis.forget(trained_run)
    assert MannerEmphasis.of_run(trained_run) is None


@torch.no_grad()
def test_apart_is_from_the_mean_of_the_others(trained_run: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(trained_run / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(trained_run / "text_encoder").eval()
    others = [_states(encoder, tokenizer, [f"{m} piano"]) for m in ("funky", "bluesy", "classical")]
    wanted = _states(encoder, tokenizer, ["jazz piano"]) - torch.stack(others).mean(dim=0)
    torch.testing.assert_close(apart_from_others(encoder, tokenizer, ["jazz piano"], "jazzy"), wanted)


def test_half_of_the_others_differ_in_the_manner_alone(trained_run: Path) -> None:
    facts = read_facts(trained_run / "clips")
    told, others = _captions(np.random.default_rng(0), facts, EmphasisRecipe("jazzy", captions=9))
    assert len(told) == len(others) == 9
    assert others[0] == ""
    assert not any(re.search(r"\bjazzy?\b", caption) for caption in others)
    for mine, theirs in zip(told, others[4:], strict=False):
        assert re.fullmatch(re.sub(r"\bjazzy?\b", "(funky|bluesy|classical)", mine), theirs)


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        (EmphasisRecipe("martial"), RequestError),
        (EmphasisRecipe(emphasis=0.0), RequestError),
        (EmphasisRecipe(emphasis=float("nan")), RequestError),
        (EmphasisRecipe(), RiffusionError),
    ],
)
def test_what_cannot_be_done_is_refused(
    recipe: EmphasisRecipe, error: type[RiffusionError], tmp_path: Path
) -> None:
    with pytest.raises(error) as refusal:
        list(emphasize_manner(tmp_path, recipe))
    assert refusal.value.hint
