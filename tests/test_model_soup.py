"""A mean of two states of a model: exact, told on the card's behalf, made once, and forgotten by further training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_rt.models import DEFAULT_MODEL, locate_model
from riffusion_train.begun import begin_with
from riffusion_train.model_soup import PARTS, Soup, mix_in

WEIGHTS = {"unet": "diffusion_pytorch_model.safetensors", "text_encoder": "model.safetensors"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    begin_with(locate_model(DEFAULT_MODEL), tmp_path / "run", 3, 7)
    for part in PARTS:
        path = tmp_path / "run" / part / WEIGHTS[part]
        save_file({name: 3 * each.float() for name, each in load_file(path).items()}, path)
    return tmp_path / "run"


def test_a_share_of_an_earlier_state_is_mixed_in(run: Path) -> None:
    bundle = locate_model(DEFAULT_MODEL)
    assert Soup.of_run(run) is None
    assert mix_in(bundle, run, 0.25, 7) == Soup.of_run(run) == Soup("riffusion-mini", 0.25, 7)
    for part in PARTS:
        mixed = load_file(run / part / WEIGHTS[part])
        for name, stored in load_file(bundle / part / WEIGHTS[part]).items():
            torch.testing.assert_close(mixed[name].float(), 2.5 * stored.float(), rtol=2e-3, atol=1e-6)
    with pytest.raises(RiffusionError, match="already"):
        mix_in(bundle, run, 0.25, 7)
    Soup.forget(run)
    assert Soup.of_run(run) is None


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="between 0 and 1"):
        mix_in(locate_model(DEFAULT_MODEL), tmp_path, share, 1)


def test_networks_of_another_shape_are_refused_and_nothing_changes(run: Path, toy_bundle: Path) -> None:
    before = (run / "unet" / WEIGHTS["unet"]).read_bytes()
    with pytest.raises(RiffusionError, match="other shapes"):
        mix_in(toy_bundle, run, 0.5, 1)
    assert (run / "unet" / WEIGHTS["unet"]).read_bytes() == before
    assert Soup.of_run(run) is None
