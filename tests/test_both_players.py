"""A text encoder learns to say of two players what it says of each, of pairs that it was never shown, too."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from riffusion_train.both_players import apart_from_both

BEGIN, END = 0, 1
WORDS = ["and", "with", "piano", "drums", "flute", "organ"]
LENGTH = 10


def token_ids(texts: Sequence[str]) -> Tensor:
    rows = [[BEGIN, *(2 + WORDS.index(word) for word in text.split())] for text in texts]
    return torch.tensor([row + [END] * (LENGTH - len(row)) for row in rows])


@pytest.fixture
def encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=2 + len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=BEGIN,
            eos_token_id=END,
            pad_token_id=END,
        )
    )


def test_what_is_learned_of_some_pairs_holds_for_another(encoder: CLIPTextModel) -> None:
    seen = [
        ("piano", "drums"),
        ("piano", "flute"),
        ("organ", "flute"),
        ("organ", "piano"),
        ("drums", "organ"),
    ]
    unseen = [("flute", "drums"), ("drums", "flute")]
    before = float(apart_from_both(encoder, token_ids, unseen).detach())
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=3e-3)
    for _ in range(80):
        loss = apart_from_both(encoder, token_ids, [*seen, *((other, one) for one, other in seen)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(apart_from_both(encoder, token_ids, seen).detach()) < 0.1
    assert float(apart_from_both(encoder, token_ids, unseen).detach()) < 0.5 * before


def test_words_themselves_are_left_free(encoder: CLIPTextModel) -> None:
    states: list[Tensor] = []
    encoder.register_forward_hook(lambda module, inputs, output: states.append(output.last_hidden_state))
    apart = apart_from_both(encoder, token_ids, [("piano", "drums")])
    (gradient,) = torch.autograd.grad(apart, states[-1])
    end = 4  # after begin, piano, and, drums
    assert gradient.shape == (1, LENGTH, 16)
    assert not gradient[0, : end + 1].any()
    assert gradient[0, end + 1 :].any()
