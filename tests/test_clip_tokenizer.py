"""A vocabulary learnt here is a CLIP vocabulary to everyone who reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import CLIPTokenizer

from riffusion_export.clip_tokenizer import END, MAX_LENGTH, SMALLEST_VOCABULARY, START, write_clip_tokenizer

CORPUS = [
    f"{mood} {sound}" for mood in ("funky", "slow", "jazzy") for sound in ("piano", "bells", "guitar solo")
]
HOSTILE = [
    "",
    " \t\n ",
    "FUNKY  Piano!!",
    "don't we'll I'M 's 't",
    "naïve cafe\u0301 ﬁ İstanbul ẞ ǅ",
    "日本語の音楽 🎹👩‍👩‍👧👍🏽🇩🇪",
    "\x00\x01\u200b\u00a0\u3000\u2028",
    f"a{END}b {START.upper()} {END[:-1]}",
    "١٢٣ 123 ½ Ⅳ 120bpm",
    "piano " * 300,
    "x" * 1000,
    "Ω≈ç√∫˜µ≤≥÷",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_clip_tokenizer(folder, CORPUS, 600)
    return folder


@pytest.mark.parametrize("prompt", HOSTILE)
def test_transformers_and_tokenizers_give_the_same_ids(prompt: str, folder: Path) -> None:
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert ours.encode(prompt).ids == CLIPTokenizer.from_pretrained(folder)(prompt).input_ids


@pytest.mark.parametrize("prompt", HOSTILE)
def test_no_text_is_out_of_vocabulary(prompt: str, folder: Path) -> None:
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = prompt.lower().replace(START, "").replace(END, "")
    assert END not in ours.encode(text, add_special_tokens=False).tokens


def test_words_of_the_corpus_become_one_token(folder: Path) -> None:
    ours = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert ours.encode("Funky PIANO").tokens == [START, "funky</w>", "piano</w>", END]


def test_the_special_tokens_are_the_last_two(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (len(vocabulary) - 2, len(vocabulary) - 1)
    assert tokenizer.pad_token == END
    assert tokenizer.model_max_length == MAX_LENGTH


def test_the_same_corpus_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_clip_tokenizer(tmp_path, CORPUS, 600)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [SMALLEST_VOCABULARY, SMALLEST_VOCABULARY + 3])
def test_the_vocabulary_keeps_to_its_size(size: int, tmp_path: Path) -> None:
    assert write_clip_tokenizer(tmp_path, CORPUS, size) == size
    assert len(json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))) == size


def test_a_size_without_room_for_all_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(SMALLEST_VOCABULARY)):
        write_clip_tokenizer(tmp_path / "none", CORPUS, SMALLEST_VOCABULARY - 1)
    assert not (tmp_path / "none").exists()
