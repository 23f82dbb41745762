"""A data set and a checkpoint in, the checkpoint fine-tuned out: wholly, or as a LoRA; on one device or on many.

Every step's chance is a function of the seed and the step's number, so a run that is killed goes on as if it had not
been, and devices, batch and accumulation may share out the same run differently.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from riffusion_engine.errors import NumericsError
from riffusion_export.checkpoint import Source
from riffusion_export.silence import quiet
from riffusion_train.adapters import save_lora, without_lora
from riffusion_train.checkpointing import load_state, save_state
from riffusion_train.finetune_recipe import FinetuneRecipe, precision_of
from riffusion_train.latent_cache import encode_all, read_all
from riffusion_train.learner import Averaged, build_average, build_learner
from riffusion_train.noise_objective import Draw, NoiseObjective, draw_step, objective_of
from riffusion_train.picture_folder import PictureFolder
from riffusion_train.run_folder import check_fit, claim_run
from riffusion_train.trained_checkpoint import save_checkpoint
from riffusion_train.training_log import TrainingLog, draw_samples
from riffusion_train.usual_errors import UsualErrors

STATE = "state.pt"
HELD_OUT_MOST = 16
_PATIENCE = timedelta(hours=6)
"""How long devices wait for the first one, which encodes all pictures and draws the samples."""
_SAVING_SHARE = 4
"""A save that takes long is made seldomer: at most a fifth of the time is spent on it."""


@dataclass(frozen=True)
class FinetuneProgress:
    """Where a fine-tuning is. ``result`` is the file or folder that it made, at the very end."""

    stage: Literal["encoding", "training", "sampling", "done"]
    done: int
    total: int
    loss: float = math.nan
    """The plain squared error, smoothed."""
    rate_per_s: float = math.nan
    resumed_at: int = 0
    result: Path | None = None


def finetune(
    pictures: PictureFolder, source: Source, run: Path, recipe: FinetuneRecipe
) -> Iterator[FinetuneProgress]:
    """Fine-tune; yields progress. A run that was interrupted goes on where its last save was.

    In ``run`` it leaves `LORA_FILE` or the folder `CHECKPOINT_FOLDER`, curves, samples, the latents and its own state.

    Raises:
        RequestError: the pictures do not fit the checkpoint, or the device cannot do what is asked.
        OutputError: ``run`` holds another run.
        NumericsError: the loss is no number any more.
    """
    recipe.check()
    check_fit(pictures, source, recipe)
    with quiet():
        from accelerate import Accelerator  # type: ignore[import-untyped]
        from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
        from accelerate.utils import InitProcessGroupKwargs  # type: ignore[import-untyped]

        # It remembers the precision of an earlier run in this process, and would refuse another.
        AcceleratorState._reset_state()
        accelerator = Accelerator(
            mixed_precision=precision_of(recipe),
            gradient_accumulation_steps=recipe.accumulate,
            cpu=recipe.cpu,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
        )
    if accelerator.is_main_process:
        claim_run(run, pictures, source, recipe)
    accelerator.wait_for_everyone()
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            yield from _encoded(pictures, source, run, accelerator.device)
    training = _Training(pictures, source, run, recipe, accelerator)
    yield from training.steps()


def _cache_name(source: Source) -> str:
    """What tells one autoencoder from another without reading it: its checkpoint's name, files and their sizes."""
    return json.dumps([source.name, sorted((path.name, path.stat().st_size) for path in source.files)])


def _encoded(
    pictures: PictureFolder, source: Source, run: Path, device: torch.device
) -> Iterator[FinetuneProgress]:
    everything = (*pictures.train, *pictures.test[:HELD_OUT_MOST])
    autoencoder: Any = source.load("vae")
    for done, total in encode_all(everything, run / "latents", _cache_name(source), autoencoder, device):
        yield FinetuneProgress("encoding", done, total)


