"""A fused LoRA promises what diffusers makes of it, in every key layout, and an error for what it cannot fuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from riffusion_engine.errors import ExportError
from riffusion_export.checkpoint import Source, open_checkpoint
from riffusion_export.lora import LoraRequest, check_fit, fuse_loras, parse_lora, read_lora

RANK = 4
TO_Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TO_OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
PROJ_IN = "down_blocks.0.attentions.0.proj_in"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT_Q = "encoder.layers.0.self_attn.q_proj"
TEXT_FC = "encoder.layers.1.mlp.fc1"
UNET_LAYERS = (TO_Q, TO_OUT, PROJ_IN)
TEXT_LAYERS = (TEXT_Q, TEXT_FC)


@pytest.fixture(scope="module")
def source(toy_checkpoint: Path) -> Source:
    return open_checkpoint(toy_checkpoint)


@pytest.fixture(scope="module")
def halves(source: Source) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random halves (down, up) by "unet.…" and "text_encoder.…"."""
    draw = torch.Generator().manual_seed(0)
    made = {}
    for part, layers in (("unet", (*UNET_LAYERS, CONV)), ("text_encoder", TEXT_LAYERS)):
        network = source.skeleton(part)
        for layer in layers:
            shape = network.get_submodule(layer).weight.shape
            kernel = [1] * (len(shape) - 2)
            down = torch.randn(RANK, *shape[1:], generator=draw) * 0.1
            made[f"{part}.{layer}"] = (down, torch.randn(shape[0], RANK, *kernel, generator=draw))
    return made


def _kohya(part: str, layer: str) -> str:
    prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
    return prefix + layer.replace(".", "_")


def _write(path: Path, state: dict[str, Any], **metadata: str) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata or None)
    return path


def _kohya_file(path: Path, halves: dict[str, Any], alpha: float | None, *, conv: bool = True) -> Path:
    state = {}
    for key, (down, up) in halves.items():
        part, _, layer = key.partition(".")
        if layer == CONV and not conv:
            continue
        name = _kohya(part, layer)
        state |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
    return _write(path, state)


def _fused(source: Source, path: Path, weight: float = 1.0) -> dict[str, torch.Tensor]:
    """Every weight of the toy after fusing, by "unet.…" and "text_encoder.…"."""
    loras = [read_lora(LoraRequest(path, weight))]
    networks = {part: source.load(part) for part in ("text_encoder", "unet")}
    check_fit(loras, networks)
    for part, network in networks.items():
        fuse_loras(loras, part, network)
    return {
        f"{part}.{key}": value
        for part, network in networks.items()
        for key, value in network.state_dict().items()
    }


def test_the_formula_is_weight_times_alpha_over_rank(
    source: Source, halves: dict[str, Any], tmp_path: Path
) -> None:
    plain = {part: source.load(part).state_dict() for part in ("unet", "text_encoder")}
    fused = _fused(source, _kohya_file(tmp_path / "a.safetensors", halves, alpha=2.0), weight=-0.5)
    changed = set()
    for key, value in fused.items():
        part, _, name = key.partition(".")
        before = plain[part][name]
        if not torch.equal(value, before):
            changed.add(key)
            down, up = halves[key.removesuffix(".weight")]
            expected = torch.einsum("or,r...->o...", up.flatten(1), down) * (-0.5 * 2.0 / RANK)
            torch.testing.assert_close(value - before, expected.reshape(before.shape), atol=1e-6, rtol=1e-4)
    assert changed == {f"{key}.weight" for key in halves}


def _peft(key: str) -> tuple[str, str]:
    return f"{key}.lora_A.weight", f"{key}.lora_B.weight"


def _peft_with_adapter_name(key: str) -> tuple[str, str]:
    name = key.removeprefix("unet.").replace("text_encoder.", "text_encoder.text_model.")
    return f"base_model.model.{name}.lora_A.default.weight", f"base_model.model.{name}.lora_B.default.weight"


