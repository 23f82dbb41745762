"""Rows of ``benchmarks/results/`` in, the README's benchmark tables and the charts beside them out.

    python benchmarks/report.py            # rewrites README.md between its marks, and benchmarks/charts/*.svg
    python benchmarks/report.py --check    # exit code 1 if they are not what the rows say

Each table names the machine, the versions and the command that makes its rows again. No figure is typed by hand.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import click
from report_tables import TABLES, compared, grouped

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
CHARTS = HERE / "charts"
BEGIN, END = "<!-- benchmarks: made by benchmarks/report.py -->", "<!-- end of benchmarks -->"


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


def charts() -> dict[Path, str]:
    """SVG charts, by the path each belongs at: how many times faster than its peer every part is."""
    drawn = {}
    for key, group in grouped(compared(), lambda row: (row["model"], row["device"])).items():
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


if __name__ == "__main__":
    main()
