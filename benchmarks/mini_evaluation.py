"""Is riffusion-mini good? What a jury hears in its clips, how near they are to real ones, and whether any is a copy.

    apt-get install libfluidsynth3 musescore-general-soundfont-small fluid-soundfont-gm
    python benchmarks/mini_evaluation.py prepare --run runs/mini   # renders, trains the jury, judges the jury
    python benchmarks/mini_evaluation.py judge --run runs/mini     # generates, judges; a row in benchmarks/results/

The jury learned from real renders of other seeds and partly another soundfont than the data set's
(``riffusion_train.jury_renders``), and from no generated clip. Figures of the jury itself on renders that it has not
heard stand in the same row: no adherence can be trusted further than those.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from recording import record
from tqdm import tqdm

from riffusion_rt.interpolation import Waypoint
from riffusion_rt.open_model import OpenModel
from riffusion_rt.place_drawing import Place, PlaceDrawer, mixed_place
from riffusion_rt.request import ClipRequest
from riffusion_train.catalogue import BEATS_PER_CLIP
from riffusion_train.jury import (
    LABELS,
    Jury,
    Verdict,
    frechet_distance,
    judge,
    load_jury,
    nearest_distances,
    onset_lag,
    train_jury,
)
from riffusion_train.jury_renders import JuryRenders, render_jury, with_mixed_duos
from riffusion_train.rendered_clips import open_pictures, read_facts, render_dataset

TRAINING_SEED, HELD_OUT_SEED = 7001, 7002
CAPTIONED_SEED, CAPTIONED = 7003, 312
"""Clips as the data set's own, of another seed: their captions are prompts for a comparison of like with like."""

STYLED = {
    "slow church bells": ("church bells", 6),
    "fast acoustic guitar": ("acoustic guitar", 10),
    "very fast electronic beats": ("electronic beats", 12),
    "relaxed strings": ("strings", 6),
    "upbeat marimba arpeggio": ("marimba", 10),
    "mid-tempo blues guitar": ("blues guitar", 8),
}
"""Prompts that name a tempo, too: the instrument and the beats in a clip that they ask for."""

UNSEEN = {
    "slow church bells and fast electronic beats": ("church bells", "electronic beats"),
    "jazzy flute": ("flute", "swing"),
    "jazzy violin": ("violin", "swing"),
    "flute and typewriter taps": ("flute", "typewriter taps"),
}
"""Combinations that no caption of the data set has, and the attributes to be heard."""
UNSEEN_SEEDS = 64
"""Clips of each of them: of eight, a share that is 70 % in truth is found to be 50 % or less in one case of five."""
SPLITS = 20
"""Random halves of real renders that Fréchet distances are averaged over."""

WALKS = (("church bells", "electronic beats"), ("typewriter taps", "jazz piano"))
SEED_IMAGE, SEED_STRENGTH = "beat-94", 0.9
"""What Riffusion's walks are drawn on, so that all of a walk has one beat, and how far they go from it."""
POINTS = 9
CLIP_MS = 5_120.0

RUN = click.option("--run", type=click.Path(path_type=Path), default=Path("runs/mini"), show_default=True)


@click.group()
def main() -> None:
    """Judge riffusion-mini."""


@main.command()
@RUN
@click.option("--renders", default=1400, show_default=True, help="Clips that the jury learns from.")
@click.option("--duos", default=800, show_default=True, help="Duos mixed of these clips, to learn from, too.")
@click.option("--held-out", default=400, show_default=True, help="Clips that it is judged on.")
def prepare(run: Path, renders: int, duos: int, held_out: int) -> None:
    """Render what the jury needs (what is there is kept), train it, and judge it."""
    for name, count, seed in (
        ("jury_renders.npz", renders, TRAINING_SEED),
        ("jury_held_out.npz", held_out, HELD_OUT_SEED),
    ):
        if not (run / name).exists():
            *_, made = tqdm(render_jury(count, seed), total=count, unit="clip", desc=name)
            assert isinstance(made, JuryRenders)
            made.save(run / name)
    *_, _ = tqdm(
        render_dataset(run / "held_out", CAPTIONED, seed=CAPTIONED_SEED), total=CAPTIONED, desc="held_out"
    )
    learned = with_mixed_duos(JuryRenders.load(run / "jury_renders.npz"), duos, TRAINING_SEED)
    for report in train_jury(learned, run / "jury.pt"):
        if report.step % 100 == 0:
            click.echo(f"{report.fraction:4.0%}  right while learning {report.measure:.3f}")
    for name, value in _jury_itself(load_jury(run / "jury.pt"), _held_out(run)).items():
        click.echo(f"{name:24} {value:.3f}")


