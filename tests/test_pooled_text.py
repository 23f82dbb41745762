"""A prompt pooled to one vector: silent in a UNet that had no such path, and heard once it has learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'riffusion-rt[train]'")
pytest.importorskip("diffusers", reason="training needs diffusers: pip install 'riffusion-rt[train]'")


def _unet(**changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    # Attention nowhere but in the middle: the top resolution hears of prompts by the pooled path alone.
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
        **changes,
    ).eval()


def _inputs() -> tuple[Any, Any, Any]:
    draw = torch.Generator().manual_seed(1)
    sample, states = torch.randn(2, 4, 8, 8, generator=draw), torch.randn(2, 77, 16, generator=draw)
    return sample, torch.tensor([3, 800]), states


def test_a_unet_without_the_path_gets_a_silent_one(tmp_path: Path) -> None:
    from riffusion_train.pooled_text import POOLED_TEXT, unet_with_pooled_text

    plain = _unet()
    plain.save_pretrained(tmp_path)
    grown = unet_with_pooled_text(tmp_path).eval()
    assert {name: grown.config[name] for name in POOLED_TEXT} == dict(POOLED_TEXT)
    with torch.no_grad():
        torch.testing.assert_close(grown(*_inputs()).sample, plain(*_inputs()).sample)


def test_a_unet_that_has_the_path_keeps_what_it_learned(tmp_path: Path) -> None:
    from riffusion_train.pooled_text import POOLED_TEXT, unet_with_pooled_text

    learned = _unet(**POOLED_TEXT)
    learned.save_pretrained(tmp_path)
    again = unet_with_pooled_text(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(*_inputs()).sample, learned(*_inputs()).sample)


def test_a_silent_path_learns() -> None:
    from riffusion_train.pooled_text import POOLED_TEXT, silence

    unet = silence(_unet(**POOLED_TEXT)).train()
    optimizer = torch.optim.Adam(unet.add_embedding.parameters(), lr=1e-2)
    before = unet(*_inputs()).sample.detach()
    for _ in range(3):
        optimizer.zero_grad()
        unet(*_inputs()).sample.square().mean().backward()
        optimizer.step()
    last = unet.add_embedding.norm2
    assert last.weight.abs().max() > 0
    assert last.bias.abs().max() > 0
    assert unet.add_embedding.proj.weight.grad.abs().max() > 0
    assert not torch.allclose(unet(*_inputs()).sample, before)
