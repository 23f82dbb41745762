"""Training state on disk: written whole or not at all, so that a killed run resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from riffusion_engine.whole_file import whole_file


def save_state(path: Path, **parts: Any) -> None:
    """Save modules and optimizers (by their ``state_dict``) and plain values under their names."""
    state = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
    with whole_file(path) as file:
        torch.save(state, file)


def load_state(path: Path, **parts: Any) -> dict[str, Any]:
    """Load what ``save_state`` wrote into ``parts``; return the plain values. An absent file gives an empty dict."""
    if not path.exists():
        return {}
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return {name: value for name, value in state.items() if name not in parts}
