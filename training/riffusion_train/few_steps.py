"""A trained UNet in, one out that needs four to eight evaluations and no guidance: latent consistency distillation.

After arXiv 2310.04378. A consistency model maps a noisy latent at any timestep to the clean one that its teacher's
whole walk would reach. The student learns it from neighbours on that walk: what it makes of a latent at timestep t is
drawn to what its own running average makes of the same latent one DDIM step of the guided teacher further on. The
guidance scale is fixed, so it becomes part of the weights: the student is an ordinary UNet, run by the ``lcm`` sampler
with guidance 1 and half the work in each step.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from riffusion_engine.errors import RiffusionError
from riffusion_train.clip_draws import ClipDraws
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.denoiser import NOISE_SCHEDULE
from riffusion_train.running_average import follow
from riffusion_train.token_ids import token_ids
from riffusion_train.training_loop import TrainingLoop, TrainingProgress, set_rate, warm_cosine

FOLDER = "few_steps"
"""Where the student lies inside a run."""
TEACHER_STEPS = 50
"""DDIM steps of the teacher's walk, and the sampler's ``original_inference_steps``."""
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0
"""Constants of the boundary condition, as diffusers' ``LCMScheduler`` has them."""


@dataclass(frozen=True)
class FewStepsRecipe:
    """How long, how fast, and for which guidance. Time counts as in ``DenoiserRecipe``."""

    minutes: float = 45.0
    steps: int | None = None
    batch: int = 12
    learning_rate: float = 1e-4
    guidance: float = 5.0
    ema_decay: float = 0.98
    huber: float = 0.03
    """Where the loss turns from squares to magnitudes, for each value of a latent."""
    seed: int = 0


class Consistency:
    """The map from a noisy latent to the clean one, around a network that predicts noise.

    f(z, t) = c_skip(t) z + c_out(t) x(z, t), where x is the clean latent that the noise prediction implies; at t = 0 it
    is the identity (section 3.2 of the paper).
    """

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self.signal, self.noise = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents (n, c, h, w) that a noise prediction implies."""
        return (noisy - _wide(self.noise[timesteps]) * prediction) / _wide(self.signal[timesteps])

    def ddim(self, clean: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The same walk's latents at other ``timesteps``."""
        return _wide(self.signal[timesteps]) * clean + _wide(self.noise[timesteps]) * prediction

    def __call__(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """f(z, t)."""
        scaled = timesteps.float() * TIMESTEP_SCALING
        power = scaled.square() + SIGMA_DATA**2
        skip, out = SIGMA_DATA**2 / power, scaled / power.sqrt()
        return _wide(skip) * noisy + _wide(out) * self.clean(noisy, prediction, timesteps)


def teacher_timesteps(train_timesteps: int = 1000, steps: int = TEACHER_STEPS) -> Tensor:
    """The teacher's timesteps, ascending: 19, 39 … 999 for 50 of 1,000."""
    stride = train_timesteps // steps
    return torch.arange(1, steps + 1) * stride - 1


def train_few_steps(run: Path, recipe: FewStepsRecipe = FewStepsRecipe()) -> Iterator[TrainingProgress]:
    """Distil ``run``'s UNet; resume; leave the student in ``run/few_steps/unet``.

    Raises:
        RiffusionError: the run has no trained denoiser yet.
    """
    if not (run / "unet").is_dir():
        raise RiffusionError(f"{run} has no UNet yet", hint="Train one: python -m riffusion_train denoiser")
    torch.manual_seed(recipe.seed)
    clips = ClipDraws.of_run(run)
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(run / "text_encoder").eval().requires_grad_(False)
    empty = encoder(token_ids(tokenizer, [""])).last_hidden_state
    teacher = UNet2DConditionModel.from_pretrained(run / "unet").eval().requires_grad_(False)
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    average = copy.deepcopy(teacher)
    for model in (teacher, student, average):
        quicken_group_norms(model)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99), weight_decay=0
    )
    loop = TrainingLoop(
        run / FOLDER / "student.pt",
        minutes=recipe.minutes,
        steps=recipe.steps,
        save_every=100,
        student=student,
        average=average,
        optimizer=optimizer,
    )
    consistency = Consistency(DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod)
    walk = teacher_timesteps()
    rng = np.random.default_rng([recipe.seed, loop.step])

    def batch(done: float) -> tuple[float, float]:
        set_rate(optimizer, recipe.learning_rate * warm_cosine(loop.step, done, warm_steps=50))
        drawn = clips.draw(rng, recipe.batch)
        places = torch.from_numpy(rng.integers(1, len(walk), size=recipe.batch))
        now, next_ = walk[places], walk[places - 1]
        noisy = consistency.ddim(drawn.latents, torch.randn_like(drawn.latents), now)
        told = encoder(token_ids(tokenizer, drawn.captions)).last_hidden_state
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            guided = _guided(teacher, noisy, now, told, empty, recipe.guidance)
            further = consistency.ddim(consistency.clean(noisy, guided, now), guided, next_)
            target = consistency(further, _predict(average, further, next_, told), next_)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = _predict(student, noisy, now, told)
        error = consistency(noisy, prediction, now) - target
        loss = ((error.square() + recipe.huber**2).sqrt() - recipe.huber).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        follow(average, student, recipe.ema_decay)
        value = float(loss.detach())
        return value, value

    yield from loop.run(batch, lambda: average.save_pretrained(run / FOLDER / "unet"))


def _guided(
    teacher: nn.Module, noisy: Tensor, timesteps: Tensor, told: Tensor, empty: Tensor, guidance: float
) -> Tensor:
    both = torch.cat([empty.expand_as(told), told])
    negative, positive = _predict(teacher, noisy.repeat(2, 1, 1, 1), timesteps.repeat(2), both).chunk(2)
    return negative + guidance * (positive - negative)


def _predict(unet: nn.Module, noisy: Tensor, timesteps: Tensor, told: Tensor) -> Tensor:
    prediction: Tensor = unet(noisy, timesteps, encoder_hidden_states=told, return_dict=False)[0]
    return prediction.float()


def _wide(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]