def _diffusers_second_generation(key: str) -> tuple[str, str]:
    key = key.replace("text_encoder.", "text_encoder.text_model.")
    return f"{key}.lora.down.weight", f"{key}.lora.up.weight"


def _diffusers_first_generation(key: str) -> tuple[str, str]:
    for layer, old in (
        ("attn1.to_q", "attn1.processor.to_q_lora"),
        ("attn2.to_out.0", "attn2.processor.to_out_lora"),
        ("self_attn.q_proj", "self_attn.to_q_lora"),
        ("mlp.fc1", "mlp.fc1.lora_linear_layer"),
        ("proj_in", "proj_in.lora"),
        ("conv1", "conv1.lora"),
    ):
        key = key.replace(layer, old)
    key = key.replace("text_encoder.", "text_encoder.text_model.")
    return f"{key}.down.weight", f"{key}.up.weight"


def _kohya_of_two_text_encoders(key: str) -> tuple[str, str]:
    part, _, layer = key.partition(".")
    name = _kohya(part, layer).replace("lora_te_", "lora_te1_")
    return f"{name}.lora_down.weight", f"{name}.lora_up.weight"


@pytest.mark.parametrize(
    "spell",
    [
        _peft,
        _peft_with_adapter_name,
        _diffusers_second_generation,
        _diffusers_first_generation,
        _kohya_of_two_text_encoders,
    ],
)
def test_every_layout_of_keys_gives_the_same_weights(
    spell: Callable[[str], tuple[str, str]], source: Source, halves: dict[str, Any], tmp_path: Path
) -> None:
    expected = _fused(source, _kohya_file(tmp_path / "kohya.safetensors", halves, alpha=None))
    state = {}
    for key, (down, up) in halves.items():
        state |= dict(zip(spell(key), (down, up), strict=True))
    fused = _fused(source, _write(tmp_path / "other.safetensors", state))
    assert fused.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(fused[key], value), key


def test_diffusers_fuses_the_same_into_the_unet(
    toy_checkpoint: Path, source: Source, halves: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="diffusers needs peft to load a LoRA")
    from diffusers import StableDiffusionPipeline

    path = _kohya_file(tmp_path / "a.safetensors", halves, alpha=2.0, conv=True)
    pipeline = StableDiffusionPipeline.from_pretrained(toy_checkpoint)
    pipeline.load_lora_weights(path)
    pipeline.fuse_lora(components=["unet"], lora_scale=0.75)
    pipeline.unload_lora_weights()
    ours = _fused(source, path, weight=0.75)
    for key, value in pipeline.unet.state_dict().items():
        torch.testing.assert_close(ours[f"unet.{key}"], value, atol=1e-6, rtol=1e-5)


def test_peft_merges_the_same_into_the_text_encoder(
    source: Source, halves: dict[str, Any], tmp_path: Path
) -> None:
    """Peft itself: beside transformers 5, diffusers passes over a text encoder's attention layers."""
    peft = pytest.importorskip("peft", reason="peft is what it is compared with")
    network = source.load("text_encoder")
    config = peft.LoraConfig(r=RANK, lora_alpha=2.0 * 0.75, target_modules=list(TEXT_LAYERS))
    adapted = peft.get_peft_model(network, config)
    state = {}
    for layer in TEXT_LAYERS:
        down, up = halves[f"text_encoder.{layer}"]
        state |= {
            f"base_model.model.{layer}.lora_A.weight": down,
            f"base_model.model.{layer}.lora_B.weight": up,
        }
    peft.set_peft_model_state_dict(adapted, state)
    merged = adapted.merge_and_unload().state_dict()
    ours = _fused(source, _kohya_file(tmp_path / "a.safetensors", halves, alpha=2.0), weight=0.75)
    before = source.load("text_encoder").state_dict()
    for key, value in merged.items():
        torch.testing.assert_close(ours[f"text_encoder.{key}"], value, atol=1e-6, rtol=1e-5)
    assert sum(not torch.equal(value, before[key]) for key, value in merged.items()) == len(TEXT_LAYERS)


