"""Text encoding promises CLIP's embeddings, weights that keep the mean, and prompts that batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_export.clip_tokenizer import write_clip_tokenizer
from riffusion_rt.text_encoding import encode_prompt, encode_prompts
from riffusion_rt.tokenizer import PromptTokenizer

WIDTH = 12
LONG = " ".join(["piano bells guitar"] * 40)


@dataclass(frozen=True)
class _Input:
    name: str = "input_ids"
    dtype: str = "int64"


@dataclass(frozen=True)
class _Graph:
    inputs: tuple[_Input, ...] = (_Input(),)


@dataclass
class TableSession:
    """A text encoder that looks every id up in a fixed table and counts its calls."""

    offset: float = 1.0
    graph: Any = field(default_factory=_Graph)
    calls: list[NDArray[Any]] = field(default_factory=list)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        ids = feeds["input_ids"]
        self.calls.append(ids)
        table = np.random.default_rng(1).normal(self.offset, 1.0, (1024, WIDTH)).astype(np.float32)
        return {"last_hidden_state": table[ids], "pooler_output": table[ids[:, -1]]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    folder = tmp_path_factory.mktemp("bundle")
    write_clip_tokenizer(folder / "tokenizer", ["funky piano", "church bells", "blues guitar"], 600)
    return PromptTokenizer.from_bundle(folder)


def encode(session: Any, tokenizer: PromptTokenizer, *prompts: str) -> NDArray[np.float32]:
    return encode_prompts(session, tokenizer, prompts)


def test_unweighted_embeddings_are_the_encoders_own(tokenizer: PromptTokenizer) -> None:
    session = TableSession()
    found = encode_prompt(session, tokenizer, "funky piano")
    expected = session.run({"input_ids": tokenizer.chunks([("funky piano", 1.0)]).ids})["last_hidden_state"]
    np.testing.assert_array_equal(found, expected[0])
    assert found.shape == (77, WIDTH)
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_ids_come_as_the_graph_declares_them(dtype: str, tokenizer: PromptTokenizer) -> None:
    session = TableSession(graph=_Graph(inputs=(_Input(dtype=dtype),)))
    encode(session, tokenizer, "piano")
    assert session.calls[0].dtype == dtype


def test_negative_and_positive_share_one_call_and_one_length(tokenizer: PromptTokenizer) -> None:
    session = TableSession()
    found = encode(session, tokenizer, "bells", LONG)
    assert found.shape == (2, 154, WIDTH)
    assert len(session.calls) == 1
    np.testing.assert_array_equal(found[1], encode_prompt(TableSession(), tokenizer, LONG))
    np.testing.assert_array_equal(found[0, :77], encode_prompt(TableSession(), tokenizer, "bells"))
    np.testing.assert_array_equal(found[0, 77:], encode_prompt(TableSession(), tokenizer, ""))


def test_a_chunk_that_occurs_twice_is_encoded_once(tokenizer: PromptTokenizer) -> None:
    session = TableSession()
    found = encode(session, tokenizer, "", "piano", "piano", "")
    assert len(session.calls[0]) == 2
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[0], encode_prompt(TableSession(), tokenizer, ""))


@pytest.mark.parametrize("prompt", ["funky (piano:1.5)", "[funky] piano ((bells))", "(funky:0) piano"])
def test_weights_scale_their_tokens_and_keep_the_mean(prompt: str, tokenizer: PromptTokenizer) -> None:
    from riffusion_rt.prompt import parse_weights

    session = TableSession()
    weighted = encode_prompt(session, tokenizer, prompt).astype(np.float64)
    chunks = tokenizer.chunks(parse_weights(prompt))
    plain = session.run({"input_ids": chunks.ids})["last_hidden_state"][0].astype(np.float64)
    assert weighted.mean() == pytest.approx(plain.mean(), rel=1e-5)
    scaled = plain * chunks.weights[0][:, None]
    np.testing.assert_allclose(weighted / weighted.mean(), scaled / scaled.mean(), rtol=1e-4, atol=1e-5)


def test_only_weighted_chunks_change(tokenizer: PromptTokenizer) -> None:
    plain = encode_prompt(TableSession(), tokenizer, LONG)
    weighted = encode_prompt(TableSession(), tokenizer, f"({LONG[:18]}:2){LONG[18:]}")
    np.testing.assert_array_equal(weighted[77:], plain[77:])
    assert not np.allclose(weighted[:77], plain[:77])


def test_a_mean_near_zero_does_not_blow_the_embedding_up(tokenizer: PromptTokenizer) -> None:
    class Centred(TableSession):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            encoded = super().run(feeds)["last_hidden_state"]
            return {"last_hidden_state": encoded - encoded.mean(axis=2, keepdims=True)}

    weighted = encode_prompt(Centred(), tokenizer, "funky (piano:1.5)")
    plain = encode_prompt(Centred(), tokenizer, "funky piano")
    ratio = np.linalg.norm(weighted, axis=1) / np.linalg.norm(plain, axis=1)
    assert set(np.round(ratio, 4)) == {1.0, 1.5}


@pytest.mark.parametrize("offset", [0.0, 0.01, -0.01, 0.05])
def test_restoring_the_mean_never_outweighs_the_weights(offset: float, tokenizer: PromptTokenizer) -> None:
    plain = encode_prompt(TableSession(offset=offset), tokenizer, "funky piano guitar")
    weighted = encode_prompt(TableSession(offset=offset), tokenizer, "(funky piano:3) guitar")
    ratio = np.linalg.norm(weighted, axis=1) / np.linalg.norm(plain, axis=1)
    assert 1 / 3 - 1e-4 <= ratio.min() <= ratio.max() <= 9 + 1e-3


def test_a_broken_encoder_is_reported_not_passed_on(tokenizer: PromptTokenizer) -> None:
    with pytest.raises(NumericsError, match="text encoder"):
        encode_prompt(TableSession(offset=float("nan")), tokenizer, "piano")


def test_bad_weights_are_refused_before_the_encoder_runs(tokenizer: PromptTokenizer) -> None:
    session = TableSession()
    with pytest.raises(RequestError):
        encode(session, tokenizer, "piano", "(piano:99)")
    assert session.calls == []


def test_embeddings_equal_those_of_transformers_text_encoder(
    tokenizer: PromptTokenizer, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=1024,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
    )
    model = CLIPTextModel(config).eval()

    class TorchSession(TableSession):
        def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            with torch.no_grad():
                output = model(torch.from_numpy(feeds["input_ids"]))
            return {"last_hidden_state": output.last_hidden_state.numpy()}

    found = encode(TorchSession(), tokenizer, "", "funky piano")
    for prompt, embedding in zip(["", "funky piano"], found, strict=True):
        ids = [tokenizer.start_id, *tokenizer.ids(prompt), tokenizer.end_id]
        ids += [tokenizer.pad_id] * (77 - len(ids))
        with torch.no_grad():
            expected = model(torch.tensor([ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(embedding, expected, atol=1e-5)
