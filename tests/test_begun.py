"""A run that trains on: it begins with a bundle's weights, says so on its card, and never mixes two models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from riffusion_engine.errors import OutputError
from riffusion_rt.models import DEFAULT_MODEL, locate_model
from riffusion_train.begun import Begun, begin_with, begun_networks


def test_a_run_begins_with_a_bundles_weights(tmp_path: Path) -> None:
    bundle = locate_model(DEFAULT_MODEL)
    begun = begin_with(bundle, tmp_path / "run", 3, 7, 5)
    assert Begun.of_run(tmp_path / "run") == begun == Begun("riffusion-mini", 3, 7, 5)
    assert Begun.of_run(tmp_path) is None
    unet, text_encoder = begun_networks(tmp_path / "run")
    stored = load_file(bundle / "unet" / "diffusion_pytorch_model.safetensors")
    grown = unet.state_dict()
    assert {name.partition(".")[0] for name in set(grown) - set(stored)} <= {"add_embedding"}
    for name, value in stored.items():
        assert grown[name].dtype == torch.float32
        assert torch.equal(grown[name], value.float()), name
    assert text_encoder.dtype == torch.float32
    assert (tmp_path / "run" / "tokenizer" / "vocab.json").is_file()
    with pytest.raises(OutputError, match="already"):
        begin_with(bundle, tmp_path / "run", 3, 7)
