"""The tokenizer promises transformers' ids and the text encoder's layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from riffusion_engine.errors import BundleError, RequestError
from riffusion_export.clip_tokenizer import write_clip_tokenizer
from riffusion_rt.prompt import parse_weights
from riffusion_rt.tokenizer import CHUNK_LIMIT, PromptTokenizer

CORPUS = [
    "funky piano",
    "jazz saxophone solo",
    "church bells on a sunday morning, electronic beats",
    "blues guitar don't stop, we're playing 120 bpm",
    "typewriter taps and acoustic guitar strings",
]

HOSTILE = {
    "plain": "funky piano",
    "empty": "",
    "blank": "   \t\n  ",
    "mixed case": "FuNkY PiAnO SOLO ÀÉÎ İstanbul ẞ ΣΑΣ",
    "300 words": " ".join(f"word{index} piano" for index in range(150)),
    "emoji": "🎹🎷 👩‍🎤 👨🏽‍🎤 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☃️",
    "control characters": "a\x00b\x07c\x1b[31m \x7f \x85 d\u2028e\u200bf\ufeffg",
    "combining marks": "e\u0301 a\u030a\u0323 Z\u0351\u036b\u0343\u036a o\u0308 n\u0303\u0303\u0303",
    "composed and not": "caf\u00e9 cafe\u0301 \ufb01 \u212b \u1e9b\u0323",
    "cjk": "爵士钢琴 ピアノ 재즈 피아노",
    "other scripts": "джаз تحت الماء नमस्ते ภาษาไทย",
    "very long word": "piano" * 400,
    "punctuation": "!!! ... don't we're I'll 's'T -- a,b;c (x:1.5) [y] \\( \"quoted\" #1",
    "numbers": "120bpm 4/4 1,000.50 ٣ ½ ²",
    "special tokens": "a <|endoftext|> b <|startoftext|>c <|ENDOFTEXT|> <|endoftext|",
    "word ends": "</w> a</w>",
    "odd spaces": "a\u00a0b\u3000c\u2003d \r\n e",
    "outside the first plane": "𝔣𝔲𝔫𝔨𝔶 𝓟𝓲𝓪𝓷𝓸 𐍈",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_clip_tokenizer(folder / "tokenizer", CORPUS, 640)
    return folder


@pytest.fixture(scope="module")
def tokenizer(bundle: Path) -> PromptTokenizer:
    return PromptTokenizer.from_bundle(bundle)


@pytest.fixture(scope="module")
def reference(bundle: Path) -> Any:
    return _reference(bundle)


def _reference(bundle: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(bundle / "tokenizer")


def _with_settings(bundle: Path, into: Path, name: str, **changes: Any) -> Path:
    shutil.copytree(bundle / "tokenizer", into / "tokenizer")
    path = into / "tokenizer" / name
    stated = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in stated.items() if value is not None}))
    return into


@pytest.mark.parametrize("prompt", HOSTILE.values(), ids=HOSTILE)
def test_ids_equal_those_of_transformers(prompt: str, tokenizer: PromptTokenizer, reference: Any) -> None:
    expected = reference(prompt, verbose=False).input_ids
    assert [tokenizer.start_id, *tokenizer.ids(prompt), tokenizer.end_id] == expected


@settings(max_examples=200, deadline=None)
@given(prompt=st.text())
def test_any_text_gets_the_ids_of_transformers(
    prompt: str, tokenizer: PromptTokenizer, reference: Any
) -> None:
    assert tokenizer.ids(prompt) == reference(prompt, verbose=False, add_special_tokens=False).input_ids


@pytest.mark.parametrize("prompt", ["", "funky piano", "piano " * 75])
def test_a_chunk_is_laid_out_as_stable_diffusion_does(
    prompt: str, tokenizer: PromptTokenizer, reference: Any
) -> None:
    expected = reference(prompt, padding="max_length", truncation=True, max_length=77).input_ids
    chunks = tokenizer.chunks([(prompt, 1.0)])
    np.testing.assert_array_equal(chunks.ids, [expected])


def test_long_prompts_are_cut_into_chunks_that_lose_nothing(tokenizer: PromptTokenizer) -> None:
    prompt = " ".join(f"word{index} piano" for index in range(150))
    tokens = tokenizer.ids(prompt)
    chunks = tokenizer.chunks([(prompt, 1.0)])
    assert len(chunks) == -(-len(tokens) // 75) > 1
    assert chunks.ids.shape == chunks.weights.shape == (len(chunks), 77)
    assert (chunks.ids[:, 0] == tokenizer.start_id).all()
    assert (chunks.ids[:-1, 76] == tokenizer.end_id).all()
    last = len(tokens) - 75 * (len(chunks) - 1)
    text = [*chunks.ids[:-1, 1:76].ravel(), *chunks.ids[-1, 1 : 1 + last]]
    assert text == tokens
    assert (chunks.ids[-1, 1 + last :] == tokenizer.end_id).all()


@pytest.mark.parametrize(("words", "chunks"), [(75, 1), (76, 2), (150, 2), (151, 3)])
def test_seventy_five_tokens_fill_a_chunk(words: int, chunks: int, tokenizer: PromptTokenizer) -> None:
    assert len(tokenizer.ids("piano")) == 1
    assert len(tokenizer.chunks([("piano " * words, 1.0)])) == chunks


def test_weights_follow_their_words(tokenizer: PromptTokenizer) -> None:
    spans = parse_weights("funky (piano solo:1.5) [bass]")
    chunks = tokenizer.chunks(spans)
    expected = [1.0]
    for text, weight in spans:
        expected += [weight] * len(tokenizer.ids(text))
    np.testing.assert_allclose(chunks.weights[0, : len(expected)], expected)
    assert (chunks.weights[0, len(expected) :] == 1).all()
    assert (chunks.ids[0] == tokenizer.chunks([("funky piano solo bass", 1.0)]).ids[0]).all()


def test_weights_follow_their_words_into_the_next_chunk(tokenizer: PromptTokenizer) -> None:
    chunks = tokenizer.chunks([("piano " * 70, 1.0), ("piano " * 10, 2.0)])
    assert (chunks.weights[0, 71:76] == 2).all()
    assert (chunks.weights[1, 1:6] == 2).all()
    assert chunks.weights.sum() == 2 * 77 + 10


def test_a_prompt_without_end_is_refused(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(RequestError, match="tokens long"):
        tokenizer.chunks([("piano " * (75 * CHUNK_LIMIT + 1), 1.0)])


def test_half_a_surrogate_pair_is_refused_before_native_code(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(RequestError, match="Character 3 of the prompt is not valid Unicode"):
        tokenizer.ids("ab\ud83c")


@pytest.mark.parametrize("form", ["!", {"content": "!", "lstrip": False, "normalized": True}])
def test_the_special_tokens_map_names_the_padding_as_transformers_reads_it(
    form: Any, bundle: Path, tmp_path: Path
) -> None:
    changed = _with_settings(bundle, tmp_path, "special_tokens_map.json", pad_token=form)
    tokenizer, reference = PromptTokenizer.from_bundle(changed), _reference(changed)
    assert tokenizer.pad_id == reference.pad_token_id != tokenizer.end_id
    prompt = "funky! piano !"
    expected = reference(prompt, padding="max_length", truncation=True, max_length=77).input_ids
    np.testing.assert_array_equal(tokenizer.chunks([(prompt, 1.0)]).ids, [expected])


def test_missing_settings_mean_clips_defaults(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "special_tokens_map.json").unlink()
    (tmp_path / "tokenizer" / "tokenizer_config.json").unlink()
    expected, found = PromptTokenizer.from_bundle(bundle), PromptTokenizer.from_bundle(tmp_path)
    assert found.chunk_length == 77
    assert (found.start_id, found.end_id, found.pad_id) == (
        expected.start_id,
        expected.end_id,
        expected.pad_id,
    )


@pytest.mark.parametrize(("stated", "length"), [(16, 16), (10**30, 77), (None, 77)])
def test_the_chunk_length_is_the_bundles(
    stated: int | None, length: int, bundle: Path, tmp_path: Path
) -> None:
    changed = _with_settings(bundle, tmp_path, "tokenizer_config.json", model_max_length=stated)
    assert PromptTokenizer.from_bundle(changed).chunks([("", 1.0)]).ids.shape == (1, length)


def test_truncation_and_padding_saved_by_other_tools_do_not_shorten_prompts(
    bundle: Path, tmp_path: Path
) -> None:
    shutil.copytree(bundle / "tokenizer", tmp_path / "tokenizer")
    from tokenizers import Tokenizer

    path = str(tmp_path / "tokenizer" / "tokenizer.json")
    saved = Tokenizer.from_file(path)
    saved.enable_truncation(8)
    saved.enable_padding(length=8)
    saved.save(path)
    assert len(PromptTokenizer.from_bundle(tmp_path).ids("piano " * 20)) == 20


def test_broken_tokenizer_files_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no tokenizer/tokenizer\.json"):
        PromptTokenizer.from_bundle(tmp_path)
    changed = _with_settings(bundle, tmp_path, "special_tokens_map.json", pad_token="<pad>")
    with pytest.raises(BundleError, match="pad_token '<pad>'"):
        PromptTokenizer.from_bundle(changed)
    path = changed / "tokenizer" / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"Cannot read .*tokenizer\.json"):
        PromptTokenizer.from_bundle(changed)
    (changed / "tokenizer" / "tokenizer_config.json").write_text("{")
    with pytest.raises(BundleError, match=r"Cannot read .*tokenizer_config\.json"):
        PromptTokenizer.from_bundle(changed)
