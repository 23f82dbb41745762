"""Rows of ``benchmarks/results/`` in, the README's benchmark tables and the charts beside them out.

    python benchmarks/report.py            # rewrites README.md between its marks, and benchmarks/charts/*.svg
    python benchmarks/report.py --check    # exit code 1 if they are not what the rows say

Each table names the machine, the versions and the command that makes its rows again. No figure is typed by hand.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
CHARTS = HERE / "charts"
BEGIN, END = "<!-- benchmarks: made by benchmarks/report.py -->", "<!-- end of benchmarks -->"

Row = dict[str, Any]


@click.command()
@click.option("--check", is_flag=True, help="Change nothing; fail if something would change.")
def main(check: bool) -> None:
    """Write the tables and the charts."""
    written = {README: readme(README.read_text(encoding="utf-8")), **charts()}
    stale = [
        path
        for path, text in written.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    if check:
        if stale:
            click.echo(
                f"Not what the rows say: {', '.join(p.name for p in stale)}. Run: python benchmarks/report.py"
            )
        sys.exit(1 if stale else 0)
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text := written[path], encoding="utf-8")
        click.echo(f"{path.relative_to(HERE.parent)}: {len(text):,} characters")


def readme(text: str) -> str:
    """README's text with the tables of now between its marks."""
    before, rest = text.split(BEGIN, 1)
    _, after = rest.split(END, 1)
    tables = "\n\n".join(table for table in (make() for make in TABLES) if table)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def rows(suite: str) -> list[Row]:
    """All rows of a suite, oldest first; none if it was never run."""
    path = HERE / "results" / f"{suite}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def newest(found: Iterable[Row], *names: str) -> list[Row]:
    """The last row for each combination of ``names``, in the order of first appearance."""
    kept: dict[tuple[str, ...], Row] = {}
    for row in found:
        kept[tuple(str(row.get(name)) for name in names)] = row
    return list(kept.values())


def compared() -> list[Row]:
    """The newest row of every comparison with torch."""
    found = [row for suite in ("suite", "gpu", "cpu_full_size") for row in rows(suite) if "peer_s" in row]
    return newest(found, "machine", "model", "part", "batch", "device", "peer")


def suite_table() -> str:
    """Ours beside torch, part by part, for each machine and model."""
    tables = []
    for key, group in _grouped(compared(), lambda row: (row["machine"], row["model"], row["device"])).items():
        machine, model, device = key
        lines = [
            f"**{model}** on {machine} ({device}); {_versions(group[-1])}. Again: "
            f"`pytest benchmarks --model {model}{'' if device == 'cpu' else f' --device {device}'}`",
            "",
            "| part | batch | ours | peer | ratio | parity |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['part']} | {row['batch']} | {_seconds(row['ours_s']['median'])} | "
            f"{_seconds(row['peer_s']['median'])} ({row['peer']}) | {row['times_faster']:.1f}× | {_parity(row)} |"
            for row in group
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def cold_start_table() -> str:
    """From the command to the files."""
    lines = [
        f"**From the command to the files**, {row['model']} on {row['machine']}: {row['wall_s']:.2f} s for "
        f"{row['clip_s']:.2f} s of sound (median of {row['runs']} whole processes; "
        + ", ".join(
            f"{stage} {seconds:.2f}" for stage, seconds in row["stages_s"].items() if stage != "total"
        )
        + "). Again: `python benchmarks/cold_start.py`"
        for row in newest(rows("cold_start"), "machine", "model")
    ]
    return "\n\n".join(lines)


def phase_table() -> str:
    """The phase stage beside torchaudio."""
    summaries = [row for row in rows("phase") if row.get("benchmark") == "phase summary"]
    if not summaries:
        return ""
    row = summaries[-1]
    lines = [
        f"**Phase reconstruction**, {row['clips']} clips of {row['kinds']} kinds on {row['machine']}, beside "
        f"torchaudio {row['versions']['torchaudio']} (InverseMelScale + GriffinLim(32)); spectral convergence, "
        "log-spectral distance and Zimtohrli against the recording, lower is better. Again: "
        "`python benchmarks/phase_compare.py`",
        "",
        "| quality | time | times faster | convergence (worst clip's gain) | log-spectral distance | Zimtohrli |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("torchaudio", *row["presets"]):
        entry = row[name]
        lines.append(
            f"| {name} | {_seconds(entry['time_s']['median'])} | {entry['time_s']['times_less']:.1f}× | "
            f"{entry['source_db']['mean']:.2f} dB ({entry['source_db']['worst_gain']:+.2f}) | "
            f"{entry['lsd_db']['mean']:.3f} dB | {entry['zimtohrli']['mean']:.4f} |"
        )
    return "\n".join(lines)


TABLES: tuple[Callable[[], str], ...] = (cold_start_table, suite_table, phase_table)


def charts() -> dict[Path, str]:
    """SVG charts, by the path each belongs at: how many times faster than its peer every part is."""
    drawn = {}
    for key, group in _grouped(compared(), lambda row: (row["model"], row["device"])).items():
        name = "-".join(part.lower().replace(" ", "-") for part in key)
        drawn[CHARTS / f"{name}.svg"] = _bar_chart(
            f"{key[0]} on {group[-1]['machine']}: times faster than its peer",
            [f"{row['part']}, batch {row['batch']}" for row in group],
            [row["times_faster"] for row in group],
        )
    return drawn


def _bar_chart(title: str, names: list[str], values: list[float]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    # Text stays text and identifiers repeat, so that the same rows give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "riffusion-rt"}):
        figure = Figure(figsize=(8, 0.9 + 0.36 * len(names)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(names, values, color="#31688e")
        axes.bar_label(bars, [f"{value:.1f}×" for value in values], padding=3)
        axes.axvline(1, color="#888", linewidth=1)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, fontsize=10, loc="left")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def _grouped(found: list[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in found:
        groups.setdefault(key(row), []).append(row)
    return groups


def _versions(row: Row) -> str:
    named = ("onnxruntime", "onnxruntime-gpu", "torch", "diffusers")
    return ", ".join(f"{name} {row['versions'][name]}" for name in named if name in row["versions"])


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _parity(row: Row) -> str:
    return ", ".join(f"{measure.replace('_', ' ')} {value:.2g}" for measure, value in row["parity"].items())


if __name__ == "__main__":
    main()
