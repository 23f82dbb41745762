"""A run's UNet, its text encoder and captions in, latents that they draw out: kept for the decoder to learn from.

Some are drawn from noise alone; of these no picture is known. Some are redrawn: latents of a real clip, disturbed and
denoised again. They are as smooth as the first, and still (nearly) of that clip's picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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
from riffusion_rt.samplers import SamplerTable, image_start, sampler_table
from riffusion_train.catalogue import HELD_OUT_PAIRS
from riffusion_train.clip_draws import ClipDraws, cached_latents, folders_of_clips
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.denoiser import NOISE_SCHEDULE
from riffusion_train.rendered_clips import read_facts, reworded
from riffusion_train.token_ids import token_ids

FILE, REDRAWN_FILE = "drawn_latents.npy", "redrawn_latents.npz"
STRENGTHS = (0.5, 0.625, 0.75)
"""How much of real latents is drawn anew, by turns."""
_BATCH = 8


@dataclass(frozen=True)
class DrawSettings:
    """What a model is run with; ``sampler`` must draw no noise of its own."""

    sampler: str
    steps: int
    guidance: float


@dataclass(frozen=True, eq=False)
class RedrawnLatents:
    """``latents`` float16 (n, c, h, w), and which clips they are of: ``folders``, and ``indices`` in these."""

    latents: NDArray[np.float16]
    folders: tuple[str, ...]
    indices: NDArray[np.int64]

    @classmethod
    def of_run(cls, run: Path) -> RedrawnLatents | None:
        """What ``redraw_latents`` left in ``run``, None if it did not."""
        if not (run / REDRAWN_FILE).exists():
            return None
        with np.load(run / REDRAWN_FILE) as file:
            return cls(file["latents"], tuple(str(name) for name in file["folders"]), file["indices"])


def draw_latents(run: Path, count: int, settings: DrawSettings, *, seed: int = 0) -> Iterator[int]:
    """Draw ``count`` clips for captions of the data set, as the model is run; yields how many are done.

    They are left in ``run``, float16 (count, c, h, w).

    Raises:
        RiffusionError: the run has no trained UNet yet.
    """
    painter = _Painter(run, settings)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    clips = ClipDraws.of_run(run)
    table = painter.table()
    drawn: list[NDArray[np.float16]] = []
    for first in range(0, count, _BATCH):
        of_data = clips.draw(rng, min(_BATCH, count - first))
        noise = torch.randn(of_data.latents.shape, generator=generator).numpy()
        drawn.append(painter.denoised(table, noise * np.float32(table.init_noise_sigma), of_data.captions))
        yield first + len(noise)
    with whole_file(run / FILE) as file:
        np.save(file, np.concatenate(drawn))


def redraw_latents(run: Path, count: int, settings: DrawSettings, *, seed: int = 0) -> Iterator[int]:
    """Redraw ``count`` clips of the data set at ``STRENGTHS``, told what they are; yields how many are done.

    They are left in ``run`` (``RedrawnLatents.of_run``).

    Raises:
        RiffusionError: the run has no trained UNet yet.
    """
    painter = _Painter(run, settings)
    rng, generator = np.random.default_rng([seed, 1]), torch.Generator().manual_seed(seed)
    facts = {name: read_facts(run / name) for name in folders_of_clips(run)}
    latents = {name: cached_latents(run, name) for name in facts}
    places = [
        (name, index)
        for name, clips in facts.items()
        for index, each in enumerate(clips)
        if frozenset(each.labels) not in HELD_OUT_PAIRS
    ]
    chosen = [places[int(i)] for i in rng.integers(len(places), size=count)]
    redrawn: list[NDArray[np.float16]] = []
    for turn, first in enumerate(range(0, count, _BATCH)):
        some = chosen[first : first + _BATCH]
        table = painter.table(STRENGTHS[turn % len(STRENGTHS)])
        real = np.stack([latents[name][index] for name, index in some]).astype(np.float32)
        noise = torch.randn(real.shape, generator=generator).numpy()
        captions = [reworded(rng, facts[name][index]).caption for name, index in some]
        redrawn.append(painter.denoised(table, table.noised(real, noise), captions))
        yield first + len(some)
    folders, indices = zip(*chosen, strict=True)
    with whole_file(run / REDRAWN_FILE) as file:
        np.savez(file, latents=np.concatenate(redrawn), folders=np.array(folders), indices=np.array(indices))


class _Painter:
    """A run's UNet and text encoder, as the model is run."""

    def __init__(self, run: Path, settings: DrawSettings) -> None:
        if not (run / "unet").is_dir():
            raise RiffusionError(
                f"{run} has no UNet yet", hint="Train one: python -m riffusion_train denoiser"
            )
        self._settings = settings
        self._tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
        self._encoder = CLIPTextModel.from_pretrained(run / "text_encoder").eval().requires_grad_(False)
        self._unet = UNet2DConditionModel.from_pretrained(run / "unet").eval().requires_grad_(False)
        quicken_group_norms(self._unet)
        self._empty = self._told([""])

    def table(self, strength: float = 1.0) -> SamplerTable:
        """The sampler's, of a walk from noise alone or from latents that are redrawn."""
        steps = self._settings.steps
        schedule = NoiseSchedule.from_config(NOISE_SCHEDULE)
        return sampler_table(self._settings.sampler, schedule, steps, start=image_start(steps, strength))

    def denoised(
        self, table: SamplerTable, latents: NDArray[np.float32], captions: list[str]
    ) -> NDArray[np.float16]:
        """Clean latents (n, c, h, w) of noisy ones."""
        told = self._told(captions)
        state = table.begin(latents)
        for step in range(len(table)):
            output = self._predicted(state.model_input(step), float(table.timesteps[step]), told)
            state = state.advance(step, output)
        return state.latents.astype(np.float16)

    def _predicted(self, latents: NDArray[np.float32], timestep: float, told: Tensor) -> NDArray[np.float32]:
        seen = torch.from_numpy(latents).repeat(2, 1, 1, 1)
        states = torch.cat([self._empty.expand_as(told), told])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            both = self._unet(seen, timestep, encoder_hidden_states=states, return_dict=False)[0].float()
        plain, asked = both.chunk(2)
        return np.asarray((plain + self._settings.guidance * (asked - plain)).numpy(), np.float32)

    def _told(self, captions: list[str]) -> Tensor:
        states: Tensor = self._encoder(token_ids(self._tokenizer, captions)).last_hidden_state
        return states