@main.command(name="judge")
@RUN
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seeds", default=24, show_default=True)
@click.option("--first-seed", default=30_000, show_default=True, help="Every clip of a prompt has its own.")
@click.option("--batch", default=4, show_default=True, help="Clips denoised together.")
@click.option("--steps", type=int)
@click.option("--guidance", type=float)
@click.option("--sampler")
def judge_model(
    run: Path,
    model: str,
    device: str,
    seeds: int,
    first_seed: int,
    batch: int,
    steps: int | None,
    guidance: float | None,
    sampler: str | None,
) -> None:
    """Generate clips and write down what the jury makes of them."""
    jury, held_out = load_jury(run / "jury.pt"), _held_out(run)
    opened = OpenModel(model, device=device)
    settings = ClipRequest("", steps=steps, guidance=guidance, sampler=sampler)
    painter = Painter(opened, settings, batch)
    every = range(first_seed, first_seed + seeds)
    asked = {**{label: (label, None) for label in LABELS}, **STYLED}
    # Clips of one noise are alike, whatever the prompt: a set of them is compared with real ones as if they were not.
    drawn = {
        prompt: painter.prompts(prompt, range(first_seed + number * seeds, first_seed + (number + 1) * seeds))
        for number, prompt in enumerate(tqdm(asked, unit="prompt"))
    }
    adherence = _adherence(jury, drawn, asked)
    unseen = {
        prompt: _attributes(
            judge(jury, painter.prompts(prompt, range(first_seed, first_seed + UNSEEN_SEEDS))), wanted
        )
        for prompt, wanted in tqdm(UNSEEN.items(), unit="prompt")
    }
    seeded = dataclasses.replace(
        painter, settings=dataclasses.replace(settings, seed_image=SEED_IMAGE, strength=SEED_STRENGTH)
    )
    walks, on_a_beat = (
        [_walk(jury, each, start, end, seed) for start, end in WALKS for seed in every[:3]]
        for each in (painter, seeded)
    )
    solos = np.concatenate([drawn[label] for label in LABELS])
    defaults = settings.resolved(opened.manifest.defaults)
    figures = {
        **adherence,
        "unseen": unseen,
        **_distances(run, jury, solos, held_out),
        **_as_captioned(run, jury, painter, first_seed),
        "walks": walks,
        "walks_on_a_seed_image": on_a_beat,
        "jury_on_held_out": _jury_itself(jury, held_out),
    }
    _print(figures)
    record(
        "mini_evaluation",
        model=model,
        device=device,
        seeds=[every[0], every[-1]],
        other_seeds_for_each_prompt=True,
        sampler=defaults.sampler,
        steps=defaults.steps,
        guidance=defaults.guidance,
        seed_strength=SEED_STRENGTH,
        seed_guidance=seeded.settings.resolved(opened.manifest.defaults).guidance,
        unseen_seeds=UNSEEN_SEEDS,
        **figures,
    )


@dataclass(frozen=True)
class Painter:
    """Draws pictures, several in a pass; no sound is made."""

    model: OpenModel
    settings: ClipRequest
    batch: int

    def prompts(self, prompt: str, seeds: Sequence[int]) -> NDArray[np.uint8]:
        """One picture for each seed, uint8 (n, bands, columns)."""
        return self.places([((self.waypoint(prompt, seed), 1.0),) for seed in seeds])

    def walk(self, start: str, end: str, seed: int) -> NDArray[np.uint8]:
        """Pictures from one prompt to another, with one seed."""
        first, last = (((self.waypoint(prompt, seed), 1.0),) for prompt in (start, end))
        return self.places([mixed_place(first, last, share) for share in np.linspace(0, 1, POINTS)])

    def places(self, places: Sequence[Place]) -> NDArray[np.uint8]:
        """One picture for each place."""
        drawer = PlaceDrawer(self.model, self.settings)
        pictures: list[NDArray[np.uint8]] = []
        for first in range(0, len(places), self.batch):
            *_, last = drawer.denoised(places[first : first + self.batch])
            pictures += [pixels[:, :, 0] for pixels in drawer.pictures(last.latents)]
        return np.stack(pictures)

    def waypoint(self, prompt: str, seed: int) -> Waypoint:
        """A prompt and a seed, at the guidance that the settings mean."""
        guidance = self.settings.resolved(self.model.manifest.defaults).guidance
        return Waypoint(prompt, seed=seed, guidance=guidance)


