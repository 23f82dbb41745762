"""Text in, token ids out: the bundle's CLIP vocabulary, cut into chunks of the text encoder's length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import BundleError, RequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_LENGTH = 77
"""Positions of CLIP's text encoder, where the bundle does not state another number."""

CHUNK_LIMIT = 64
"""Chunks a prompt may fill, 4,800 tokens: every chunk costs a pass of the text encoder and lengthens each
cross-attention of the denoiser."""

_DEFAULT_TOKENS = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
"""CLIP's, as transformers assumes them for a CLIPTokenizer whose files name none."""

_EXPORT_HINT = "Export the checkpoint again with `riffusion-rt export CHECKPOINT -o BUNDLE`"


@dataclass(frozen=True)
class TokenChunks:
    """A prompt as the text encoder takes it."""

    ids: NDArray[np.int64]
    """(chunks, chunk length): start token, up to 75 tokens of text, end token, padding."""
    weights: NDArray[np.float32]
    """Same shape: each token's weight; 1 for start, end and padding."""

    def __len__(self) -> int:
        return len(self.ids)


class PromptTokenizer:
    """CLIP's tokenizer read from a bundle: same ids as ``transformers.CLIPTokenizer`` on the same files."""

    def __init__(self, tokenizer: Tokenizer, *, start: int, end: int, pad: int, chunk_length: int) -> None:
        self._tokenizer = tokenizer
        self.start_id = start
        self.end_id = end
        self.pad_id = pad
        self.chunk_length = chunk_length
        """Tokens in a chunk, start and end token counted."""

    @classmethod
    def from_bundle(cls, bundle: Path) -> PromptTokenizer:
        """Read ``tokenizer/`` of a bundle: tokenizer.json and the settings beside it.

        Raises:
            BundleError: a file is missing or unreadable, or a special token is not in the vocabulary.
        """
        from tokenizers import AddedToken, Tokenizer

        folder = bundle / "tokenizer"
        settings = _settings(folder)
        try:
            tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
        except FileNotFoundError as error:
            raise BundleError(f"{bundle} has no tokenizer/tokenizer.json", hint=_EXPORT_HINT) from error
        except Exception as error:  # the tokenizers library raises bare Exception on bad JSON
            raise BundleError(
                f"Cannot read {folder / 'tokenizer.json'}: {error}", hint=_EXPORT_HINT
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()

        ids: dict[str, int] = {}
        for role, token in settings.tokens.items():
            number = tokenizer.token_to_id(token)
            if number is None:
                raise BundleError(
                    f"The {role} {token!r} of {folder} is not in its vocabulary", hint=_EXPORT_HINT
                )
            ids[role] = number
            # transformers does the same, which changes ids where the padding token is an ordinary one ("!").
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        return cls(
            tokenizer,
            start=ids["bos_token"],
            end=ids["eos_token"],
            pad=ids["pad_token"],
            chunk_length=settings.chunk_length,
        )

    def ids(self, text: str) -> list[int]:
        """Token ids of plain text, without start and end token. Brackets are text here.

        Raises:
            RequestError: the text holds half a surrogate pair, which is no Unicode character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"Character {error.start + 1} of the prompt is not valid Unicode",
                hint="Type the prompt again, or save it as UTF-8",
            ) from error
        encoded: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return encoded

    def chunks(self, spans: Sequence[tuple[str, float]]) -> TokenChunks:
        """Lay weighted text, from `riffusion_rt.prompt.parse_weights`, out in chunks of 75 tokens.

        A prompt without tokens is one chunk of start, end and padding.

        Raises:
            RequestError: the text is not valid Unicode, or longer than `CHUNK_LIMIT` chunks.
        """
        tokens: list[int] = []
        weights: list[float] = []
        for text, weight in spans:
            span = self.ids(text)
            tokens += span
            weights += [weight] * len(span)

        room = self.chunk_length - 2
        count = max(1, -(-len(tokens) // room))
        if count > CHUNK_LIMIT:
            raise RequestError(
                f"The prompt is {len(tokens):,} tokens long; at most {CHUNK_LIMIT * room:,} fit",
                hint="Shorten it: the first words matter most",
            )
        id_rows = np.full((count, self.chunk_length), self.pad_id, dtype=np.int64)
        weight_rows = np.ones((count, self.chunk_length), dtype=np.float32)
        id_rows[:, 0] = self.start_id
        for row in range(count):
            piece = slice(row * room, (row + 1) * room)
            length = len(tokens[piece])
            id_rows[row, 1 : 1 + length] = tokens[piece]
            id_rows[row, 1 + length] = self.end_id
            weight_rows[row, 1 : 1 + length] = weights[piece]
        return TokenChunks(ids=id_rows, weights=weight_rows)


@dataclass(frozen=True)
class _Settings:
    tokens: dict[str, str]
    chunk_length: int


def _settings(folder: Path) -> _Settings:
    """What the two settings files say, read in transformers' order of precedence."""
    config = _read_json(folder / "tokenizer_config.json")
    stated = dict(config)
    if "added_tokens_decoder" not in config:
        stated |= _read_json(folder / "special_tokens_map.json")
    tokens = {role: _token_text(stated.get(role) or default) for role, default in _DEFAULT_TOKENS.items()}
    length = config.get("model_max_length")
    # Checkpoints saved without a length state a huge number in its place.
    if not isinstance(length, int) or not 3 <= length <= 4096:
        length = CHUNK_LENGTH
    return _Settings(tokens=tokens, chunk_length=length)


def _token_text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) and "content" in token else token)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BundleError(f"Cannot read {path}: {error}", hint=_EXPORT_HINT) from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds no settings", hint=_EXPORT_HINT)
    return content
