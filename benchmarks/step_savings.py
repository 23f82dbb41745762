"""What does a cheaper walk cost in sound? Each saving against 50 steps of the reference's sampler on the same seeds.

python benchmarks/step_savings.py          # a few minutes; writes benchmarks/results/step_savings.jsonl

A distance has no meaning by itself. Two rows give it one: another seed (a clip that has nothing in common but the
prompt) and 50 steps of another sampler (the same clip, as exactly as anyone asks for).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import click
import numpy as np
from likeness import log_spectral_distance_db
from numpy.typing import NDArray
from recording import record

from riffusion_engine.reusing_session import ReusingSession
from riffusion_engine.session import Session, open_session
from riffusion_rt.denoise import WHOLE_WALK, Guidance, denoise
from riffusion_rt.noise import TorchNoise
from riffusion_rt.open_model import OpenModel
from riffusion_rt.picture_sound import mel_of_pixels, sound_of_picture
from riffusion_rt.pipeline import decode_picture
from riffusion_rt.walk_start import start_from_noise

PROMPTS = ("funky piano", "church organ solo", "fast drums and bass", "soft strings")
MEL_RANGE_DB = 80.0
"""Mel magnitudes further below the loudest are inaudible beside it."""


@dataclass(frozen=True)
class Saving:
    """One way to walk."""

    name: str
    sampler: str
    steps: int
    interval: tuple[float, float] = WHOLE_WALK
    seed_offset: int = 0
    batch: int = 1
    device: str = "cpu"
    reuse: tuple[int, int] = (1, 1)
    """Deep features at every n-th step, and how many of the last layers every step computes."""


REFERENCE = Saving("reference", "ddim", 50)
BASELINE = Saving("20 steps", "dpm++2m", 20)
SAVINGS = (
    BASELINE,
    Saving("another seed", "dpm++2m", 20, seed_offset=1000),
    Saving("50 steps, pndm", "pndm", 50),
    Saving("50 steps, dpm++2m", "dpm++2m", 50),
    Saving("20 steps, ddim", "ddim", 20),
    Saving("20 steps, unipc", "unipc", 20),
    Saving("20 steps, karras", "dpm++2m-karras", 20),
    Saving("15 steps", "dpm++2m", 15),
    Saving("15 steps, karras", "dpm++2m-karras", 15),
    Saving("10 steps, karras", "dpm++2m-karras", 10),
    Saving("9 steps, karras", "dpm++2m-karras", 9),
    Saving("10 steps", "dpm++2m", 10),
    Saving("guided to 0.9", "dpm++2m", 20, (0.0, 0.9)),
    Saving("guided to 0.8", "dpm++2m", 20, (0.0, 0.8)),
    Saving("guided to 0.6", "dpm++2m", 20, (0.0, 0.6)),
    Saving("guided from 0.1", "dpm++2m", 20, (0.1, 1.0)),
    Saving("guided from 0.2 to 0.8", "dpm++2m", 20, (0.2, 0.8)),
    Saving("4 seeds in a batch", "dpm++2m", 20, batch=4),
    Saving("deep features every 2nd", "dpm++2m", 20, reuse=(2, 1)),
    Saving("every 2nd, two layers", "dpm++2m", 20, reuse=(2, 2)),
    Saving("deep features every 3rd", "dpm++2m", 20, reuse=(3, 1)),
    Saving("deep features every 5th", "dpm++2m", 20, reuse=(5, 1)),
    Saving("openvino", "dpm++2m", 20, device="openvino"),
    Saving("openvino, 4 in a batch", "dpm++2m", 20, device="openvino", batch=4),
)


@click.command()
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--prompts", "count", default=len(PROMPTS), show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(model: str, count: int, seed: int) -> None:
    """Walk every prompt in every way."""
    opened = OpenModel(model)
    prompts = PROMPTS[:count]
    jobs = [(prompt, seed + index) for index, prompt in enumerate(prompts)]
    _drawn(opened, Saving("warm", "ddim", 2), prompts[0], seed)
    reference = [_heard(opened, _drawn(opened, REFERENCE, *job)[0][:1]) for job in jobs]
    baseline_s = 0.0
    for saving in SAVINGS:
        drawn = [_drawn(opened, saving, prompt, at + saving.seed_offset) for prompt, at in jobs]
        seconds = float(np.mean([seconds for _, seconds in drawn])) / saving.batch
        baseline_s = baseline_s or seconds
        heard = [_heard(opened, latents[:1]) for latents, _ in drawn]
        row = {
            "saving": saving.name,
            "sampler": saving.sampler,
            "steps": saving.steps,
            "interval": list(saving.interval),
            "batch": saving.batch,
            "device": saving.device,
            "reuse": list(saving.reuse),
            "clips": len(jobs),
            "log_spectral_distance_db": _mean(_lsd(pair) for pair in zip(heard, reference, strict=True)),
            "mel_distance_db": _mean(_mel(pair) for pair in zip(heard, reference, strict=True)),
            "unet_samples": _work(saving),
            "denoise_s": round(seconds, 3),
            "time_ratio": round(seconds / baseline_s, 3),
        }
        click.echo(
            f"{saving.name:24s} {row['log_spectral_distance_db']:6.2f} dB  mel {row['mel_distance_db']:6.2f} dB  "
            f"{row['unet_samples']:3d} UNet samples  {seconds:5.2f} s  {row['time_ratio']:.2f}x"
        )
        record("step_savings", model=model, guidance=opened.manifest.defaults.guidance, **row)
    opened.close()


def _work(saving: Saving) -> int:
    """Samples that the UNet sees for one clip: two in a guided step, one in another."""
    one = np.zeros((1, 1, 1), np.float32)
    guidance = Guidance(one, one, 2.0, saving.interval)
    return sum(1 + guidance.active_at(step, saving.steps) for step in range(saving.steps))


Heard = tuple[NDArray[np.float32], NDArray[np.float32]]


def _drawn(model: OpenModel, saving: Saving, prompt: str, seed: int) -> tuple[NDArray[np.float32], float]:
    """Latents of ``saving.batch`` seeds from ``seed`` on, and the seconds that denoising them took."""
    spec = model.manifest.latent
    streams = [TorchNoise(seed + index) for index in range(saving.batch)]
    noise = np.concatenate([stream.normal((1, spec.channels, spec.height, spec.width)) for stream in streams])
    start = start_from_noise(model.schedule, saving.sampler, saving.steps, noise)
    negative, positive = (np.repeat(row[None], saving.batch, axis=0) for row in model.embed(["", prompt]))
    guidance = Guidance(positive, negative, model.manifest.defaults.guidance, saving.interval)
    unet = _unet(model, saving)
    began = time.perf_counter()
    *_, last = denoise(unet, start.table, start.latents, guidance, streams)
    latents = last.latents
    return latents, time.perf_counter() - began


def _unet(model: OpenModel, saving: Saving) -> Session:
    """Opened once for each way."""
    every, layers = saving.reuse
    key = (saving.device, every, layers)
    if key not in _unets:
        graph = model.manifest.graph("unet")
        _unets[key] = (
            open_session(model.bundle, graph, device=saving.device)
            if every == 1
            else ReusingSession(model.bundle, graph, device=saving.device, every=every, layers=layers)
        )
        _drawn(model, replace(saving, steps=2), PROMPTS[0], 0)
    return _unets[key]


_unets: dict[tuple[str, int, int], Session] = {}


def _heard(model: OpenModel, latents: NDArray[np.float32]) -> Heard:
    """Sound, and mel magnitudes in dB below the loudest."""
    params = model.manifest.spectrogram
    pixels = decode_picture(model, latents)
    mel = mel_of_pixels(pixels, params)
    decibels = 20 * np.log10(np.maximum(mel / mel.max(), 10 ** (-MEL_RANGE_DB / 20)))
    return sound_of_picture(pixels, params, loop=True), decibels.astype(np.float32)


def _lsd(pair: tuple[Heard, Heard]) -> float:
    return log_spectral_distance_db(pair[0][0], pair[1][0])


def _mel(pair: tuple[Heard, Heard]) -> float:
    return float(np.sqrt(((pair[0][1] - pair[1][1]) ** 2).mean()))


def _mean(values: Iterator[float]) -> float:
    return round(float(np.mean(list(values))), 3)


if __name__ == "__main__":
    main()