def test_diffusers_metadata_gives_the_alpha(source: Source, halves: dict[str, Any], tmp_path: Path) -> None:
    unet = {key: value for key, value in halves.items() if key.startswith("unet.")}
    state = {name: half for key, pair in unet.items() for name, half in zip(_peft(key), pair, strict=True)}
    settings = json.dumps({"unet.r": RANK, "unet.lora_alpha": 2.0})
    fused = _fused(source, _write(tmp_path / "a.safetensors", state, lora_adapter_metadata=settings))
    expected = _fused(source, _kohya_file(tmp_path / "b.safetensors", unet, alpha=2.0))
    assert torch.equal(fused[f"unet.{TO_Q}.weight"], expected[f"unet.{TO_Q}.weight"])
    unusual = json.dumps({"unet.use_rslora": True})
    with pytest.raises(ExportError, match="use_rslora"):
        read_lora(LoraRequest(_write(tmp_path / "c.safetensors", state, lora_adapter_metadata=unusual)))


DOWN, UP = f"unet.{TO_Q}.lora_A.weight", f"unet.{TO_Q}.lora_B.weight"


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({DOWN: torch.ones(4, 16), UP: torch.ones(16, 8)}, "two ranks"),
        ({DOWN: torch.ones(4, 17), UP: torch.ones(16, 4)}, "does not fit"),
        ({DOWN: torch.ones(4, 16)}, "one half only"),
        (
            {
                "lora_unet_mid_block_nowhere.lora_down.weight": torch.ones(4, 16),
                "lora_unet_mid_block_nowhere.lora_up.weight": torch.ones(16, 4),
            },
            "1 of 1 layers that this checkpoint",
        ),
        ({"lora_unet_x.hada_w1_a": torch.ones(4, 4)}, "LoHa"),
        ({f"unet.{TO_Q}.lora_magnitude_vector": torch.ones(4)}, "DoRA"),
        ({"model.diffusion_model.out.2.weight": torch.ones(4)}, "no part of a LoRA"),
        ({"x.alpha": torch.tensor(4.0)}, "changes no layer"),
        ({DOWN: torch.full((4, 16), float("nan")), UP: torch.ones(16, 4)}, "NaN"),
    ],
)
def test_what_cannot_be_fused_is_refused_before_anything_is_exported(
    state: dict[str, torch.Tensor], said: str, source: Source, tmp_path: Path
) -> None:
    path = _write(tmp_path / "odd.safetensors", state)
    with pytest.raises(ExportError, match=said) as caught:
        check_fit(
            [read_lora(LoraRequest(path))], {part: source.skeleton(part) for part in ("text_encoder", "unet")}
        )
    assert "\n" not in str(caught.value)


def test_files_that_are_no_lora_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x80\x04.")
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    for name, said in (
        ("a.pt", "not a .safetensors"),
        ("b.safetensors", "cannot be read"),
        ("c.safetensors", "cannot"),
    ):
        with pytest.raises(ExportError, match=said):
            read_lora(LoraRequest(tmp_path / name))


def test_a_weight_may_follow_the_file(tmp_path: Path) -> None:
    odd = tmp_path / "a:0.5"
    odd.touch()
    assert parse_lora("style.safetensors") == LoraRequest(Path("style.safetensors"), 1.0)
    assert parse_lora("loras/style.safetensors:-0.5") == LoraRequest(Path("loras/style.safetensors"), -0.5)
    assert parse_lora(str(odd)) == LoraRequest(odd, 1.0)
    assert parse_lora("C:\\loras\\style.safetensors").weight == 1.0
    for weight in ("much", "nan", "inf", ""):
        with pytest.raises(ExportError, match="is not a weight"):
            parse_lora(f"style.safetensors:{weight}")
