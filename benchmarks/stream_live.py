"""A long live stream: is any block late, does memory grow, can joints be told, is it even, how soon is steering heard?

    python benchmarks/stream_live.py --minutes 2
    python benchmarks/stream_live.py --model TOY-BUNDLE --minutes 10

The stream plays against a clock that counts the seconds that the process really works and skips its waits: ten minutes
of sound are measured in the time that it takes to make them. The seconds are those of a wall clock, with whatever else
the machine does; or, where others may stop the process meanwhile, CPU seconds over what a second on an idle machine
holds of them (``--cpu-rate``, which a run by the wall clock prints). Steers come from another thread at any moment of
the work, and are timed until the first sample of the bar that is theirs is heard.

Joints are judged as ``phase_seams.py`` does: step, flux and jump at each joint over the greatest inside the two clips,
or in one reconstruction of both. The same clips butted, each reconstructed alone, are judged beside them. Loudness is
pyloudnorm's where that is installed.
"""

from __future__ import annotations

import resource
import threading
import time
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from phase_seams import seam_ratios
from recording import record

from riffusion_rt.bar_grid import BARS_A_CLIP

PROMPTS = ("funky piano", "electronic beats", "church bells", "jazz piano", "strings")
CHANGE_BLOCK_S = 0.1


class WorkClock:
    """A clock that jumps over waits, and over the benchmark's own work."""

    def __init__(self, cpu_rate: float | None) -> None:
        self._skipped = 0.0
        self._cpu_rate = cpu_rate

    def now(self) -> float:
        """Seconds worked and seconds that would have been waited."""
        worked = time.perf_counter() if self._cpu_rate is None else time.process_time() / self._cpu_rate
        return worked + self._skipped

    def jumped(self, before: float) -> None:
        """Leave out what the benchmark did itself since ``before``."""
        self._skipped -= self.now() - before

    def wait(self, seconds: float) -> None:
        """Be so much later at once."""
        self._skipped += seconds


def resident_mb() -> float:
    """Memory in use now."""
    with open("/proc/self/statm") as file:  # noqa: PTH123 - a pseudo file
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def levelled(
    sound: NDArray[np.floating], like: NDArray[np.float64], clip: int, ramp: int
) -> NDArray[np.float64]:
    """Two clips at the levels of others, bar by bar, with the stream's ramp before each."""
    bar = clip // BARS_A_CLIP
    starts = np.arange(0, 2 * clip, bar)
    gains_db = [
        10
        * np.log10(np.mean(like[at : at + bar] ** 2) / max(np.mean(np.square(sound[at : at + bar])), 1e-18))
        for at in starts
    ]
    corners = np.stack([starts[1:] - ramp, starts[1:]], axis=1).ravel()
    curve = np.interp(np.arange(len(sound)), corners, np.repeat(gains_db, 2)[1:-1])
    return np.asarray(sound * 10 ** (curve / 20), np.float64)


def joints(
    sound: NDArray[np.float32], clip: int, mels: list[NDArray[np.float32]], params: Any
) -> dict[str, float]:
    """The greatest ratio of the three detectors at the joint of two clips: as streamed, and butted."""
    from riffusion_rt.phase import waveform_from_mel

    pair, ramp = sound[: 2 * clip].astype(np.float64), 15 * params.hop_length
    whole = waveform_from_mel(np.concatenate(mels, axis=2), params)[0]
    unbroken = levelled(whole, pair, clip, ramp)
    alone = np.concatenate([waveform_from_mel(mel, params)[0] for mel in mels])
    return {
        "joined": max(seam_ratios(pair, clip, unbroken).values()),
        "butted": max(seam_ratios(levelled(alone, pair, clip, ramp), clip, unbroken).values()),
    }


def loudness_steps(sound: NDArray[np.float32], clip: int, rate: int) -> tuple[float, float, str]:
    """Greatest and mean step of integrated loudness from clip to clip, in LU, and what measured it."""
    pieces = [sound[at : at + clip] for at in range(0, len(sound) - clip + 1, clip)]
    try:
        import pyloudnorm

        meter = pyloudnorm.Meter(rate)
        levels, by = [meter.integrated_loudness(piece.astype(np.float64)) for piece in pieces], "pyloudnorm"
    except ImportError:
        from riffusion_rt.levelling import loudness_lufs

        levels, by = [loudness_lufs(piece[None], rate) for piece in pieces], "riffusion-rt"
    steps = np.abs(np.diff(levels))
    at = int(np.argmax(steps))
    click.echo(f"clips {at} and {at + 1}: {levels[at]:.2f} and {levels[at + 1]:.2f} LUFS")
    return float(steps.max()), float(steps.mean()), by


