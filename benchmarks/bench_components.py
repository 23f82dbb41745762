"""Every graph of a bundle beside the torch module it came from: speed and parity in one row.

pytest benchmarks/bench_components.py                                     # the embedded model on the CPU
pytest benchmarks/bench_components.py --model BUNDLE --device cuda --peer compile --batches 1,8
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from likeness import relative_l2
from numpy.typing import NDArray
from turns import by_turns

from riffusion_engine.session import open_session
from riffusion_rt import Riffusion

OUTPUTS = {
    "text_encoder": "last_hidden_state",
    "unet": "out_sample",
    "vae_decoder": "sample",
    "vae_encoder": "latent_parameters",
}


@pytest.mark.parametrize("part", OUTPUTS)
def bench_component(
    part: str,
    batch: int,
    benchmark: Any,
    riffusion: Riffusion,
    peer: Any,
    options: Any,
    row: Callable[..., None],
) -> None:
    """One run of a graph. The UNet's batch is doubled, as guidance doubles it."""
    graph = riffusion.manifest.graphs[part]
    feeds = _feeds(riffusion, part, 2 * batch if part == "unet" else batch)
    with open_session(riffusion.bundle, graph, device=options.device) as session:
        turns, ours, theirs = by_turns(
            benchmark,
            lambda: session.run(feeds)[OUTPUTS[part]],
            lambda: getattr(peer, part)(feeds),
            rounds=options.rounds,
        )
        provider = session.provider
    rate = {}
    if part == "unet":
        flops = 2 * batch * peer.step_flops
        rate["ours_tflop_s"] = round(flops / turns.figures()["ours_s"]["median"] / 1e12, 4)
        rate["peer_tflop_s"] = round(flops / turns.figures()["peer_s"]["median"] / 1e12, 4)
    row(
        part,
        batch=batch,
        provider=provider,
        **turns.figures(),
        **rate,
        parity={"output_relative_l2": relative_l2(ours, theirs)},
    )


def _feeds(riffusion: Riffusion, part: str, batch: int) -> dict[str, NDArray[Any]]:
    """Random inputs of the kind that the graph meets."""
    rng = np.random.default_rng(batch)
    latent = riffusion.manifest.latent
    shape = (batch, latent.channels, latent.height, latent.width)
    if part == "text_encoder":
        from riffusion_rt.tokenizer import PromptTokenizer

        ids = PromptTokenizer.from_bundle(riffusion.bundle).chunks([("funky piano", 1.0)]).ids
        return {"input_ids": np.repeat(ids, batch, axis=0)}
    if part == "unet":
        states = next(s for s in riffusion.manifest.graphs[part].inputs if s.name == "encoder_hidden_states")
        return {
            "sample": rng.standard_normal(shape, np.float32),
            "timestep": np.full(batch, 501.0, np.float32),
            "encoder_hidden_states": rng.standard_normal((batch, 77, int(states.shape[2])), np.float32),
        }
    if part == "vae_decoder":
        return {"latent_sample": rng.standard_normal(shape, np.float32)}
    size = (batch, 3, latent.height * latent.vae_factor, latent.width * latent.vae_factor)
    return {"sample": rng.uniform(-1, 1, size).astype(np.float32)}
