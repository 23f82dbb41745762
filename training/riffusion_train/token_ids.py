"""Captions in, a text encoder's token ids out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import CLIPTokenizer


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (n, 77) of ``captions``."""
    ids: Tensor = tokenizer(
        list(captions), padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    return ids