def _held_out(run: Path) -> JuryRenders:
    return JuryRenders.load(run / "jury_held_out.npz")


def _jury_itself(jury: Jury, held_out: JuryRenders) -> dict[str, float]:
    """How often the jury is right about real renders that it has not heard."""
    verdict = judge(jury, held_out.pictures)
    solo = [len(names) == 1 for names in held_out.labels]
    asked = held_out.swings >= 0
    return {
        "instrument": float(
            np.mean(
                [t in n for t, n, alone in zip(verdict.top(), held_out.labels, solo, strict=True) if alone]
            )
        ),
        "both_of_two": float(
            np.mean(
                [
                    {LABELS[k] for k in np.argsort(row)[-2:]} == set(names)
                    for row, names, alone in zip(verdict.instruments, held_out.labels, solo, strict=True)
                    if not alone
                ]
            )
        ),
        "tempo": float(np.mean(np.array(verdict.tempo()) == held_out.beats)),
        "swing": float(np.mean((verdict.swings > 0.5)[asked] == (held_out.swings[asked] == 1))),
    }


def _adherence(
    jury: Jury, drawn: dict[str, NDArray[np.uint8]], asked: dict[str, tuple[str, int | None]]
) -> dict[str, Any]:
    right, instead, in_time = {}, {}, []
    for prompt, (label, beats) in asked.items():
        verdict = judge(jury, drawn[prompt])
        heard = verdict.top()
        right[prompt] = heard.count(label) / len(heard)
        instead[prompt] = sorted({name for name in heard if name != label})
        if beats is not None:
            in_time += [counted == beats for counted in verdict.tempo()]
    return {
        "prompts": len(asked),
        "top_1": float(np.mean(list(right.values()))),
        "tempo_as_asked": float(np.mean(in_time)),
        "per_prompt": right,
        "heard_instead": {prompt: names for prompt, names in instead.items() if names},
    }


def _attributes(verdict: Verdict, wanted: Sequence[str]) -> dict[str, float]:
    """Share of clips in which each attribute is heard: an instrument among as many likeliest ones as are asked for."""
    players = [name for name in wanted if name in LABELS]
    likeliest = np.argsort(verdict.instruments, axis=1)[:, -len(players) :]
    found = {name: float(np.mean((likeliest == LABELS.index(name)).any(axis=1))) for name in players}
    if "swing" in wanted:
        found["swing"] = float(np.mean(verdict.swings > 0.5))
    return found


def _walk(jury: Jury, painter: Painter, start: str, end: str, seed: int) -> dict[str, Any]:
    """From one prompt to another: the share of the end that is heard, reversals on the way, and how beats shift."""
    pictures = painter.walk(start, end, seed)
    heard = judge(jury, pictures).instruments[:, [LABELS.index(start), LABELS.index(end)]]
    share = heard[:, 1] / heard.sum(axis=1)
    return {
        "walk": f"{start} -> {end}",
        "seed": seed,
        "share_of_the_end": [round(float(value), 3) for value in share],
        # What the jury cannot tell apart is no step back.
        "reversals": int(np.sum(np.diff(share) < -0.02)),
        "crosses_over": bool(share[0] < 0.5 < share[-1]),
        "onset_lag_ms": round(onset_lag(pictures) * CLIP_MS / pictures.shape[2], 1),
        "beat_shift_ms": round(_beat_shift_ms(pictures), 1),
    }


