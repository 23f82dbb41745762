"""Does the model play what it is asked for? A classifier trained on real renders only names what it hears.

    python benchmarks/adherence.py prepare --run runs/mini     # needs FluidSynth: renders and trains the listener
    python benchmarks/adherence.py judge --run runs/mini       # generates clips and writes a row to benchmarks/results/

The listener hears the rendered training clips of one instrument each, and is itself judged on renders of another
seed before it may judge a model. It never hears a generated clip while it learns.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from recording import record
from tqdm import tqdm

from riffusion_rt import ClipRequest, Riffusion
from riffusion_train.catalogue import INSTRUMENTS
from riffusion_train.listener import LABELS, load_listener, probabilities, train_listener
from riffusion_train.rendered_clips import open_pictures, picture_of, read_facts, render_clip

REQUIRED = tuple(i.label for i in INSTRUMENTS if i.weight > 1)
"""The vocabulary that the first version promises."""
UNHEARD_SEED = 101
"""Seed of the renders that neither the model nor the listener was trained on."""
RUN = click.option("--run", type=click.Path(path_type=Path), default=Path("runs/mini"), show_default=True)


@click.group()
def main() -> None:
    """Judge prompt adherence."""


@main.command()
@RUN
@click.option("--held-out", default=10, show_default=True, help="Unheard renders of each instrument.")
def prepare(run: Path, held_out: int) -> None:
    """Train the listener on real renders and judge it on unheard ones."""
    from riffusion_train.rendering import Orchestra

    facts = read_facts(run / "clips")
    solos = [i for i, f in enumerate(facts) if len(f.labels) == 1]
    pictures = np.asarray(open_pictures(run / "clips"))[solos]
    for report in train_listener(pictures, [facts[i].labels[0] for i in solos], run / "listener.pt"):
        click.echo(f"{report.fraction:4.0%}  right while learning {report.measure:.3f}")
    orchestra = Orchestra()
    unheard = {
        label: np.stack(
            [picture_of(render_clip(orchestra, UNHEARD_SEED, i, label=label)[0]) for i in range(held_out)]
        )
        for label in tqdm(LABELS, unit="instrument")
    }
    np.savez_compressed(run / "unheard.npz", **unheard)
    _print(_confusion(run, unheard))


@main.command()
@RUN
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--first-seed", default=0, show_default=True)
@click.option("--everything", is_flag=True, help="All instruments, not only the promised ones.")
@click.option("--steps", type=int)
@click.option("--guidance", type=float)
@click.option("--sampler")
def judge(
    run: Path,
    model: str,
    seeds: int,
    first_seed: int,
    everything: bool,
    steps: int | None,
    guidance: float | None,
    sampler: str | None,
) -> None:
    """Generate clips and let the listener name the instrument."""
    heard: dict[str, NDArray[np.uint8]] = {}
    settings = {"steps": steps, "guidance": guidance, "sampler": sampler}
    with Riffusion(model) as riffusion:
        defaults = riffusion.manifest.defaults
        for label in tqdm(LABELS if everything else REQUIRED, unit="prompt"):
            pictures = []
            for seed in range(first_seed, first_seed + seeds):
                *_, clip = riffusion.iterate(ClipRequest(label, seed=seed, **settings))
                pictures.append(np.asarray(clip.image)[:, :, 0])  # type: ignore[union-attr]
            heard[label] = np.stack(pictures)
    right = _confusion(run, heard)
    _print(right)
    record(
        "adherence",
        model=model,
        seeds=[first_seed, first_seed + seeds - 1],
        sampler=sampler or defaults.sampler,
        steps=steps or defaults.steps,
        guidance=guidance or defaults.guidance,
        top_1=_overall(right),
        per_prompt={label: named[label] / sum(named.values()) for label, named in right.items()},
        listener_on_unheard_renders=_overall(_confusion(run, dict(np.load(run / "unheard.npz")))),
    )


def _confusion(run: Path, heard: dict[str, NDArray[np.uint8]]) -> dict[str, Counter[str]]:
    listener = load_listener(run / "listener.pt")
    return {
        label: Counter(LABELS[k] for k in probabilities(listener, pictures).argmax(axis=1))
        for label, pictures in heard.items()
    }


def _overall(confusion: dict[str, Counter[str]]) -> float:
    return sum(n[label] for label, n in confusion.items()) / sum(sum(n.values()) for n in confusion.values())


def _print(confusion: dict[str, Counter[str]]) -> None:
    for label, named in confusion.items():
        others = ", ".join(f"{name} {count}" for name, count in named.most_common() if name != label)
        click.echo(f"{label:18} {named[label]:3}/{sum(named.values())}   {others}")
    click.echo(f"top-1: {_overall(confusion):.1%}")


if __name__ == "__main__":
    main()
