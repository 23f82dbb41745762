"""Rows of an accepted run and of a new one in, exit code 1 out if the new one is slower beside its peer or less alike.

    python benchmarks/regression.py ACCEPTED.jsonl NEW.jsonl [--slower 0.15] [--parity 3]

Speeds are compared as ratios to the peer of the same run, never in seconds: the machine may differ. Of each part the
newest row counts. For use in continuous integration.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

PSNR_LOSS_DB = 6.0
SSIM_LOSS = 0.01
INAUDIBLE = {"relative_l2": 1e-6, "lsd_db": 0.05}
"""Distances below these are rounding, whatever they were before."""


@click.command(context_settings={"max_content_width": 110})
@click.argument("accepted", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--slower", default=0.15, show_default=True, help="Share of the speed ratio that may be lost.")
@click.option("--parity", default=3.0, show_default=True, help="Factor by which a distance may grow.")
def main(accepted: Path, new: Path, slower: float, parity: float) -> None:
    """Compare two files of rows."""
    before, after = newest(accepted), newest(new)
    common = sorted(before.keys() & after.keys())
    if not common:
        raise click.UsageError(
            f"{accepted} and {new} share no part. Run the same suite twice: pytest benchmarks --suite NAME"
        )
    faults = [fault for key in common for fault in regressions(before[key], after[key], slower, parity)]
    for key in common:
        click.echo(
            f"{' · '.join(key)}: {before[key]['times_faster']:.2f}× → {after[key]['times_faster']:.2f}× its peer"
        )
    for key in sorted(before.keys() - after.keys()):
        click.echo(f"{' · '.join(key)}: not measured this time")
    for fault in faults:
        click.echo(f"REGRESSION {fault}", err=True)
    sys.exit(1 if faults else 0)


def newest(path: Path) -> dict[tuple[str, ...], dict[str, Any]]:
    """The last row of each (model, part, batch, device, peer) in a file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    names = ("model", "part", "batch", "device", "peer")
    return {tuple(str(row[name]) for name in names): row for row in rows if "times_faster" in row}


def regressions(before: dict[str, Any], after: dict[str, Any], slower: float, parity: float) -> list[str]:
    """What has become worse, a line each."""
    part, faults = f"{after['part']} (batch {after['batch']})", []
    if not after["times_faster"] >= before["times_faster"] * (1 - slower):
        faults.append(f"{part}: {before['times_faster']:.2f}× its peer became {after['times_faster']:.2f}×")
    for measure, value in before["parity"].items():
        now = after["parity"].get(measure)
        if now is None or not _as_alike(measure, value, now, parity):
            faults.append(
                f"{part}: {measure} was {value:.3g}, is {now if now is None else format(now, '.3g')}"
            )
    return faults


def _as_alike(measure: str, before: float, now: float, parity: float) -> bool:
    if measure.endswith("psnr_db"):
        return now >= before - PSNR_LOSS_DB
    if measure.endswith("ssim"):
        return now >= before - SSIM_LOSS
    floor = next((least for ending, least in INAUDIBLE.items() if measure.endswith(ending)), 0.0)
    return now <= max(before * parity, floor)


if __name__ == "__main__":
    main()
