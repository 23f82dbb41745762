"""What a user asks of a fine-tuning in, checked numbers out: what learns, how long, how fast, in which arithmetic."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from riffusion_engine.errors import RequestError

LORA_RATE, FULL_RATE = 1e-4, 1e-5
"""Customary learning rates of diffusers' own training scripts."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """What is trained, how long and how.

    Args:
        full: train all weights; else a LoRA of ``rank`` on ``layers`` ("attention" or "all").
        text_encoder: let it learn too: for words that it does not know.
        steps: optimizer steps in all, each of ``batch`` examples × ``accumulate`` × devices.
        learning_rate: None takes `LORA_RATE` or `FULL_RATE`.
        schedule: "cosine" falls to 2 % at the last step, "constant" does not; both warm up over ``warm_steps``.
        precision: "no" (float32), "bf16", "fp16", or "auto": what the device is quick at.
        gradient_checkpointing: slower by a third, in a fraction of the memory.
        ema_decay: of the average that a full fine-tune is saved as; 0 saves the last weights.
        snr_cap: see `NoiseObjective`; 0 for none.
        balance: measure every error by what is usual at its noise level (`UsualErrors`). Without it the noisiest
            levels, where it is decided what a sound is, hardly count, and a new sound is learned there last.
        captionless: share of examples shown without their caption, so that guidance works.
        preserve: let a LoRA learn from these to predict what the checkpoint did (prior preservation, as in
            arXiv 2208.12242). Else what is new is learned for the empty prompt too, and guidance, which leads away from
            the empty prompt's, does not lead to it.
        save_seconds: what a kill costs at most.
        sample_every: steps from samples to the next; 0 for none. ``prompts`` are drawn, or held-out captions.
        cpu: train on the CPU though there is a GPU.
    """

    full: bool = False
    rank: int = 16
    layers: Literal["attention", "all"] = "attention"
    text_encoder: bool = False
    steps: int = 1000
    batch: int = 4
    accumulate: int = 1
    learning_rate: float | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    warm_steps: int = 20
    weight_decay: float = 1e-2
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False
    ema_decay: float = 0.9999
    snr_cap: float = 5.0
    balance: bool = True
    captionless: float = 0.1
    preserve: bool = True
    seed: int = 0
    save_seconds: float = 60.0
    sample_every: int = 250
    sample_steps: int = 20
    prompts: tuple[str, ...] = ()
    cpu: bool = False

    @property
    def rate(self) -> float:
        """The learning rate at its highest."""
        return self.learning_rate if self.learning_rate is not None else FULL_RATE if self.full else LORA_RATE

    @property
    def preserves(self) -> bool:
        """Whether the checkpoint's own predictions are at hand and asked for."""
        return self.preserve and not self.full

    def rate_at(self, step: int) -> float:
        """The learning rate of one step."""
        fall = (
            0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps))) if self.schedule == "cosine" else 1.0
        )
        return self.rate * min(1.0, (step + 1) / max(1, self.warm_steps)) * (0.02 + 0.98 * fall)

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            RequestError: with the option to change.
        """
        for name, value, low, high in (
            ("steps", self.steps, 1, 10**8),
            ("batch", self.batch, 1, 4096),
            ("accumulate", self.accumulate, 1, 4096),
            ("learning rate", self.rate, 1e-9, 1.0),
            ("ema", self.ema_decay, 0.0, 0.999999),
            ("min snr", self.snr_cap, 0.0, 1e6),
            ("caption dropout", self.captionless, 0.0, 1.0),
            ("save seconds", self.save_seconds, 0.0, 86400.0),
            ("sample every", self.sample_every, 0, 10**8),
            ("seed", self.seed, 0, 2**62),
        ):
            if not low <= value <= high:
                raise RequestError(
                    f"{name} must be from {low:g} to {high:g}, not {value}",
                    hint="See riffusion-rt finetune --help",
                )

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on; everything else may change between its parts."""
        free = (
            "steps",
            "save_seconds",
            "sample_every",
            "sample_steps",
            "prompts",
            "cpu",
            "gradient_checkpointing",
        )
        return {name: value for name, value in asdict(self).items() if name not in free}


def precision_of(recipe: FinetuneRecipe) -> str:
    """accelerate's name of the arithmetic: "auto" is bf16 where a GPU has it, else fp16, and float32 on a CPU.

    Raises:
        RequestError: fp16 on a CPU, which lacks its arithmetic.
    """
    import torch

    gpu = torch.cuda.is_available() and not recipe.cpu
    if recipe.precision == "fp16" and not gpu:
        raise RequestError("A CPU does not train in fp16", hint="Use --precision bf16 or no")
    if recipe.precision != "auto":
        return recipe.precision
    return "no" if not gpu else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