def _beat_shift_ms(pictures: NDArray[np.uint8]) -> float:
    """The largest move of the beat from one picture to the next, by the phase of the commonest beat's rate.

    That turns, too, where other beats of a bar are accented and nothing moves: ``onset_lag`` does not.
    """
    levels = 1 - pictures.astype(np.float64) / 255
    rise = np.maximum(levels - np.roll(levels, 1, axis=2), 0).mean(axis=1)
    spectrum = np.fft.rfft(rise, axis=1)
    beats = max(BEATS_PER_CLIP, key=lambda number: float(np.abs(spectrum[:, number]).sum()))
    turns = np.angle(spectrum[1:, beats] / spectrum[:-1, beats])
    return float(np.abs(turns).max() / (2 * np.pi) * CLIP_MS / beats)


def _distances(run: Path, jury: Jury, clips: NDArray[np.uint8], held_out: JuryRenders) -> dict[str, Any]:
    """Fréchet distances of as many clips each, and how near clips come to the data set against real ones."""
    solo = np.array([len(names) == 1 for names in held_out.labels])
    real = held_out.part(np.flatnonzero(solo)).pictures
    order = np.random.default_rng(1).permutation(len(clips))
    half, first = len(real) // 2, np.random.default_rng(0).permutation(len(real))[: len(real) // 2]
    learned = np.asarray(open_pictures(run / "clips"))[: len(read_facts(run / "clips"))]
    near, near_real = (nearest_distances(each, learned) for each in (clips[order[:half]], real[first]))
    return {
        **_frechet(jury, clips, real),
        "nearest_learned": [round(float(q), 4) for q in np.quantile(near, (0, 0.05, 0.5))],
        "nearest_learned_of_real": [round(float(q), 4) for q in np.quantile(near_real, (0, 0.05, 0.5))],
    }


def _as_captioned(run: Path, jury: Jury, painter: Painter, first_seed: int) -> dict[str, float]:
    """Fréchet distances where clips are asked for by the captions of real ones, and compared with others of the kind.

    These are the data set's kind: one soundfont, duos and all tempi, as often as they come there.
    """
    real, facts = np.asarray(open_pictures(run / "held_out")), read_facts(run / "held_out")
    half = len(facts) // 2
    places = [((painter.waypoint(each.caption, first_seed + i), 1.0),) for i, each in enumerate(facts[half:])]
    first, second, ours = (
        judge(jury, each).embeddings for each in (real[:half], real[half:], painter.places(places))
    )
    return {
        "frechet_as_captioned": frechet_distance(ours, first),
        "frechet_of_two_halves_as_captioned": frechet_distance(second, first),
    }


def _frechet(jury: Jury, clips: NDArray[np.uint8], real: NDArray[np.uint8]) -> dict[str, Any]:
    """Of clips to one half of the real ones, and of that half to the other; as many on every side.

    Means over ``SPLITS`` random halves: between two halves of the same renders it was 93 to 210, by chance.
    """
    rng = np.random.default_rng(0)
    half = min(len(real) // 2, len(clips))
    ours, theirs = (judge(jury, each).embeddings for each in (clips, real))
    distances: list[tuple[float, float]] = []
    for _ in range(SPLITS):
        some, order = rng.permutation(len(ours))[:half], rng.permutation(len(theirs))
        first, second = theirs[order[:half]], theirs[order[half : 2 * half]]
        distances.append((frechet_distance(ours[some], first), frechet_distance(second, first)))
    mean, spread = np.mean(distances, axis=0), np.std(distances, axis=0)
    return {
        "frechet": float(mean[0]),
        "frechet_of_two_real_halves": float(mean[1]),
        "frechet_spreads": [round(float(each), 1) for each in spread],
        "splits": SPLITS,
        "clips_a_side": half,
    }


def _print(figures: dict[str, Any], indent: str = "") -> None:
    for name, value in figures.items():
        if isinstance(value, dict):
            click.echo(f"{indent}{name}")
            _print(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for each in value:
                click.echo(f"{indent}{name}: {each}")
        else:
            click.echo(
                f"{indent}{name:28} {value:.3f}" if isinstance(value, float) else f"{indent}{name:28} {value}"
            )


if __name__ == "__main__":
    main()