@click.command()
@click.option("--model", default="riffusion-mini", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--minutes", default=2.0, show_default=True)
@click.option("--steps", type=int, help="Denoising steps.  [default: the model's]")
@click.option("--look-ahead", type=float, help="Seconds.  [default: 1.5 clips]")
@click.option("--steer-every", default=30.0, show_default=True, help="Seconds between steers.")
@click.option(
    "--cpu-rate", type=float, help="Count CPU seconds, so many to a second.  [default: a wall clock]"
)
@click.option("--judged-joints", default=12, show_default=True, help="Joints to judge, evenly spread.")
def main(
    model: str,
    device: str,
    minutes: float,
    steps: int | None,
    look_ahead: float | None,
    steer_every: float,
    judged_joints: int,
    cpu_rate: float | None,
) -> None:
    """Measure, and write a row to benchmarks/results/."""
    from riffusion_rt import Riffusion
    from riffusion_rt.picture_sound import mel_of_pixels
    from riffusion_rt.pipeline import given
    from riffusion_rt.samplers import sampler_table
    from riffusion_rt.stream import Stream
    from riffusion_rt.stream_request import LOOK_AHEAD_CLIPS, StreamRequest

    clock, request = (
        WorkClock(cpu_rate),
        StreamRequest(PROMPTS[0], steps=steps, duration_s=60 * minutes, look_ahead_s=look_ahead),
    )
    blocks: list[dict[str, Any]] = []
    memory: list[float] = []
    latencies: list[float] = []
    with Riffusion(model, device=device) as riffusion:
        # The first clip opens graphs; it is made before the clock runs.
        riffusion.generate(PROMPTS[0], steps=1)
        stream = Stream(riffusion.model, request, clock=clock)
        clip = round(stream.grid.clip_s * stream.rate)
        total = round(60 * minutes * stream.rate)
        # Written now, so that its pages do not count as growth.
        sound = np.full(total, 1e-9, np.float32)
        kept: dict[int, list[NDArray[np.uint8]]] = {}
        clips = int(total / clip)
        judged = set(np.linspace(1, clips - 2, min(judged_joints, max(clips - 2, 1))).astype(int).tolist())
        needed = {number + offset for number in judged for offset in (0, 1)}
        cpu, began = time.process_time(), time.perf_counter()
        chance, next_steer = np.random.default_rng(0), steer_every
        waiting: list[tuple[str, float]] = []

        def steer(prompt: str) -> None:
            waiting.append((prompt, stream.played_s))
            stream.steer(prompt)

        for block in stream:
            paused = clock.now()
            blocks.append(block.header())
            memory.append(resident_mb())
            drawing_s = max(block.compute_s, 0.01)
            sound[block.start : block.start + block.samples.shape[1]] = block.samples[0]
            if block.bar // 2 in needed:
                kept.setdefault(block.bar // 2, []).append(block.pixels.copy())
            if waiting and any(prompt == waiting[0][0] for prompt, _ in block.prompts):
                # Its bar begins at the joint, 150 ms after its samples.
                latencies.append(block.bar * stream.grid.bar_s - waiting.pop()[1])
            clock.jumped(paused)
            if block.start / block.rate > next_steer:
                next_steer += steer_every
                prompt = PROMPTS[int(next_steer / steer_every - 1) % len(PROMPTS)]
                threading.Timer(chance.uniform(0, drawing_s), steer, (prompt,)).start()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        params, bar_s, look = (
            stream._params,
            stream.grid.bar_s,
            look_ahead or LOOK_AHEAD_CLIPS * stream.grid.clip_s,
        )
        found = []
        for number in sorted(judged):
            if all(len(kept.get(each, [])) == 2 for each in (number, number + 1)):
                pair = [
                    mel_of_pixels(np.concatenate(kept[each], axis=1), params) for each in (number, number + 1)
                ]
                found.append(joints(sound[number * clip :], clip, pair, params))
        name, drawer = riffusion.manifest.name, stream._drawer
        # A block's steps are evaluations, of which some samplers take one more.
        sampler, schedule = given(drawer._settings.sampler), drawer._model.schedule
        wanted_steps = len(sampler_table(sampler, schedule, drawer.steps))
    worst_step, mean_step, by = loudness_steps(sound, clip, 44_100)
    # The first clip of all is waited for, not late; memory is flat once everything has been used.
    computed = np.array([block["compute_s"] for block in blocks[2:]])
    drawn = computed[computed > 0.02]
    settled = np.array(memory[len(memory) // 5 :])
    third = len(settled) // 3
    row = {
        "model": name,
        "device": device,
        "minutes": minutes,
        "steps_wanted": wanted_steps,
        "steps_least": min(block["steps"] for block in blocks),
        "clips_with_all_steps": round(
            float(np.mean([block["steps"] == wanted_steps for block in blocks])), 3
        ),
        "clip_s": stream.grid.clip_s,
        "look_ahead_s": look,
        "late_blocks": sum(block["late_s"] > 0 for block in blocks),
        "late_s": round(sum(block["late_s"] for block in blocks), 3),
        "least_ahead_s": round(min(block["ahead_s"] for block in blocks[1:]), 3),
        "compute_s_a_clip": {
            "median": round(float(np.median(drawn)), 3),
            "p95": round(float(np.percentile(drawn, 95)), 3),
            "worst": round(float(drawn.max()), 3),
        },
        "clock": "wall" if cpu_rate is None else f"CPU seconds / {cpu_rate:g}",
        "cpu_s_a_wall_second": round(cpu / wall, 3),
        "cpu_s_a_second_of_sound": round(cpu / (60 * minutes), 3),
        "wall_s_a_second_of_sound": round(wall / (60 * minutes), 3),
        "memory_mb": {
            "median": round(float(np.median(settled)), 1),
            "greatest": round(float(settled.max()), 1),
        },
        "memory_last_third_to_first": round(
            float(np.median(settled[-third:]) / np.median(settled[:third])), 4
        ),
        "joints": {
            way: {
                "judged": len(found),
                "indistinguishable": sum(each[way] <= 1 for each in found),
                "median": round(float(np.median([each[way] for each in found])), 3),
                "worst": round(max(each[way] for each in found), 3),
            }
            for way in ("joined", "butted")
        },
        "loudness_step_lu": {"worst": round(worst_step, 3), "mean": round(mean_step, 3), "by": by},
        "steers": len(latencies),
        "steering_s": {
            "worst": round(max(latencies, default=0.0), 3),
            "allowed": round(look + bar_s, 3),
        },
    }
    for key, value in row.items():
        click.echo(f"{key:28} {value}")
    record("stream_live", **row)


if __name__ == "__main__":
    main()
