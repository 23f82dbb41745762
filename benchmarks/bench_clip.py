"""Whole clips beside diffusers' pipeline: seconds a clip, and how alike latents, pictures and sounds are.

    pytest benchmarks/bench_clip.py --steps 20,50

The peer's picture is made audible by our own phase stage, so that the distance of the sounds is that of the models;
``benchmarks/phase_compare.py`` compares the phase stage itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from likeness import log_spectral_distance_db, picture_psnr_db, picture_ssim, relative_l2
from numpy.typing import NDArray
from turns import by_turns

from riffusion_rt import Clip, ClipRequest, Riffusion
from riffusion_rt.picture_sound import sound_of_picture

PROMPT = "funky piano"


def bench_clip(
    steps: int, benchmark: Any, riffusion: Riffusion, peer: Any, options: Any, row: Callable[..., None]
) -> None:
    """Prompt to picture and sound, DPM-Solver++ 2M with guidance."""
    request = ClipRequest(PROMPT, seed=1, steps=steps, guidance=5.0, sampler="dpm++2m")

    def ours() -> tuple[NDArray[np.float32], Clip]:
        *_, last, clip = riffusion.iterate(request)
        return last.latents, clip  # type: ignore[union-attr, return-value]

    def theirs() -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
        latents, pictures = peer.draw(request)
        return latents, pictures[0], _sound(riffusion, pictures[0])

    turns, (latents, clip), (wanted, picture, sound) = by_turns(
        benchmark, ours, theirs, rounds=options.rounds
    )
    drawn = np.asarray(clip.image)
    row(
        f"clip of {steps} steps",
        batch=1,
        **turns.figures(),
        times_real_time=round(clip.duration_s / turns.figures()["ours_s"]["median"], 3),
        stages_s={stage: round(seconds, 4) for stage, seconds in clip.timings.items()},
        parity={
            "latents_relative_l2": relative_l2(latents, wanted),
            "picture_psnr_db": picture_psnr_db(drawn, picture),
            "picture_ssim": picture_ssim(drawn, picture),
            "sound_lsd_db": log_spectral_distance_db(clip.samples, sound),
        },
    )


def _sound(riffusion: Riffusion, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    model = riffusion.model
    return sound_of_picture(picture, model.manifest.spectrogram, loop=True, vocoder=model.vocoder)
