"""The benchmark suites run, their rows say what was measured, and a regression is caught."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import regression  # noqa: E402
import report  # noqa: E402
import report_tables  # noqa: E402


def _row(part: str = "unet", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model": "toy",
        "part": part,
        "batch": 1,
        "device": "cpu",
        "ours": "riffusion-rt float32",
        "peer": "diffusers eager float32",
        "ours_s": {"median": 0.1, "p95": 0.12, "runs": 5},
        "peer_s": {"median": 0.3, "p95": 0.31, "runs": 5},
        "times_faster": 3.0,
        "parity": {"output_relative_l2": 2e-5, "picture_psnr_db": 80.0},
        "machine": "a machine, 2 cores",
        "versions": {"torch": "2.13"},
        "commit": "abc",
    }
    return {**row, **changes}


def _file(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _compare(folder: Path, before: dict[str, Any], after: dict[str, Any]) -> Any:
    files = [str(_file(folder, "before", before)), str(_file(folder, "after", after))]
    return CliRunner().invoke(regression.main, files)


def test_the_same_rows_are_no_regression(tmp_path: Path) -> None:
    assert _compare(tmp_path, _row(), _row()).exit_code == 0


def test_a_slower_machine_is_no_regression_if_the_peer_is_slower_too(tmp_path: Path) -> None:
    slower = _row(
        ours_s={"median": 1.0, "p95": 1.2, "runs": 5}, peer_s={"median": 3.0, "p95": 3.1, "runs": 5}
    )
    assert _compare(tmp_path, _row(), slower).exit_code == 0


@pytest.mark.parametrize(
    "worse",
    [
        {"times_faster": 2.4},
        {"times_faster": float("nan")},
        {"parity": {"output_relative_l2": 2e-4, "picture_psnr_db": 80.0}},
        {"parity": {"output_relative_l2": 2e-5, "picture_psnr_db": 60.0}},
        {"parity": {"output_relative_l2": float("nan"), "picture_psnr_db": 80.0}},
        {"parity": {"picture_psnr_db": 80.0}},
    ],
    ids=["slower", "no speed", "further away", "another picture", "not a number", "not measured"],
)
def test_a_regression_fails_and_is_named(tmp_path: Path, worse: dict[str, Any]) -> None:
    done = _compare(tmp_path, _row(), _row(**worse))
    assert done.exit_code == 1
    assert "REGRESSION unet (batch 1)" in done.output


def test_the_newest_row_of_a_part_counts(tmp_path: Path) -> None:
    before = _file(tmp_path, "before", _row())
    after = _file(tmp_path, "after", _row(times_faster=1.0), _row(times_faster=3.1))
    assert CliRunner().invoke(regression.main, [str(before), str(after)]).exit_code == 0


def test_files_without_a_common_part_are_refused(tmp_path: Path) -> None:
    done = _compare(tmp_path, _row(), _row("vae_decoder"))
    assert done.exit_code == 2
    assert "share no part" in done.output


def test_tables_and_charts_say_what_the_rows_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").mkdir()
    _file(tmp_path / "results", "suite", _row(times_faster=1.0), _row())
    monkeypatch.setattr(report_tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "CHARTS", tmp_path / "charts")
    text = report.readme(f"before {report.BEGIN} old {report.END} after")
    assert text.startswith("before ")
    assert text.endswith(" after")
    assert "| unet | 1 | 100 ms | 300 ms (diffusers eager float32) | 3.0× |" in text
    assert "a machine, 2 cores" in text
    assert "old" not in text
    (chart,) = report.charts().values()
    assert "3.0×" in chart
    assert report.readme(text) == text
    assert report.charts() == report.charts()


def test_the_readme_is_what_the_rows_say() -> None:
    assert CliRunner().invoke(report.main, ["--check"]).output == ""


def test_the_suites_measure_both_sides_of_the_toy(toy_bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", str(BENCHMARKS), "-q", f"--model={toy_bundle}"]
    command += ["--rounds=1", "--steps=2", "--suite=toy", f"--results={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        command, cwd=BENCHMARKS, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
    rows = [json.loads(line) for line in (tmp_path / "toy.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {
        "text_encoder",
        "unet",
        "vae_decoder",
        "vae_encoder",
        "clip of 2 steps",
        "walk of 10 steps",
    }
    for row in rows:
        assert row["ours_s"]["median"] > 0
        assert row["peer_s"]["median"] > 0
        distances = [value for name, value in row["parity"].items() if name.endswith("relative_l2")]
        assert distances
        assert max(distances) < 1e-3
