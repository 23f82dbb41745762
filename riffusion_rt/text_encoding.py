"""Prompts in, the embeddings the denoiser attends to out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import NumericsError
from riffusion_rt.prompt import WEIGHT_LIMIT, parse_weights
from riffusion_rt.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from riffusion_engine.session import Session

MEANINGLESS_MEAN = 1e-5
"""Below this share of the embedding's RMS its mean is float32 rounding, and there is nothing to restore."""


def encode_prompt(session: Session, tokenizer: PromptTokenizer, prompt: str) -> NDArray[np.float32]:
    """Embeddings of one prompt, (tokens, width); 77 tokens for every started 75 of text.

    See `encode_prompts`.
    """
    embeddings: NDArray[np.float32] = encode_prompts(session, tokenizer, [prompt])[0]
    return embeddings


def encode_prompts(
    session: Session, tokenizer: PromptTokenizer, prompts: Sequence[str]
) -> NDArray[np.float32]:
    """Embeddings of several prompts, (prompts, tokens, width), in one run of the text encoder.

    Shorter prompts are filled up with chunks of the empty prompt, so that all can share a batch: for guidance
    pass ``[negative, positive]``. A chunk that occurs twice is encoded once.

    Weighted tokens are scaled, and then the whole chunk so that its mean is what it was: emphasis moves
    within a prompt without making all of it louder (AUTOMATIC1111's rule, which Riffusion follows).

    Args:
        session: the bundle's ``text_encoder``.
        prompts: at least one, with or without weights.

    Raises:
        RequestError: a weight is out of range, or a prompt too long or not Unicode.
        NumericsError: the text encoder returned NaN or infinity.
    """
    laid_out = [tokenizer.chunks(parse_weights(prompt)) for prompt in prompts]
    count = max(len(chunks) for chunks in laid_out)
    empty = tokenizer.chunks([])
    ids = np.concatenate(
        [rows for chunks in laid_out for rows in (chunks.ids, *[empty.ids] * (count - len(chunks)))]
    )
    weights = np.concatenate(
        [rows for chunks in laid_out for rows in (chunks.weights, *[empty.weights] * (count - len(chunks)))]
    )
    distinct, position = np.unique(ids, axis=0, return_inverse=True)
    encoded = _run(session, distinct)[position.reshape(-1)]
    weighted = _apply_weights(encoded, weights)
    return weighted.reshape(len(laid_out), count * tokenizer.chunk_length, -1)


def _run(session: Session, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """One batched call: (chunks, chunk length) ids to (chunks, chunk length, width)."""
    declared = session.graph.inputs[0]
    encoded = session.run({declared.name: ids.astype(declared.dtype)})["last_hidden_state"]
    encoded = np.asarray(encoded, dtype=np.float32)
    if not np.isfinite(encoded).all():
        raise NumericsError(
            "The text encoder returned NaN or infinity",
            hint="Try another --device, or export the checkpoint again in float32",
        )
    return encoded


def _apply_weights(encoded: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale tokens by their weight, and each chunk touched back to its mean. The others stay bit for bit."""
    touched = (weights != 1).any(axis=1)
    if not touched.any():
        return encoded
    result = encoded.copy()
    before, scale = encoded[touched].astype(np.float64), weights[touched].astype(np.float64)
    after = before * scale[:, :, None]
    ratio = _restoring_ratio(before, after, scale)
    result[touched] = (after * ratio[:, None, None]).astype(np.float32)
    return result


def _restoring_ratio(
    before: NDArray[np.float64], after: NDArray[np.float64], scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The factor that gives each chunk its mean back, at most what the strongest weight did to a token.

    The quotient of the means lies within that bound while the tokens' means are of one sign. Where signs mix,
    the weighted mean may come near zero, and the bare quotient would blow the chunk up.
    """
    mean_before, mean_after = before.mean(axis=(1, 2)), after.mean(axis=(1, 2))
    rms = np.sqrt(np.square(before).mean(axis=(1, 2)))
    restorable = (np.abs(mean_before) > MEANINGLESS_MEAN * rms) & (mean_after != 0)
    ratio = np.divide(mean_before, mean_after, out=np.ones_like(mean_before), where=restorable)
    bound = np.maximum(scale.max(axis=1), 1 / np.maximum(scale.min(axis=1), 1 / WEIGHT_LIMIT))
    bounded: NDArray[np.float64] = np.clip(ratio, 1 / bound, bound)
    return bounded
