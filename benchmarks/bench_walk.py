"""A guided walk of a batch of latents beside diffusers' loop: seconds a step, and the chip's effective rate.

    pytest benchmarks/bench_walk.py --device cuda --batches 1,4,16 --session fused,replay

Both sides walk DPM-Solver++ 2M from the same noise with the same prompts; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from likeness import relative_l2
from numpy.typing import NDArray
from turns import by_turns

from riffusion_engine.onnxruntime_session import CudaSettings
from riffusion_engine.session import open_session
from riffusion_rt import ClipRequest, Riffusion
from riffusion_rt.denoise import Guidance, denoise
from riffusion_rt.noise import TorchNoise
from riffusion_rt.open_model import OpenModel
from riffusion_rt.samplers import sampler_table

WALK_STEPS = 10
GUIDANCE = 5.0
PROMPT = "funky piano"


def bench_walk(
    batch: int, benchmark: Any, riffusion: Riffusion, peer: Any, options: Any, row: Callable[..., None]
) -> None:
    """Ten guided steps for a batch of seeds."""
    switches = {switch for switch in options.session.split(",") if switch}
    model = OpenModel(riffusion.bundle, device=options.device)
    cuda = CudaSettings(
        replay="replay" in switches,
        channels_last="channels_last" in switches,
        tune_convolutions="untuned" not in switches,
    )
    unet = open_session(
        model.bundle,
        model.manifest.graphs["unet"],
        device=options.device,
        fused="fused" in switches,
        cuda=cuda if options.device == "cuda" else None,
    )
    on_device = False if "from_host" in switches else None
    spec = model.manifest.latent
    table = sampler_table("dpm++2m", model.schedule, WALK_STEPS)
    shape = (1, spec.channels, spec.height, spec.width)
    drawn = np.concatenate([TorchNoise(seed).normal(shape) for seed in range(batch)])
    embeddings = model.embed(["", PROMPT])
    negative, prompt = (np.repeat(side, batch, axis=0) for side in (embeddings[:1], embeddings[1:]))

    def ours() -> NDArray[np.float32]:
        start = drawn * np.float32(table.init_noise_sigma)
        guidance = Guidance(prompt, negative, GUIDANCE)
        *_, last = denoise(unet, table, start, guidance, [], on_device=on_device)
        return last.latents

    request = ClipRequest(PROMPT, seed=0, steps=WALK_STEPS, guidance=GUIDANCE)
    try:
        turns, latents, wanted = by_turns(
            benchmark, ours, lambda: peer.walk(request, batch), rounds=options.rounds
        )
    finally:
        unet.close()
        model.close()
    figures = turns.figures()
    flops = 2 * batch * WALK_STEPS * peer.step_flops
    row(
        f"walk of {WALK_STEPS} steps",
        batch=batch,
        switches=sorted(switches),
        provider=unet.provider,
        **figures,
        ours_tflop_s=round(flops / figures["ours_s"]["median"] / 1e12, 4),
        peer_tflop_s=round(flops / figures["peer_s"]["median"] / 1e12, 4),
        parity={"latents_relative_l2": relative_l2(latents, wanted)},
    )
