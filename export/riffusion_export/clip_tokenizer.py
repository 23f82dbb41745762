"""Example prompts in, a CLIP tokenizer folder out: byte-level BPE laid out as published checkpoints are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
MAX_LENGTH = 77
"""Tokens in one chunk, both special tokens counted: the text encoder's fixed length."""
SMALLEST_VOCABULARY = 2 * 256 + 2
"""Each byte inside a word and at its end, plus the two special tokens: no text is out of vocabulary."""

# How CLIP cuts a lowercased text into words (Radford et al. 2021, section 2.4 and their released tokenizer):
# specials, English contractions, runs of letters, single digits, runs of anything else.
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_clip_tokenizer(folder: Path, corpus: Iterable[str], vocab_size: int) -> int:
    """Learn a byte-level BPE from ``corpus`` and write it as CLIPTokenizer and ``tokenizers`` read it.

    The vocabulary is ordered as CLIP's: 256 bytes, the same 256 at a word's end, merges by rank, then
    ``<|startoftext|>`` and ``<|endoftext|>`` as the last two ids. Padding is ``<|endoftext|>``, length 77.
    The same corpus gives the same files.

    Args:
        folder: receives tokenizer.json, vocab.json, merges.txt and the two JSON files of settings.
        corpus: prompts; each may be any length.
        vocab_size: ids at most, at least 514. A small corpus may run out of pairs to merge before that.

    Returns:
        The number of ids: the ``vocab_size`` of the text encoder's configuration.

    Raises:
        ValueError: ``vocab_size`` is below 514.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(f"A CLIP vocabulary holds at least {SMALLEST_VOCABULARY} ids, not {vocab_size}")
    vocabulary, merges = _learn(corpus, vocab_size)
    tokenizer = _clip_pipeline(vocabulary, merges)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    merge_lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(merge_lines) + "\n", encoding="utf-8")
    _write_json(folder / "vocab.json", vocabulary)
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    _write_json(folder / "special_tokens_map.json", special)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_LENGTH,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        **special,
    }
    _write_json(folder / "tokenizer_config.json", config)
    return len(vocabulary)


def _learn(corpus: Iterable[str], vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer, models, trainers

    alphabet = _byte_alphabet()
    word_ends = [letter + WORD_END for letter in alphabet]
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    learner.normalizer = _normalizer()
    learner.pre_tokenizer = _pre_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        initial_alphabet=alphabet,
        # Ties between pairs go to the lower ids. Word ends would get theirs in the order of a hash map; named
        # beforehand they get the same ones every time.
        special_tokens=word_ends,
        end_of_word_suffix=WORD_END,
    )
    learner.train_from_iterator(corpus, trainer=trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]

    vocabulary = {token: index for index, token in enumerate([*alphabet, *word_ends])}
    merges: list[tuple[str, str]] = []
    for left, right in learned:
        if len(vocabulary) == vocab_size - 2:
            break
        vocabulary.setdefault(left + right, len(vocabulary))
        merges.append((left, right))
    for token in (START, END):
        vocabulary[token] = len(vocabulary)
    return vocabulary, merges


def _clip_pipeline(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=list(merges),
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=END,
        )
    )
    tokenizer.normalizer = _normalizer()
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]), (START, vocabulary[START]), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (START, END)]
    )
    return tokenizer


def _normalizer() -> Normalizer:
    from tokenizers import Regex, normalizers

    return normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )


def _pre_tokenizer() -> PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes, in CLIP's order: Latin-1, then the rest from U+0100."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = 256 - len(printable)
    return [chr(code) for code in printable] + [chr(0x100 + index) for index in range(others)]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
