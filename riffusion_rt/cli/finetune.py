"""A data set and a checkpoint in, the checkpoint fine-tuned out."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from riffusion_engine.errors import MissingExtraError
from riffusion_rt.cli.report import Report, reporting

_NEEDED = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "tensorboard")
"""What fine-tuning imports beyond the base install."""


@click.command("finetune", short_help="A checkpoint learns from a data set: wholly, or as a LoRA.")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="RUN", required=True, help="The run's folder."
)
@click.option("--model", default="riffusion-mini", show_default=True, metavar="CHECKPOINT|BUNDLE|ID")
@click.option("--like", metavar="FOLDER|ID", help="For a single file: where its tokenizer comes from.")
@click.option("--lora/--full", default=True, show_default=True, help="Train a LoRA, or all weights.")
@click.option("--rank", type=int, default=16, show_default=True, help="Of the LoRA.")
@click.option(
    "--layers",
    type=click.Choice(["attention", "all"]),
    default="attention",
    show_default=True,
    help="What the LoRA may change: all learns sounds that are new to the model.",
)
@click.option("--text-encoder", is_flag=True, help="Let the text encoder learn too, for words new to it.")
@click.option("--steps", type=int, default=1000, show_default=True, help="Optimizer steps in all.")
@click.option("--batch", type=int, default=4, show_default=True, help="Pictures at a time on each device.")
@click.option("--accumulate", type=int, default=1, show_default=True, help="Batches in one optimizer step.")
@click.option("--learning-rate", type=float, help="[default: 1e-4 for a LoRA, 1e-5 for all weights]")
@click.option("--schedule", type=click.Choice(["cosine", "constant"]), default="cosine", show_default=True)
@click.option(
    "--precision", type=click.Choice(["auto", "no", "bf16", "fp16"]), default="auto", show_default=True
)
@click.option("--gradient-checkpointing", is_flag=True, help="A third slower, in a fraction of the memory.")
@click.option(
    "--ema", "ema_decay", type=float, default=0.9999, show_default=True, help="With --full; 0 for none."
)
@click.option(
    "--min-snr", "snr_cap", type=float, default=5.0, show_default=True, help="Loss weights; 0 for none."
)
@click.option(
    "--balance/--no-balance",
    default=True,
    show_default=True,
    help="Measure errors by what is usual at their noise level: new sounds are learned sooner.",
)
@click.option("--caption-dropout", "captionless", type=float, default=0.1, show_default=True)
@click.option(
    "--preserve/--no-preserve",
    default=True,
    show_default=True,
    help="A LoRA leaves the empty prompt as it was, so that guidance leads to what is new.",
)
@click.option(
    "--save-seconds", type=float, default=60.0, show_default=True, help="What a kill costs at most."
)
@click.option(
    "--sample-every", type=int, default=250, show_default=True, metavar="STEPS", help="0 for no samples."
)
@click.option("--prompt", "prompts", multiple=True, help="To draw meanwhile.  [default: held-out captions]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--cpu", is_flag=True, help="Train on the CPU though there is a GPU.")
@reporting
def command(
    dataset: Path,
    output: Path,
    model: str,
    like: str | None,
    lora: bool,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Fine-tune a Stable Diffusion class checkpoint on DATASET, a folder that `riffusion-rt dataset` made.

    A LoRA ends as RUN/pytorch_lora_weights.safetensors, all weights as the diffusers folder RUN/checkpoint;
    `riffusion-rt export` takes both. A run that was interrupted goes on with the same command. Watch it with
    `tensorboard --logdir RUN/logs`; samples lie in RUN/samples. On many GPUs: `accelerate launch -m riffusion_rt
    finetune …`. Needs torch: pip install 'riffusion-rt[train]'
    """
    # accelerate starts a process for each device; one of them speaks.
    report = Report(as_json, quiet) if os.environ.get("RANK", "0") == "0" else Report(False, True)
    missing = [package for package in _NEEDED if find_spec(package) is None]
    if missing:
        raise MissingExtraError(
            f"Fine-tuning needs {', '.join(missing)}",
            hint="Install it with: pip install 'riffusion-rt[train]'",
        )
    from riffusion_export.single_file import open_source
    from riffusion_rt.models import locate_checkpoint, locate_settings
    from riffusion_train.finetune import finetune
    from riffusion_train.finetune_recipe import FinetuneRecipe
    from riffusion_train.picture_folder import read_picture_folder

    recipe = FinetuneRecipe(full=not lora, **settings)
    recipe.check()
    pictures = read_picture_folder(dataset)
    folder = locate_checkpoint(model)
    beside = locate_settings(like or "riffusion-v1") if like is not None or folder.is_file() else None
    source = open_source(folder, beside)
    report.line(
        f"{source.name} learns from {len(pictures.train)} pictures of {pictures.width}x{pictures.height} "
        f"({len(pictures.test)} held out)"
    )
    result, resumed, loss, steps = None, 0, math.nan, 0
    with report.progress("finetune", "step") as advance:
        for progress in finetune(pictures, source, output, recipe):
            said: str = progress.stage
            if said == "training":
                said = f"loss {progress.loss:.4f}, {progress.rate_per_s:.1f} pictures/s"
            advance(progress.done, progress.total, said)
            result, resumed = progress.result, progress.resumed_at
            loss, steps = progress.loss, progress.done
    if resumed:
        report.line(f"  went on at step {resumed}")
    if result is not None:
        report.line(f"{result}: {steps} steps" + ("" if math.isnan(loss) else f", loss {loss:.4f}"))
        base = model if lora else result
        fuse = f" --lora {result}" if lora else ""
        report.line(f"Play it: riffusion-rt export {base} -o BUNDLE{fuse}")
    known = None if math.isnan(loss) else loss
    report.document({"result": result, "steps": steps, "loss": known, "resumed_at": resumed, "run": output})
