"""A bundle in, the largest difference between optimum's pictures and ours out; fails above a tolerance.

Run it with ``benchmarks/interop_optimum.sh BUNDLE``, which makes an environment that holds both. The same prompt, seed,
scheduler, steps and guidance go through optimum's ORTStableDiffusionPipeline, which loads the folder as it is, and
through ``riffusion_rt``; pixels are compared in levels of 0 to 255.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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
    Drawing("text to image, PNDM, 50 steps", "pndm", "PNDMScheduler", {}, seed=3, steps=50),
    Drawing("image to image, DDIM", "ddim", "DDIMScheduler", {}, seed=5, strength=0.75),
)


def main() -> int:
    """Compare every drawing; 0 if all are within the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "--tolerance", type=int, default=TOLERANCE, help="levels of 255 (default %(default)s)"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = []
    picture = None
    for drawing in DRAWINGS:
        theirs = draw_with_optimum(arguments.bundle, drawing, picture)
        ours = draw_with_riffusion(arguments.bundle, drawing, picture)
        picture = picture or Image.fromarray(ours)
        difference = np.abs(theirs.astype(int) - ours.astype(int))
        rows.append(
            {
                "drawing": drawing.title,
                "max_levels": int(difference.max()),
                "mean_levels": round(float(difference.mean()), 6),
                "contrast_levels": round(float(ours.std()), 1),
                "same_pixels": round(float((difference == 0).mean()), 6),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    packages = ("optimum-onnx", "onnxruntime", "diffusers", "transformers", "torch", "riffusion-rt")
    worst = max(row["max_levels"] for row in rows)
    verdict = {
        "worst_levels": worst,
        "tolerance": arguments.tolerance,
        **{name: version(name) for name in packages},
    }
    print(json.dumps(verdict))
    return int(worst > arguments.tolerance)


def draw_with_optimum(bundle: Path, drawing: Drawing, picture: Image.Image | None) -> NDArray[np.uint8]:
    """The picture that optimum draws, uint8 (rows, columns, 3)."""
    import diffusers
    import torch
    from optimum.onnxruntime import ORTStableDiffusionImg2ImgPipeline, ORTStableDiffusionPipeline

    diffusers.utils.logging.set_verbosity_error()
    kind = ORTStableDiffusionPipeline if drawing.strength is None else ORTStableDiffusionImg2ImgPipeline
    pipeline = kind.from_pretrained(bundle)
    pipeline.set_progress_bar_config(disable=True)
    scheduler = getattr(diffusers, drawing.scheduler)
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **drawing.options)
    start = {} if drawing.strength is None else {"image": picture, "strength": drawing.strength}
    drawn = pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=drawing.steps,
        guidance_scale=drawing.guidance,
        generator=torch.Generator("cpu").manual_seed(drawing.seed),
        **start,
    )
    return np.asarray(drawn.images[0].convert("RGB"))


def draw_with_riffusion(bundle: Path, drawing: Drawing, picture: Image.Image | None) -> NDArray[np.uint8]:
    """The picture that riffusion_rt draws, uint8 (rows, columns, 3)."""
    from riffusion_rt import Riffusion

    start = {} if drawing.strength is None else {"seed_image": picture, "strength": drawing.strength}
    with Riffusion(bundle, device="cpu") as riffusion:
        clip = riffusion.generate(
            PROMPT,
            negative_prompt=NEGATIVE,
            seed=drawing.seed,
            steps=drawing.steps,
            guidance=drawing.guidance,
            sampler=drawing.sampler,
            **start,
        )
    return np.asarray(clip.image.convert("RGB"))


if __name__ == "__main__":
    sys.exit(main())
