"""The speed that is reported is what was measured, and the verdict follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from riffusion_engine.errors import RequestError
from riffusion_rt import Riffusion
from riffusion_rt.cli import main
from riffusion_rt.speed import LIVE_MARGIN, Speed, measure_speed


def _speed(denoise_s: float, rest_s: float, steps: int = 20) -> Speed:
    stages = {"text": rest_s, "denoise": denoise_s}
    return Speed("toy", "cpu", 5, steps, 5.0, denoise_s + rest_s, denoise_s + rest_s, stages, {})


def test_every_stage_of_every_counted_run_is_measured(toy_bundle: Path) -> None:
    with Riffusion(toy_bundle, device="cpu") as riffusion:
        *shares, speed = measure_speed(riffusion, runs=2, steps=3)
    assert isinstance(speed, Speed)
    assert shares == [1 / 3, 2 / 3, 1]
    assert {"text", "denoise", "decode", "phase"} <= speed.stages_s.keys()
    assert all(seconds > 0 for seconds in speed.stages_s.values())
    assert speed.median_s >= speed.stages_s["denoise"]
    assert speed.times_real_time == speed.clip_s / speed.median_s
    assert speed.parity["unet"] > 0


def test_a_fast_machine_plays_live() -> None:
    assert _speed(1.0, 0.5).verdict == "Fast enough to play live: 3.33× real time at 20 steps"


def test_a_slow_machine_is_told_how_many_steps_it_can_afford() -> None:
    slow = _speed(8.0, 1.0)
    assert slow.live_steps == 7
    assert "--steps 7" in slow.verdict
    assert slow.clip_s / (slow.live_steps * 8.0 / 20 + 1.0) >= LIVE_MARGIN
    assert slow.clip_s / ((slow.live_steps + 1) * 8.0 / 20 + 1.0) < LIVE_MARGIN


def test_a_hopeless_machine_is_told_so() -> None:
    hopeless = _speed(80.0, 4.5)
    assert hopeless.live_steps == 0
    assert "any number of steps" in hopeless.verdict


def test_no_runs_measure_nothing(toy_bundle: Path) -> None:
    with Riffusion(toy_bundle, device="cpu") as riffusion, pytest.raises(RequestError, match="0 runs"):
        next(iter(measure_speed(riffusion, runs=0)))


def test_the_command_reports_lines_and_json(toy_bundle: Path) -> None:
    options = ["bench", "--model", str(toy_bundle), "--device", "cpu", "--runs", "1", "--steps", "2"]
    lines = CliRunner().invoke(main, options)
    assert lines.exit_code == 0
    assert "× real time at 2 steps" in lines.output
    document = json.loads(CliRunner().invoke(main, [*options, "--json"]).output)
    assert document["steps"] == 2
    assert document["times_real_time"] == pytest.approx(document["clip_s"] / document["median_s"])


def test_the_command_refuses_no_runs_in_one_line(toy_bundle: Path) -> None:
    done = CliRunner().invoke(main, ["bench", "--model", str(toy_bundle), "--runs", "0"])
    assert done.exit_code == 2
    assert "Try --runs 5" in done.output
