"""A training reports, saves on the way and at its end, and goes on where it was stopped."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from riffusion_train import training_loop
from riffusion_train.training_loop import TrainingLoop, set_rate, warm_cosine


def loop_of(path: Path, model: nn.Module, steps: int | None = None, minutes: float = 1.0) -> TrainingLoop:
    return TrainingLoop(path / "state.pt", minutes=minutes, steps=steps, save_every=30, model=model)


def count_in(model: nn.Linear) -> tuple[float, float]:
    with torch.no_grad():
        model.bias += 1
    return 0.5, float(model.bias.detach())


def test_it_reports_and_saves_and_stops(tmp_path: Path) -> None:
    model, left = nn.Linear(1, 1), []
    nn.init.zeros_(model.bias)
    loop = loop_of(tmp_path, model, steps=70)
    reports = list(loop.run(lambda done: count_in(model), lambda: left.append(loop.step)))
    assert [report.step for report in reports] == [20, 40, 60]
    assert [report.fraction for report in reports] == pytest.approx([19 / 70, 39 / 70, 59 / 70])
    assert left == [30, 60, 70]
    assert 1 < reports[0].measure < 20 and reports[0].loss == 0.5  # It is smoothed: less than the last one.


def test_what_was_stopped_goes_on(tmp_path: Path) -> None:
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.bias)
    loop = loop_of(tmp_path, model, steps=100)
    loop.kept["usual"] = [1.0, 2.0]
    for report in loop.run(lambda done: count_in(model)):
        if report.step == 40:
            break  # Ten batches after it was last saved.
    again = nn.Linear(1, 1)
    resumed = loop_of(tmp_path, again, steps=100)
    assert (resumed.step, resumed.kept, float(again.bias.detach())) == (30, {"usual": [1.0, 2.0]}, 30.0)
    assert [report.step for report in resumed.run(lambda done: count_in(again))] == [40, 60, 80, 100]
    assert float(again.bias.detach()) == 100
    finished = loop_of(tmp_path, nn.Linear(1, 1), steps=100)
    assert list(finished.run(lambda done: pytest.fail("It is done"))) == []


def test_time_of_earlier_runs_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(training_loop.time, "monotonic", lambda: clock[0])
    model, shares = nn.Linear(1, 1), []

    def batch(done: float) -> tuple[float, float]:
        shares.append(done)
        clock[0] += 6
        return 0.0, 0.0

    list(loop_of(tmp_path, model, minutes=0.5).run(batch))
    assert shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    clock[0] = 0.0  # Another boot: only differences mean anything.
    list(loop_of(tmp_path, model, minutes=1.0).run(batch))
    assert shares[5:] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])


def test_rates_warm_up_and_fall() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    set_rate(optimizer, 0.25)
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert warm_cosine(0, 0.0, warm_steps=10) == pytest.approx(0.1)
    assert warm_cosine(10, 0.0, warm_steps=10) == 1.0
    assert warm_cosine(99, 1.0, warm_steps=10) == pytest.approx(0.02)
    assert math.isclose(warm_cosine(99, 2.0, warm_steps=10), 0.02)
