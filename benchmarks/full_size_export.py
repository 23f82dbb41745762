"""A random checkpoint of Stable Diffusion v1.5's size becomes bundles: time, memory, and parity of one guided step.

    python benchmarks/full_size_export.py --folder FOLDER

Needs the extras export and cpu, 9 GB of disk in FOLDER (kept for other measurements) and 12 GiB of memory. Every
export runs in a process of its own through the command line, so that its peak memory is its own. The guided step is
measured on ONNX Runtime's CPU against torch in float32, once with the checkpoint's weights and once with the weights
as the bundle keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recording import record

PRECISIONS = {"fp16": "float16", "fp32": "float32"}
PROMPT, NEGATIVE = "funky piano", ""
GUIDANCE, TIMESTEP, SEED = 7.0, 981.0, 1
GIB = 2**30


@dataclass(frozen=True)
class Finished:
    """What a process printed, its wall and processor time in seconds, and its peak memory in bytes."""

    printed: str
    wall_s: float
    processor_s: float
    peak_bytes: int


def main() -> None:
    """Make what is missing, export, measure, write one row for each bundle."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoint and bundles are kept")
    parser.add_argument("--only", choices=PRECISIONS, help="one of the bundles")
    parser.add_argument("--worker", choices=("checkpoint", "reference", "step"), help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        {"checkpoint": write_checkpoint, "reference": torch_step, "step": onnx_step}[arguments.worker](
            arguments.model
        )
        return
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "ckpt"
    if not (checkpoint / "model_index.json").is_file():
        _worker("checkpoint", checkpoint)
    print(f"torch on {checkpoint} …", flush=True)
    original = _worker("reference", checkpoint)
    for short, precision in PRECISIONS.items():
        if arguments.only in (None, short):
            _measure(checkpoint, folder / f"bundle-{short}", precision, original)


def _measure(checkpoint: Path, bundle: Path, precision: str, original: Finished) -> None:
    print(f"{bundle} …", flush=True)
    command = [
        "-m",
        "riffusion_rt",
        "export",
        str(checkpoint),
        "-o",
        str(bundle),
        "--precision",
        precision,
        "--json",
    ]
    exported = _child(command)
    rounded = _worker("reference", bundle)
    step = _worker("step", bundle)
    row = {
        "case": "export",
        "precision": precision,
        "weights": "float16",
        "export_s": round(exported.wall_s, 1),
        "export_processor_s": round(exported.processor_s, 1),
        "export_peak_gib": round(exported.peak_bytes / GIB, 2),
        "bytes": json.loads(exported.printed)["bytes"],
        "parity_of_graphs": json.loads(exported.printed)["parity"],
        "guided_step": {
            "to_torch_float32": _distances(step, original),
            "to_torch_float32_of_the_same_weights": _distances(step, rounded),
            "peak_gib": round(step.peak_bytes / GIB, 2),
        },
    }
    path = record("full_size_export", **row)
    print(json.dumps(row, indent=2), f"\n→ {path}")


def _distances(step: Finished, reference: Finished) -> dict[str, float]:
    """Relative L2 distances of both predictions, of their guided sum, and of the latents after a DDIM step of 50.

    With random weights the prompt changes a prediction little, so that guidance multiplies the rounding of two almost
    equal ones: it is the latents that are heard.
    """
    import numpy as np

    from riffusion_export.parity import relative_l2

    made = [np.load(json.loads(each.printed)["file"]).astype(np.float64) for each in (step, reference)]
    guided = [negative + GUIDANCE * (positive - negative) for negative, positive in made]
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    here, there = alphas[int(TIMESTEP)], alphas[int(TIMESTEP) - 20]
    noise = start_noise()[0].astype(np.float64)
    latents = [
        (there / here) ** 0.5 * (noise - (1 - here) ** 0.5 * prediction) + (1 - there) ** 0.5 * prediction
        for prediction in guided
    ]
    pairs = {"predictions": made, "guided": guided, "latents": latents}
    return {name: float(f"{relative_l2(*pair):.3g}") for name, pair in pairs.items()}


def write_checkpoint(folder: Path) -> None:
    """The random checkpoint."""
    from riffusion_export.full_size import write_full_size_checkpoint

    write_full_size_checkpoint(folder)
    print(json.dumps({}))


def torch_step(folder: Path) -> None:
    """Both noise predictions of a guided step by diffusers' UNet in float32, with a folder's weights."""
    import numpy as np
    import torch

    from riffusion_export.checkpoint import open_checkpoint

    source = open_checkpoint(folder)
    ids, latents = _inputs(folder)
    with torch.no_grad():
        states = source.load("text_encoder")(torch.from_numpy(ids).long()).last_hidden_state
        unet: Any = source.load("unet")
        made = unet(torch.from_numpy(latents), torch.tensor([TIMESTEP, TIMESTEP]), states).sample
    file = Path(f"{folder}.torch-step.npy")
    np.save(file, made.numpy())
    print(json.dumps({"file": str(file)}))


def onnx_step(bundle: Path) -> None:
    """The same by the bundle's graphs."""
    import numpy as np

    from riffusion_engine.manifest import Manifest
    from riffusion_export.parity import open_model

    manifest = Manifest.read(bundle)
    ids, latents = _inputs(bundle)
    (states,) = open_model(bundle / manifest.graph("text_encoder").path).run(
        ["last_hidden_state"], {"input_ids": ids}
    )
    unet = manifest.graph("unet")
    given = {"sample": latents, "timestep": np.array([TIMESTEP]), "encoder_hidden_states": states}
    feeds = {spec.name: given[spec.name].astype(spec.dtype) for spec in unet.inputs}
    (made,) = open_model(bundle / unet.path).run(None, feeds)
    file = Path(f"{bundle}.onnx-step.npy")
    np.save(file, made.astype(np.float32))
    print(json.dumps({"file": str(file)}))


def _inputs(folder: Path) -> tuple[Any, Any]:
    """Token ids of the negative prompt and the prompt, and the same start noise for both."""
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.enable_padding(pad_id=end, pad_token="<|endoftext|>", length=77)
    ids = np.array([tokenizer.encode(text).ids for text in (NEGATIVE, PROMPT)], np.int32)
    noise = start_noise()
    return ids, np.concatenate([noise, noise])


def start_noise() -> Any:
    """The latents that the step starts from, (1, 4, 64, 64)."""
    import numpy as np

    return np.random.default_rng(SEED).standard_normal((1, 4, 64, 64)).astype(np.float32)


def _worker(task: str, model: Path) -> Finished:
    return _child([__file__, "--folder", ".", "--worker", task, "--model", str(model)])


def _child(arguments: list[str]) -> Finished:
    """Run Python in a process of its own."""
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        printed = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(arguments)} failed with {child.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Finished(
        printed, time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit
    )


if __name__ == "__main__":
    main()
