"""A training's figures and its networks in; TensorBoard curves, and pictures and sounds drawn meanwhile, out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from riffusion_engine.errors import RiffusionError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.checkpoint import Source
from riffusion_export.silence import quiet

if TYPE_CHECKING:
    from torch import nn

_SLUG_LETTERS = 40


class TrainingLog:
    """Curves in ``run/logs`` (``tensorboard --logdir run/logs``), samples in ``run/samples`` as well.

    Args:
        run: the run's folder.
        step: where it goes on: what an interrupted run logged later is forgotten.
    """

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._samples = run / "samples"
        self._writer: Any = SummaryWriter(run / "logs", purge_step=step or None)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Put a point on each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def sample(
        self, step: int, prompt: str, pixels: NDArray[np.uint8], params: SpectrogramParams, *, sounding: bool
    ) -> Path:
        """Keep a picture (bands, columns, 3), and let it be heard if its height is the spectrogram's."""
        from PIL import Image

        from riffusion_rt.audio_file import write_audio
        from riffusion_rt.picture_sound import sound_of_picture
        from riffusion_rt.spectrogram_image import save_png

        words = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:_SLUG_LETTERS] or "no-prompt"
        path = self._samples / f"{step:06}-{words}.png"
        save_png(Image.fromarray(pixels), path, params, text={"prompt": prompt, "step": str(step)})
        self._writer.add_image(f"picture/{prompt}", pixels, step, dataformats="HWC")
        if sounding and pixels.shape[0] == params.bands:
            sound = sound_of_picture(pixels, params, loop=False, preset="fast")
            write_audio(path.with_suffix(".wav"), sound, params.sample_rate, {"prompt": prompt})
            self._writer.add_audio(f"sound/{prompt}", torch.from_numpy(sound.T), step, params.sample_rate)
        return path

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


@torch.no_grad()
def draw_samples(
    source: Source,
    unet: nn.Module,
    text_encoder: nn.Module,
    prompts: Sequence[str],
    *,
    size: tuple[int, int],
    steps: int,
    seed: int,
    autocast: Any,
    device: torch.device,
) -> list[NDArray[np.uint8]]:
    """Draw a picture (height, width, 3) of each prompt with networks that are still learning, and their own guidance.

    The autoencoder is loaded for it and forgotten again: while training, the memory is needed for gradients.
    """
    learning = unet.training, text_encoder.training
    with quiet(), autocast:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
        from transformers import CLIPTokenizer

        pipeline = StableDiffusionPipeline(
            vae=source.load("vae").to(device),
            text_encoder=text_encoder.eval(),
            tokenizer=CLIPTokenizer.from_pretrained(source.folder / "tokenizer"),
            unet=unet.eval(),
            scheduler=DPMSolverMultistepScheduler.from_pretrained(source.folder / "scheduler"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        drawn = [
            pipeline(
                prompt,
                height=size[0],
                width=size[1],
                num_inference_steps=steps,
                guidance_scale=source.facts.defaults.guidance,
                generator=torch.Generator().manual_seed(seed),
                output_type="np",
            ).images[0]
            for prompt in prompts
        ]
    unet.train(learning[0])
    text_encoder.train(learning[1])
    if not all(np.isfinite(picture).all() for picture in drawn):
        raise RiffusionError("A sample holds NaN", hint="Train with --precision bf16 or no")
    return [np.asarray(np.rint(np.clip(picture, 0, 1) * 255), np.uint8) for picture in drawn]
