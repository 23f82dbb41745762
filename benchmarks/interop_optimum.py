"""A bundle in, how optimum's pictures differ from ours and how long each side takes out; fails above a tolerance.

Run it with ``benchmarks/interop_optimum.sh BUNDLE``, which makes an environment that holds both. The same prompt, seed,
scheduler, steps and guidance go through optimum's ORTStableDiffusionPipeline, which loads the folder as it is, and
through ``riffusion_rt``, by turns; pixels are compared in levels of 0 to 255. Times are those of the picture alone:
optimum makes no sound of it. Rows go to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from recording import record
from turns import Turns

from riffusion_rt import Riffusion

TOLERANCE = 2
"""Levels of 255. Both round to whole levels, from latents that differ in the last bits of float32."""
PROMPT = "funky piano"
NEGATIVE = "church bells"


@dataclass(frozen=True)
class Drawing:
    """One request that both sides draw; ``strength`` set means image to image."""

    title: str
    sampler: str
    scheduler: str
    options: dict[str, Any]
    seed: int = 11
    steps: int = 20
    guidance: float = 3.0
    strength: float | None = None


DRAWINGS = (
    Drawing("text to image, DDIM", "ddim", "DDIMScheduler", {}),
    Drawing("text to image, DPM-Solver++ 2M", "dpm++2m", "DPMSolverMultistepScheduler", {}),
    Drawing("text to image, PNDM", "pndm", "PNDMScheduler", {}, seed=3, steps=50),
    Drawing("image to image, DDIM", "ddim", "DDIMScheduler", {}, seed=5, strength=0.75),
)


def main() -> int:
    """Compare every drawing; 0 if all are within the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--tolerance", type=int, default=TOLERANCE, help="levels of 255 (default %(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="timed drawings of each side (default %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="ours: cpu or openvino (default %(default)s)")
    parser.add_argument("--fused", action="store_true", help="ours opens rewritten graphs")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    worst, picture = 0, None
    with Riffusion(arguments.bundle, device=arguments.device, fused=arguments.fused) as riffusion:
        for drawing in DRAWINGS:
            optimum = Optimum(arguments.bundle, drawing, picture)
            theirs_s, ours_s = [], []
            for counted in range(-1, arguments.rounds):
                began = time.perf_counter()
                theirs = optimum.draw()
                seconds = time.perf_counter() - began
                ours, ours_seconds = draw_with_riffusion(riffusion, drawing, picture)
                if counted >= 0:
                    theirs_s.append(seconds)
                    ours_s.append(ours_seconds)
            picture = picture or Image.fromarray(ours)
            difference = np.abs(theirs.astype(int) - ours.astype(int))
            worst = max(worst, int(difference.max()))
            row = {
                "model": riffusion.manifest.name,
                "drawing": drawing.title,
                "device": riffusion.device,
                "steps": drawing.steps,
                **Turns(tuple(ours_s), tuple(theirs_s)).figures(),
                "max_levels": int(difference.max()),
                "mean_levels": round(float(difference.mean()), 6),
                "contrast_levels": round(float(ours.std()), 1),
                "same_pixels": round(float((difference == 0).mean()), 6),
            }
            print(json.dumps(row), flush=True)
            record("optimum", **row, peer=f"optimum-onnx {version('optimum-onnx')}")
    print(f"worst difference: {worst} of {arguments.tolerance} levels allowed")
    return int(worst > arguments.tolerance)


class Optimum:
    """optimum's pipeline for one drawing."""

    def __init__(self, bundle: Path, drawing: Drawing, picture: Image.Image | None) -> None:
        import diffusers
        from optimum.onnxruntime import ORTStableDiffusionImg2ImgPipeline, ORTStableDiffusionPipeline

        diffusers.utils.logging.set_verbosity_error()
        kind = ORTStableDiffusionPipeline if drawing.strength is None else ORTStableDiffusionImg2ImgPipeline
        self._drawing, self._pipeline = drawing, kind.from_pretrained(bundle)
        self._pipeline.set_progress_bar_config(disable=True)
        scheduler = getattr(diffusers, drawing.scheduler)
        self._pipeline.scheduler = scheduler.from_config(self._pipeline.scheduler.config, **drawing.options)
        self._start = {} if drawing.strength is None else {"image": picture, "strength": drawing.strength}

    def draw(self) -> NDArray[np.uint8]:
        """The picture, uint8 (rows, columns, 3)."""
        import torch

        drawn = self._pipeline(
            prompt=PROMPT,
            negative_prompt=NEGATIVE,
            num_inference_steps=self._drawing.steps,
            guidance_scale=self._drawing.guidance,
            generator=torch.Generator("cpu").manual_seed(self._drawing.seed),
            **self._start,
        )
        return np.asarray(drawn.images[0].convert("RGB"))


def draw_with_riffusion(
    riffusion: Riffusion, drawing: Drawing, picture: Image.Image | None
) -> tuple[NDArray[np.uint8], float]:
    """The picture that riffusion_rt draws, uint8 (rows, columns, 3), and the seconds that it took without its sound."""
    start = {} if drawing.strength is None else {"seed_image": picture, "strength": drawing.strength}
    clip = riffusion.generate(
        PROMPT,
        negative_prompt=NEGATIVE,
        seed=drawing.seed,
        steps=drawing.steps,
        guidance=drawing.guidance,
        sampler=drawing.sampler,
        **start,
    )
    drawn_s = sum(seconds for stage, seconds in clip.timings.items() if stage != "phase")
    return np.asarray(clip.image.convert("RGB")), drawn_s


if __name__ == "__main__":
    sys.exit(main())
