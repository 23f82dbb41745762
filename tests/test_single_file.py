"""A single file promises the networks of the diffusers folder it was made of, and never to run what is in it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from riffusion_engine.errors import ExportError
from riffusion_export.checkpoint import PARTS, load_checkpoint, open_checkpoint
from riffusion_export.single_file import PREFIXES, open_source


@pytest.fixture(scope="module")
def original(toy_checkpoint: Path) -> dict[str, torch.Tensor]:
    """The toy in the layout of the original code: every name that a diffusers checkpoint has, turned back."""
    checkpoint = load_checkpoint(toy_checkpoint)
    networks = {
        "text_encoder": checkpoint.text_encoder,
        "unet": checkpoint.unet,
        "vae": checkpoint.autoencoder,
    }
    names: dict[str, Callable[[str], str]] = {
        "text_encoder": _text_name,
        "unet": _unet_name,
        "vae": _vae_name,
    }
    state = {
        PREFIXES[part] + names[part](key): value.clone()
        for part, network in networks.items()
        for key, value in network.state_dict().items()
    }
    for key in state:
        if re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight", key):
            state[key] = state[key][:, :, None, None]  # The original has convolutions there.
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["model_ema.decay"] = torch.tensor(0.999)
    return state


def _text_name(key: str) -> str:
    return "text_model." + key.removeprefix("text_model.")


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _unet_name(key: str) -> str:
    """The toy's UNet: two levels of one layer each, attention in the outer one."""
    for ours, theirs in _UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    places = {
        "down_blocks.0.resnets.0": "input_blocks.1.0",
        "down_blocks.0.attentions.0": "input_blocks.1.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
        "down_blocks.1.resnets.0": "input_blocks.3.0",
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.attentions.0": "output_blocks.2.1",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "up_blocks.1.attentions.1": "output_blocks.3.1",
    }
    place = next(ours for ours in places if key.startswith(f"{ours}."))
    rest = key.removeprefix(f"{place}.")
    if ".resnets." in place:
        layer, _, kind = rest.rpartition(".")
        rest = f"{_RESNET[layer]}.{kind}"
    return f"{places[place]}.{rest}"


def _vae_name(key: str) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_shortcut", "nin_shortcut")
    for ours, theirs in (
        ("to_q", "q"),
        ("to_k", "k"),
        ("to_v", "v"),
        ("to_out.0", "proj_out"),
        ("group_norm", "norm"),
    ):
        key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    return key.replace("conv_norm_out", "norm_out")


def _write(path: Path, state: dict[str, Any]) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save({"state_dict": state, "global_step": 1}, path)
    return path


@pytest.mark.parametrize("name", ["toy.safetensors", "toy.ckpt"])
def test_its_networks_are_those_of_the_folder(
    name: str, original: dict[str, torch.Tensor], toy_checkpoint: Path, tmp_path: Path
) -> None:
    source = open_source(_write(tmp_path / name, original), like=toy_checkpoint)
    folder = open_checkpoint(toy_checkpoint)
    assert source.geometry == folder.geometry
    assert (source.name, source.facts.name) == (name, "toy")
    assert source.facts.spectrogram == folder.facts.spectrogram
    for part in PARTS:
        expected = folder.load(part).state_dict()
        loaded = source.load(part).state_dict()
        assert loaded.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(loaded[key], value), (part, key)


def test_a_loaded_text_encoder_reads(
    original: dict[str, torch.Tensor], toy_checkpoint: Path, tmp_path: Path
) -> None:
    """Its positions are a buffer that no file holds: left on torch's meta device, it would fail here."""
    source = open_source(_write(tmp_path / "toy.safetensors", original), like=toy_checkpoint)
    ids = torch.arange(77)[None]
    states = [
        each.load("text_encoder")(ids).last_hidden_state for each in (source, open_checkpoint(toy_checkpoint))
    ]
    assert torch.equal(*states)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def test_a_pickle_that_holds_code_is_refused_and_not_run(
    toy_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": _Trap()}}, tmp_path / "zip.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(_Trap()))
    for name in ("zip.ckpt", "bare.ckpt"):
        with pytest.raises(ExportError, match="more than weights") as caught:
            open_source(tmp_path / name, like=toy_checkpoint)
        assert ".safetensors" in caught.value.hint
    assert not Path("sprung").exists()


def _drop(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda state: {key: value for key, value in state.items() if not key.startswith(prefix)}


def _call_it_2x(state: dict[str, Any]) -> dict[str, Any]:
    return {
        key.replace("cond_stage_model.transformer.", "cond_stage_model.model."): state[key] for key in state
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("model.diffusion_model."), "it has no unet"),
        (_drop("first_stage_model."), "it has no vae"),
        (_call_it_2x, "2.x or XL class"),
    ],
)
def test_other_classes_are_refused_at_once(
    change: Callable[[dict[str, Any]], dict[str, Any]],
    said: str,
    original: dict[str, torch.Tensor],
    toy_checkpoint: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(ExportError, match=said):
        open_source(_write(tmp_path / "other.safetensors", change(original)), like=toy_checkpoint)


def test_a_network_that_is_incomplete_or_of_another_size_is_refused(
    original: dict[str, torch.Tensor], toy_checkpoint: Path, tmp_path: Path
) -> None:
    out = PREFIXES["unet"] + "out.2.weight"
    for changed in (_drop(out)(original), {**original, out: torch.zeros(1, 2, 3, 3)}):
        source = open_source(_write(tmp_path / "odd.safetensors", changed), like=toy_checkpoint)
        with pytest.raises(ExportError, match="does not fit its configuration") as caught:
            source.load("unet")
        assert "\n" not in str(caught.value)


def test_without_a_tokenizer_the_option_is_named(original: dict[str, torch.Tensor], tmp_path: Path) -> None:
    file = _write(tmp_path / "toy.safetensors", original)
    for like in (None, tmp_path):
        with pytest.raises(ExportError, match="tokenizer") as caught:
            open_source(file, like=like)
        assert "--like FOLDER" in caught.value.hint


def test_a_folder_needs_no_likeness(toy_checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="--like is for single files"):
        open_source(toy_checkpoint, like=toy_checkpoint)


def test_damaged_and_foreign_files_are_refused(toy_checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.ckpt", "a.bin"):
        (tmp_path / name).write_bytes(b"nonsense")
        with pytest.raises(ExportError):
            open_source(tmp_path / name, like=toy_checkpoint)
