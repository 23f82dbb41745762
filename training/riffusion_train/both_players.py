"""Two players' captions in, how far a text encoder is from saying of both together what it says of each alone.

A text encoder that learns from few duos learns who plays with whom: of a pair that never came, it forgets one player
before the UNet hears of it. It is asked for the plainest rule instead, which holds for pairs that it has not seen: what
its states gain by a caption of both points to where the gains by each point together. (States behind the words, that
is, which are most of a prompt's 77; those of the words themselves stay free.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

JOINERS = (" and ", " with ")


def apart_from_both(
    encoder: CLIPTextModel, token_ids: Callable[[Sequence[str]], Tensor], pairs: Sequence[tuple[str, str]]
) -> Tensor:
    """1 minus the mean cosine, 0 for an encoder that keeps to the rule for all ``pairs`` of captions.

    The gradient moves what is said of both alone; each player's own states are left as they are.
    """
    joined = [one + JOINERS[i % len(JOINERS)] + other for i, (one, other) in enumerate(pairs)]
    ids = token_ids(joined)
    with torch.no_grad():
        alone = encoder(token_ids(["", *(one for one, _ in pairs), *(other for _, other in pairs)]))
        nothing, first, second = alone.last_hidden_state.float().split([1, len(pairs), len(pairs)])
        wanted = first + second - 2 * nothing
    gained = encoder(ids).last_hidden_state.float() - nothing
    behind = torch.arange(ids.shape[1]) > _last_word(ids, encoder.config.eos_token_id)[:, None]
    return 1 - nn.functional.cosine_similarity(gained, wanted, dim=-1)[behind].mean()


def _last_word(ids: Tensor, end: int) -> Tensor:
    """Where the first end token of each row stands, (n,)."""
    return (ids == end).int().argmax(dim=1)
