"""A run's UNet, its text encoder and captions in, latents that they draw out: kept for the decoder to learn from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from riffusion_engine.errors import RiffusionError
from riffusion_engine.whole_file import whole_file
from riffusion_rt.noise_schedule import NoiseSchedule
from riffusion_rt.samplers import sampler_table
from riffusion_train.clip_draws import ClipDraws
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.denoiser import NOISE_SCHEDULE, token_ids

FILE = "drawn_latents.npy"
_BATCH = 8


def draw_latents(
    run: Path, count: int, *, sampler: str, steps: int, guidance: float, seed: int = 0
) -> Iterator[int]:
    """Draw ``count`` clips for captions of the data set, as the model is run; yields how many are done.

    They are left in ``run``, float16 (count, c, h, w). ``sampler`` must draw no noise of its own.

    Raises:
        RiffusionError: the run has no trained UNet yet.
    """
    if not (run / "unet").is_dir():
        raise RiffusionError(f"{run} has no UNet yet", hint="Train one: python -m riffusion_train denoiser")
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    clips = ClipDraws.of_run(run)
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(run / "text_encoder").eval().requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(run / "unet").eval().requires_grad_(False)
    quicken_group_norms(unet)
    table = sampler_table(sampler, NoiseSchedule.from_config(NOISE_SCHEDULE), steps)
    empty = encoder(token_ids(tokenizer, [""])).last_hidden_state

    def predicted(latents: NDArray[np.float32], timestep: float, told: Tensor) -> NDArray[np.float32]:
        seen = torch.from_numpy(latents).repeat(2, 1, 1, 1)
        states = torch.cat([empty.expand_as(told), told])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            both = unet(seen, timestep, encoder_hidden_states=states, return_dict=False)[0].float()
        plain, asked = both.chunk(2)
        return np.asarray((plain + guidance * (asked - plain)).numpy(), np.float32)

    drawn: list[NDArray[np.float16]] = []
    for first in range(0, count, _BATCH):
        of_data = clips.draw(rng, min(_BATCH, count - first))
        told = encoder(token_ids(tokenizer, of_data.captions)).last_hidden_state
        noise = torch.randn(of_data.latents.shape, generator=generator).numpy()
        state = table.begin(noise * np.float32(table.init_noise_sigma))
        for step in range(len(table)):
            output = predicted(state.model_input(step), float(table.timesteps[step]), told)
            state = state.advance(step, output)
        drawn.append(state.latents.astype(np.float16))
        yield first + len(noise)
    with whole_file(run / FILE) as file:
        np.save(file, np.concatenate(drawn))
