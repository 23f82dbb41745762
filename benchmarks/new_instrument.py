"""Can riffusion-mini be taught an instrument that it has never heard, without forgetting those it knows?

    python benchmarks/new_instrument.py --run runs/mini --work runs/harmonica     # needs FluidSynth and the extra train

One command renders recordings of the instrument, makes a data set of them, fine-tunes a LoRA, exports it, generates and
judges: each step as a user would take it, and each kept, so that an interrupted benchmark goes on. The judge is the
listener of benchmarks/adherence.py with one label more, trained on renders only: `runs/mini/clips` (made by `python -m
riffusion_train render`) and loops of the new instrument of another seed than those that the LoRA learns from.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from recording import record
from tqdm import tqdm

from riffusion_rt import ClipRequest, Riffusion
from riffusion_rt.models import locate_model
from riffusion_train import listener
from riffusion_train.catalogue import INSTRUMENTS
from riffusion_train.new_instrument import CAPTIONS, NEW_INSTRUMENTS, new_instrument, render_loop
from riffusion_train.rendered_clips import open_pictures, picture_of, read_facts

LEARNT_SEED, LISTENED_SEED, UNHEARD_SEED = 0, 1, 2
"""Seeds of the loops that the LoRA learns from, the listener learns from, and neither knows."""
LISTENED_LOOPS, UNHEARD_LOOPS = 200, 20
OLD = tuple(i.label for i in INSTRUMENTS if i.weight > 1)


@click.command()
@click.option("--run", type=click.Path(path_type=Path), default=Path("runs/mini"), show_default=True)
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("runs/new-instrument"), show_default=True
)
@click.option(
    "--label", type=click.Choice([i.label for i in NEW_INSTRUMENTS]), default="harmonica", show_default=True
)
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--recordings", default=96, show_default=True)
@click.option(
    "--rehearse", default=2, show_default=True, help="Recordings of each old instrument beside them."
)
@click.option("--steps", default=450, show_default=True)
@click.option("--batch", default=8, show_default=True)
@click.option("--rank", default=16, show_default=True)
@click.option("--learning-rate", default=1.5e-3, show_default=True)
@click.option("--weight", default=0.85, show_default=True, help="How strongly the LoRA is fused.")
@click.option("--guidance", default=4.5, show_default=True, help="Of all clips.")
@click.option("--seeds", default=10, show_default=True, help="Clips of the new instrument.")
@click.option("--old-seeds", default=4, show_default=True, help="Clips of each old one, from each model.")
def main(
    run: Path,
    work: Path,
    label: str,
    model: str,
    recordings: int,
    rehearse: int,
    steps: int,
    batch: int,
    rank: int,
    learning_rate: float,
    weight: float,
    guidance: float,
    seeds: int,
    old_seeds: int,
) -> None:
    """Teach, export, generate and judge; a row goes to benchmarks/results/."""
    base = locate_model(model)
    bundle = work / f"bundle-{weight:g}"
    _taught(work, label, base, recordings, rehearse, steps, batch, rank, learning_rate)
    if not bundle.exists():
        lora = work / "lora" / "pytorch_lora_weights.safetensors"
        _riffusion("export", base, "-o", bundle, "--name", f"{label}-mini", "--lora", f"{lora}:{weight:g}")
    ear, labels, renders_right = _listener(run, work, label)

    heard = {"new": _heard(bundle, [label], seeds, guidance, ear, labels)}
    heard["old after"] = _heard(bundle, OLD, old_seeds, guidance, ear, labels)
    heard["old before"] = _heard(base, OLD, old_seeds, guidance, ear, labels)
    heard["new before"] = _heard(base, [label], seeds, guidance, ear, labels)
    share = {
        name: float(np.mean([right for rights in found.values() for right in rights]))
        for name, found in heard.items()
    }
    kept = share["old after"] / max(share["old before"], 1e-9)
    for name, found in heard.items():
        click.echo(
            f"{name:11} {share[name]:5.1%}  " + ", ".join(f"{p} {np.mean(r):.0%}" for p, r in found.items())
        )
    click.echo(
        f"{label}: {share['new']:.0%} (before {share['new before']:.0%}); old ones keep {kept:.0%} of theirs"
    )
    record(
        "new_instrument",
        label=label,
        model=model,
        recordings=recordings,
        rehearse=rehearse,
        steps=steps,
        batch=batch,
        rank=rank,
        learning_rate=learning_rate,
        weight=weight,
        guidance=guidance,
        adherence_new=share["new"],
        adherence_new_before=share["new before"],
        adherence_old=share["old after"],
        adherence_old_before=share["old before"],
        old_kept=kept,
        clips={"new": seeds, "old": old_seeds * len(OLD)},
        per_prompt={name: {p: float(np.mean(r)) for p, r in found.items()} for name, found in heard.items()},
        listener_on_unheard_renders=renders_right,
    )


def _taught(
    work: Path,
    label: str,
    base: Path,
    recordings: int,
    rehearse: int,
    steps: int,
    batch: int,
    rank: int,
    learning_rate: float,
) -> None:
    """Render, make a data set, fine-tune: the three commands of a user with recordings of their own."""
    sounds, data = work / "recordings", work / "dataset"
    if not (sounds / CAPTIONS).is_file():
        module = [sys.executable, "-m", "riffusion_train.new_instrument"]
        _run(
            [
                *module,
                label,
                "-o",
                sounds,
                "--count",
                recordings,
                "--rehearse",
                rehearse,
                "--seed",
                LEARNT_SEED,
            ]
        )
    _riffusion(
        "dataset",
        sounds,
        "-o",
        data,
        "--captions",
        sounds / CAPTIONS,
        "--loops",
        "--shifts",
        1,
        "--held-out",
        0.05,
    )
    if not (work / "lora" / "pytorch_lora_weights.safetensors").is_file():
        size = ["--steps", steps, "--batch", batch, "--rank", rank, "--learning-rate", learning_rate]
        what = ["--layers", "all", "--text-encoder", "--precision", "bf16", "--sample-every", 0]
        _riffusion("finetune", data, "-o", work / "lora", "--model", base, *what, *size)


def _riffusion(*arguments: object) -> None:
    _run([sys.executable, "-m", "riffusion_rt", *arguments])


def _run(command: Sequence[object]) -> None:
    click.echo("$ " + " ".join(map(str, command[1:])))
    subprocess.run([os.fspath(c) if isinstance(c, Path) else str(c) for c in command], check=True)


def _listener(
    run: Path, work: Path, label: str
) -> tuple[listener.Listener, tuple[str, ...], dict[str, float]]:
    """The listener that knows the new instrument too, its labels, and how well it names renders that it never heard."""
    from riffusion_train.rendering import Orchestra

    labels = (*(i.label for i in INSTRUMENTS), label)
    listener.LABELS = labels  # Its networks have one output for each, and its training looks them up here.
    orchestra, path = Orchestra(), work / "listener.pt"

    def loops(seed: int, count: int) -> NDArray[np.uint8]:
        numbers = tqdm(range(count), unit="loop", desc=label)
        return np.stack(
            [picture_of(render_loop(orchestra, new_instrument(label), seed, i)[0]) for i in numbers]
        )

    if not path.is_file():
        facts = read_facts(run / "clips")
        solos = [i for i, f in enumerate(facts) if len(f.labels) == 1]
        pictures = [np.asarray(open_pictures(run / "clips"))[solos], loops(LISTENED_SEED, LISTENED_LOOPS)]
        names = [facts[i].labels[0] for i in solos] + [label] * LISTENED_LOOPS
        with tqdm(total=1.0, desc="listener") as bar:
            for report in listener.train_listener(np.concatenate(pictures), names, path):
                bar.update(report.fraction - bar.n)
    ear = listener.load_listener(path)
    unheard = dict(np.load(run / "unheard.npz")) if (run / "unheard.npz").is_file() else {}
    unheard[label] = loops(UNHEARD_SEED, UNHEARD_LOOPS)
    right = {
        name: float(np.mean(listener.probabilities(ear, pictures).argmax(axis=1) == labels.index(name)))
        for name, pictures in unheard.items()
        if name in labels
    }
    return ear, labels, {label: right[label], "all": float(np.mean(list(right.values())))}


def _heard(
    bundle: Path,
    prompts: Sequence[str],
    seeds: int,
    guidance: float,
    ear: listener.Listener,
    labels: tuple[str, ...],
) -> dict[str, list[bool]]:
    """For each prompt and seed, whether the listener names what was asked for."""
    found: dict[str, list[bool]] = {}
    with Riffusion(bundle) as riffusion:
        for prompt in tqdm(prompts, unit="prompt", desc=bundle.name):
            clips = []
            for seed in range(1000, 1000 + seeds):
                *_, clip = riffusion.iterate(ClipRequest(prompt, seed=seed, guidance=guidance))
                clips.append(np.asarray(clip.image)[:, :, 0])  # type: ignore[union-attr]
            named = listener.probabilities(ear, np.stack(clips)).argmax(axis=1)
            found[prompt] = [bool(labels[k] == prompt) for k in named]
            others = json.dumps({labels[k]: int((named == k).sum()) for k in set(named.tolist())})
            tqdm.write(f"{prompt}: {others}")
    return found


if __name__ == "__main__":
    main()
