"""Clean latents in, noisy ones, what is to be predicted of them and how much that counts out.

The schedule is the checkpoint's own; it says too whether noise (epsilon), velocity (v_prediction, Salimans & Ho 2022,
arXiv 2202.00512) or the clean latents (sample) are predicted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from riffusion_engine.errors import RequestError

KINDS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class NoiseObjective:
    """A checkpoint's noise schedule: ``alphas`` is the share of signal power at each timestep, float32 (timesteps,).

    ``snr_cap`` bounds the signal-to-noise ratio that weights are made of (min-SNR, arXiv 2303.09556); 0 weighs all
    alike.
    """

    alphas: Tensor
    kind: str
    snr_cap: float = 5.0

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Latents (n, c, h, w) as they look at ``timesteps`` (n,)."""
        level = self._level(timesteps, clean)
        return level.sqrt() * clean + (1 - level).sqrt() * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the UNet is to say of them."""
        if self.kind == "epsilon":
            return noise
        if self.kind == "sample":
            return clean
        level = self._level(timesteps, clean)
        return level.sqrt() * noise - (1 - level).sqrt() * clean

    def weights(self, timesteps: Tensor) -> Tensor:
        """How much each example's squared error counts, float32 (n,): as min(SNR, cap) does for clean latents."""
        snr = self._snr(timesteps)
        if not self.snr_cap:
            return torch.ones_like(snr)
        # An error of noise is one of clean latents times sqrt(SNR), one of velocity times sqrt(SNR + 1).
        of_clean = {"epsilon": snr.clamp(min=1e-8), "v_prediction": snr + 1, "sample": torch.ones_like(snr)}
        return snr.clamp(max=self.snr_cap) / of_clean[self.kind]

    def balanced_weights(self, timesteps: Tensor) -> Tensor:
        """The same where an error is measured by what is usual at its level, float32 (n,): min(1, cap/SNR).

        Measured so, errors are alike whatever is predicted.
        """
        snr = self._snr(timesteps)
        return (self.snr_cap / snr).clamp(max=1) if self.snr_cap else torch.ones_like(snr)

    def expected(self, timesteps: Tensor) -> Tensor:
        """The squared error to be expected where clean latents are white noise of unit variance, float32 (n,)."""
        level = self.alphas.to(timesteps.device)[timesteps]
        return {"epsilon": level, "v_prediction": torch.ones_like(level), "sample": 1 - level}[self.kind]

    def _snr(self, timesteps: Tensor) -> Tensor:
        level = self.alphas.to(timesteps.device)[timesteps]
        return level / (1 - level).clamp(min=1e-8)

    def _level(self, timesteps: Tensor, like: Tensor) -> Tensor:
        return self.alphas.to(like.device)[timesteps][:, None, None, None]


def objective_of(scheduler: Path, snr_cap: float) -> NoiseObjective:
    """Read a checkpoint's ``scheduler`` folder.

    Raises:
        RequestError: it predicts something unknown.
    """
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_pretrained(scheduler)
    kind = str(schedule.config.prediction_type)
    if kind not in KINDS:
        raise RequestError(
            f"{scheduler} predicts {kind!r}, not {', '.join(KINDS)}",
            hint="Fine-tune a checkpoint of the Stable Diffusion 1.x or 2.x class",
        )
    return NoiseObjective(schedule.alphas_cumprod.float(), kind, snr_cap)


@dataclass(frozen=True, eq=False)
class Draw:
    """The chance of one step: which examples, how noisy each, with what noise, and which lose their captions."""

    chosen: Tensor
    timesteps: Tensor
    noise: Tensor
    captionless: Tensor


def draw_step(
    seed: int,
    step: int,
    batch: int,
    examples: int,
    shape: tuple[int, ...],
    timesteps: int,
    captionless: float,
) -> Draw:
    """Draw the chance of one step from the seed and its number alone.

    So a run that resumes, is shared out over other devices, or accumulates smaller batches, draws the same. Examples
    come in a new order every epoch; noise levels are spread evenly over each batch, which steadies the loss.
    """
    places = np.arange(step * batch, (step + 1) * batch)
    orders = {
        int(e): np.random.default_rng([seed, 0, int(e)]).permutation(examples)
        for e in np.unique(places // examples)
    }
    chosen = np.array([orders[int(place // examples)][place % examples] for place in places])
    rng = np.random.default_rng([seed, 1, step])
    spread = (rng.permutation(batch) + rng.random()) / batch
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return Draw(
        torch.from_numpy(chosen),
        torch.from_numpy((spread * timesteps).astype(np.int64)),
        torch.randn((batch, *shape), generator=generator),
        torch.from_numpy(rng.random(batch) < captionless),
    )
