"""This machine and a model in, how fast it plays here and whether that is fast enough to play live out."""

from __future__ import annotations

import dataclasses

import click

from riffusion_rt.cli.report import Report, reporting


@click.command("bench", short_help="How fast is this machine? Stage by stage, against real time.")
@click.option(
    "--model",
    default="riffusion-mini",
    show_default=True,
    metavar="NAME",
    help="A short name, a bundle's folder, or a hub id.",
)
@click.option(
    "--device", default="auto", show_default=True, help="cpu, openvino, cuda; see `riffusion-rt doctor`."
)
@click.option("--threads", type=int, metavar="N", help="CPU threads.  [default: as many as help]")
@click.option("--runs", type=int, default=5, show_default=True, help="Clips to measure.")
@click.option("--steps", type=int, help="Denoising steps.  [default: the model's]")
@reporting
def command(
    model: str,
    device: str,
    threads: int | None,
    runs: int,
    steps: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make some clips, warm, and say how much faster than real time that was."""
    report = Report(as_json, quiet)
    from riffusion_rt.pipeline import Riffusion
    from riffusion_rt.speed import Speed, measure_speed

    with (
        Riffusion(model, device=device, threads=threads) as riffusion,
        report.progress("measuring", "clips") as advance,
    ):
        for done in measure_speed(riffusion, runs=runs, steps=steps):
            if isinstance(done, Speed):
                speed = done
            else:
                advance(round(done * (runs + 1)), runs + 1)
    report.line(f"{speed.model} on {speed.device}: {speed.clip_s:.2f} s of sound, {speed.runs} runs")
    for stage, seconds in speed.stages_s.items():
        report.line(f"  {stage:8} {seconds:8.3f} s")
    report.line(f"  {'clip':8} {speed.median_s:8.3f} s   (95th percentile {speed.p95_s:.3f} s)")
    worst = max(speed.parity.values(), default=0.0)
    report.line(f"  graphs are within {worst:.1e} of torch (relative L2, measured at export)")
    report.line(speed.verdict)
    report.document(
        {
            **dataclasses.asdict(speed),
            "times_real_time": speed.times_real_time,
            "live_steps": speed.live_steps,
            "verdict": speed.verdict,
        }
    )