class _Training:
    """Everything that a run holds in memory."""

    def __init__(
        self, pictures: PictureFolder, source: Source, run: Path, recipe: FinetuneRecipe, accelerator: Any
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.pictures, self.source, self.run, self.recipe, self.accelerator = (
            pictures,
            source,
            run,
            recipe,
            accelerator,
        )
        self.held_out = pictures.test[:HELD_OUT_MOST]
        latents = read_all((*pictures.train, *self.held_out), run / "latents", _cache_name(source))
        self.latents, self.held_out_latents = latents[: len(pictures.train)], latents[len(pictures.train) :]
        self.tokens = _tokens(source, [p.text for p in (*pictures.train, *self.held_out)])
        self.empty = _tokens(source, [""])[0]
        self.objective: NoiseObjective = objective_of(source.folder / "scheduler", recipe.snr_cap)
        timesteps = torch.arange(len(self.objective.alphas))
        self.usual = UsualErrors(self.objective.expected(timesteps)) if recipe.balance else None
        self.learner = build_learner(source, recipe, accelerator)
        self.trained = {name: p for name, p in self.learner.named_parameters() if p.requires_grad}
        self.average = build_average(self.trained, recipe)
        optimizer = torch.optim.AdamW(self.trained.values(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        self.model, self.optimizer = accelerator.prepare(self.learner, optimizer)
        if self.average is not None:
            self.average.to(accelerator.device)
        self.step = self._load()
        self.resumed_at = self.step

    def steps(self) -> Iterator[FinetuneProgress]:
        """Train to the last step, saving by the clock; then write the result."""
        recipe, main = self.recipe, self.accelerator.is_main_process
        log = TrainingLog(self.run, self.step) if main else None
        saved_at, pause, saved_step = time.monotonic(), recipe.save_seconds, self.step
        started, first = time.monotonic(), self.step
        smooth = math.nan
        self.learner.train()
        try:
            while self.step < recipe.steps:
                loss, plain = self._train_step()
                smooth = plain if math.isnan(smooth) else 0.95 * smooth + 0.05 * plain
                speed = (self.step - first) * self._global_batch / (time.monotonic() - started)
                if log:
                    log.figures(
                        self.step,
                        {
                            "loss/weighted": loss,
                            "loss/plain": plain,
                            "learning rate": recipe.rate_at(self.step - 1),
                            "examples a second": speed,
                        },
                    )
                yield self._progress("training", smooth, speed)
                if recipe.sample_every and (
                    self.step % recipe.sample_every == 0 or self.step == recipe.steps
                ):
                    yield self._progress("sampling", smooth, speed)
                    if log:
                        self._sample(log)
                    self.accelerator.wait_for_everyone()
                if time.monotonic() - saved_at >= pause and self.step > saved_step:
                    began = time.monotonic()
                    self._save()
                    saved_at, saved_step = time.monotonic(), self.step
                    pause = max(recipe.save_seconds, _SAVING_SHARE * (saved_at - began))
        except GeneratorExit:  # Between two steps: nothing is half done.
            self._save()
            raise
        finally:
            if log:
                log.close()
        if self.step > saved_step:
            self._save()
        result = self._result() if main else None
        self.accelerator.wait_for_everyone()
        yield FinetuneProgress(
            "done", self.step, recipe.steps, smooth, resumed_at=self.resumed_at, result=result
        )

    @property
    def _global_batch(self) -> int:
        return int(self.recipe.batch * self.recipe.accumulate * self.accelerator.num_processes)

    def _progress(
        self, stage: Literal["training", "sampling"], loss: float, speed: float
    ) -> FinetuneProgress:
        return FinetuneProgress(stage, self.step, self.recipe.steps, loss, speed, self.resumed_at)

    def _train_step(self) -> tuple[float, float]:
        """One optimizer step; returns the weighted and the plain loss of this device's examples."""
        recipe, accelerator = self.recipe, self.accelerator
        draw = draw_step(
            recipe.seed,
            self.step,
            self._global_batch,
            len(self.latents),
            tuple(self.latents.shape[1:]),
            len(self.objective.alphas),
            recipe.captionless,
        )
        torch.manual_seed(recipe.seed + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.step)
        weights = self._weights(draw)
        weighted, errors = 0.0, []
        for turn in range(recipe.accumulate):
            start = (turn * accelerator.num_processes + accelerator.process_index) * recipe.batch
            part = slice(start, start + recipe.batch)
            with accelerator.accumulate(self.model):
                error = self._errors(self.model, self.latents, self.tokens, draw, part)
                loss = (error * weights[part].to(error.device)).mean()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.trained.values(), 1.0)
                self.optimizer.step()
                self.optimizer.zero_grad()
            weighted += float(loss.detach()) / recipe.accumulate
            errors.append(error.detach())
        if not math.isfinite(weighted):
            raise NumericsError(
                f"The loss is {weighted} at step {self.step + 1}",
                hint="Lower --learning-rate, or train with --precision bf16; what was saved is whole",
            )
        every = accelerator.gather(torch.stack(errors, dim=1)).T.flatten()
        if self.usual is not None:
            real = ~(draw.captionless & self.recipe.preserves)
            self.usual.learn(draw.timesteps[real], every.cpu()[real])
        self.step += 1
        if self.average is not None:
            self.average.step(self.trained.values())
        return weighted, float(every.mean())

    def _weights(self, draw: Draw) -> Tensor:
        """How much each example's error counts, float32 (n,)."""
        if self.usual is None:
            return self.objective.weights(draw.timesteps)
        return self.objective.balanced_weights(draw.timesteps) / self.usual.at(draw.timesteps)

    def _errors(self, model: Any, latents: Tensor, tokens: Tensor, draw: Draw, part: slice) -> Tensor:
        """The squared error of each example of a part of a draw, float32 (n,)."""
        device = self.accelerator.device
        chosen = draw.chosen[part]
        clean, noise = latents[chosen].float().to(device), draw.noise[part].to(device)
        timesteps = draw.timesteps[part].to(device)
        ids = torch.where(draw.captionless[part][:, None], self.empty, tokens[chosen]).to(device)
        noisy = self.objective.noisy(clean, noise, timesteps)
        prediction = model(noisy, timesteps, ids)
        target = self.objective.target(clean, noise, timesteps)
        kept = draw.captionless[part].to(device)
        if self.recipe.preserves and bool(kept.any()):
            target[kept] = self._before(noisy[kept], timesteps[kept], ids[kept])
        errors: Tensor = (prediction.float() - target).square().mean(dim=(1, 2, 3))
        return errors

    @torch.no_grad()
    def _before(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """What the checkpoint itself predicts, float32 (n, c, h, w)."""
        with without_lora(self.learner):
            prediction: Tensor = self.learner(noisy, timesteps, ids)
        return prediction.float()

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """The plain loss on held-out pictures, at the same noise every time."""
        count, shape = len(self.held_out), tuple(self.held_out_latents.shape[1:])
        draw = draw_step(self.recipe.seed, 0, count, count, shape, len(self.objective.alphas), 0.0)
        tokens = self.tokens[len(self.pictures.train) :]
        errors = [
            # Not the wrapped model: the other devices do not take part in this.
            self._errors(self.learner, self.held_out_latents, tokens, draw, slice(i, i + self.recipe.batch))
            for i in range(0, count, self.recipe.batch)
        ]
        return float(torch.cat(errors).mean())

    def _sample(self, log: TrainingLog) -> None:
        shown = dict.fromkeys(p.text for p in (*self.held_out, *self.pictures.train))
        prompts = self.recipe.prompts or tuple(shown)[:2]
        with self._averaged():
            if self.held_out:
                log.figures(self.step, {"loss/held out": self._held_out_loss()})
            drawn = draw_samples(
                self.source,
                self.learner.unet,
                self.learner.text_encoder,
                prompts,
                size=(self.pictures.height, self.pictures.width),
                steps=self.recipe.sample_steps,
                seed=self.recipe.seed,
                autocast=self.accelerator.autocast(),
                device=self.accelerator.device,
            )
        for prompt, pixels in zip(prompts, drawn, strict=True):
            log.sample(
                self.step,
                prompt,
                pixels,
                self.pictures.params or self.source.facts.spectrogram,
                sounding=self.pictures.params is not None,
            )

    def _averaged(self) -> Any:
        return (
            Averaged(self.average, list(self.trained.values())) if self.average is not None else nullcontext()
        )

    @property
    def _parts(self) -> dict[str, Any]:
        """What has a state of its own."""
        parts = {
            "optimizer": self.optimizer,
            "usual": self.usual,
            "average": self.average,
            "scaler": self.accelerator.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _save(self) -> None:
        """What a resumed run needs; chance needs nothing, being a function of the step."""
        if not self.accelerator.is_main_process:
            return
        weights = {name: p.detach().cpu() for name, p in self.trained.items()}
        save_state(self.run / STATE, **self._parts, weights=weights, step=self.step)

    def _load(self) -> int:
        state = load_state(self.run / STATE, **self._parts)
        with torch.no_grad():
            for name, value in state.get("weights", {}).items():
                self.trained[name].copy_(value)
        if self.average is not None:
            self.average.to(self.accelerator.device)
        return int(state.get("step", 0))

    def _result(self) -> Path:
        # Files hold weights in one order only, whichever the device is quick at.
        unet = self.learner.unet.to(memory_format=torch.contiguous_format)
        text_encoder = self.learner.text_encoder
        with quiet(), self._averaged():
            if self.recipe.full:
                return save_checkpoint(self.source, unet, text_encoder, self.pictures.params, self.run)
            return save_lora(unet, text_encoder if self.recipe.text_encoder else None, self.run)


def _tokens(source: Source, texts: list[str]) -> Tensor:
    from transformers import CLIPTokenizer

    with quiet():
        tokenizer = CLIPTokenizer.from_pretrained(source.folder / "tokenizer")
        options = {"padding": "max_length", "truncation": True, "max_length": source.geometry.tokens}
        ids: Tensor = tokenizer(texts, return_tensors="pt", **options).input_ids
    return ids
