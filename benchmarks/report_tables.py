"""Rows of ``benchmarks/results/`` in, Markdown tables out: each names its machine, and the command to make it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

RESULTS = Path(__file__).parent / "results"

CPU_WAYS = ("standard", "attention", "fused", "openvino-f32", "openvino-bf16", "openvino-int8")
"""Ways to compute a UNet on a CPU that still exist; rows of others are history."""

Row = dict[str, Any]
Key = TypeVar("Key")


def rows(suite: str) -> list[Row]:
    """All rows of a suite, oldest first; none if it was never run."""
    path = RESULTS / f"{suite}.jsonl"
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
    found = [row for suite in ("suite", "gpu") for row in rows(suite) if "peer_s" in row]
    return newest(found, "machine", "model", "part", "batch", "device", "peer")


def suite_table() -> str:
    """Ours beside torch, part by part, for each machine and model."""
    tables = []
    for key, group in grouped(compared(), lambda row: (row["machine"], row["model"], row["device"])).items():
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


def full_size_export_table() -> str:
    """Stable Diffusion v1.5's size: what an export takes, and how near a guided step is."""
    found = newest(rows("full_size_export"), "machine", "precision", "weights")
    if not found:
        return ""
    lines = [
        f"**Export at full size**, Stable Diffusion v1.5's geometry with random weights on {found[-1]['machine']}; "
        "relative L2 distances of a guided step (both predictions; their guided sum at guidance 7; the latents after "
        "the step). Again: `python benchmarks/full_size_export.py --folder FOLDER`",
        "",
        "| arithmetic (weights) | export | peak memory | beside torch float32 | the same, of the weights as stored |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        apart = row["guided_step"]
        lines.append(
            f"| {row['precision']} ({row['weights']}) | {row['export_s']:.0f} s | {row['export_peak_gib']:.1f} GiB | "
            f"{_distances(apart['to_torch_float32'])} | "
            f"{_distances(apart['to_torch_float32_of_the_same_weights'])} |"
        )
    return "\n".join(lines)


def cpu_ways_table() -> str:
    """The ways to compute a guided UNet step of full size on a CPU."""
    tables = []
    known = [row for row in rows("cpu_ways") if row["way"] in CPU_WAYS]
    for machine, found in grouped(newest(known, "machine", "way"), lambda row: row["machine"]).items():
        lines = [
            f"**A guided UNet step of full size** on {machine}, beside {found[-1]['peer']} in the same run. Again: "
            "`python benchmarks/cpu_full_size.py BUNDLE`",
            "",
            "| way | step | peer | times faster | relative L2 distance |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['way']} | {_seconds(row['step_s'])} | {_seconds(row['peer_s'])} | {row['times_faster']:.2f}× | "
            f"{row['parity']:.1e} |"
            for row in sorted(found, key=lambda row: float(row["times_faster"]))
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def optimum_table() -> str:
    """Pictures of optimum's pipeline beside ours, from one bundle."""
    tables = []
    for (machine, model), found in grouped(
        newest(rows("optimum"), "machine", "model", "device", "drawing"),
        lambda row: (row["machine"], row["model"]),
    ).items():
        lines = [
            f"**{found[-1]['peer']}** draws the same pictures from the same bundle, {model} on {machine}; without "
            "their sound, which it cannot make. Again: `benchmarks/interop_optimum.sh BUNDLE`",
            "",
            "| picture | ours on | ours | optimum | times faster | largest difference |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['drawing']}, {row['steps']} steps | {row['device']} | {_seconds(row['ours_s']['median'])} | "
            f"{_seconds(row['peer_s']['median'])} | {row['times_faster']:.2f}× | {row['max_levels']} of 255 levels |"
            for row in found
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def adherence_table() -> str:
    """Whether the embedded model plays what it is asked for."""
    lines = []
    for row in newest(rows("mini_evaluation"), "model"):
        jury = row["jury_on_held_out"]
        lines.append(
            f"**What is heard of a prompt**, {row['model']}, {row['sampler']}, {row['steps']} steps, guidance "
            f"{row['guidance']}: the instrument asked for in {row['top_1']:.0%} of {row['prompts']} prompts times "
            f"{row['seeds'][1] - row['seeds'][0] + 1} seeds, the tempo in {row['tempo_as_asked']:.0%} of those "
            f"that name one, judged by a network right about {jury['instrument']:.0%} and {jury['tempo']:.0%} of real "
            "renders. Again: `python benchmarks/mini_evaluation.py judge`"
        )
    return "\n\n".join(lines)


def savings_table() -> str:
    """What a cheaper walk costs in sound."""
    tables = []
    found = newest(rows("step_savings"), "machine", "model", "saving")
    for key, group in grouped(found, lambda row: (row["machine"], row["model"], row["guidance"])).items():
        machine, model, guidance = key
        lines = [
            f"**What a cheaper walk costs**, {model} on {machine}: {group[-1]['clips']} clips at guidance {guidance}, "
            "beside 50 DDIM steps of the same seeds. Time is a share of 20 steps of dpm++2m. "
            f"Again: `python benchmarks/step_savings.py --model {model}`",
            "",
            "| way | time | log-spectral distance | mel distance |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {row['saving']} | {row['time_ratio']:.2f}× | {row['log_spectral_distance_db']:.2f} dB | "
            f"{row['mel_distance_db']:.2f} dB |"
            for row in group
        ]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def live_table() -> str:
    """What listeners and operators meet, a line for each measurement."""
    lines = [line for make in _LIVE for line in make()]
    if not lines:
        return ""
    return "\n".join(
        ["**Played live and served**", "", "| measured | figure | again |", "|---|---|---|", *lines]
    )


def _stream() -> list[str]:
    return [
        f"| {row['minutes']:.0f} minutes of `stream`, {row['model']} on {row['machine']} | {row['late_blocks']} blocks "
        f"late, {row['wall_s_a_second_of_sound']:.2f} s of computing a second of sound, joints like interiors "
        f"{row['joints']['joined']['indistinguishable']} of {row['joints']['joined']['judged']}, steered after at most "
        f"{row['steering_s']['worst']:.1f} s | `benchmarks/stream_live.py` |"
        for row in newest(rows("stream_live"), "machine", "model")
    ]


def _walks() -> list[str]:
    return [
        f"| clips of a walk, {row['batch']} in one pass ({row['device']}), {row['model']} on {row['machine']} | "
        f"{row['times_faster_than_alone']['median']:.2f}× faster a clip than one at a time{_beside_fused(row)}, "
        f"pictures at most {row['levels_apart']} of 255 levels apart | `benchmarks/walk_batch.py` |"
        for row in newest(rows("walk_batch"), "machine", "model", "device")
        if "times_faster_than_alone" in row
    ]


def _beside_fused(row: Row) -> str:
    fused = row.get("times_faster_than_alone_fused")
    return f", {fused['median']:.2f}× than one at a time with `--fused`" if fused else ""


def _songs() -> list[str]:
    lines = []
    for row in newest(rows("song_form"), "machine", "model"):
        if "drift_at_the_end_ms" in row:
            sections = row["sections"]
            right = sum(section["heard_as"] == section["prompt"] for section in sections)
            lines.append(
                f"| a song of {row['duration_s']:.0f} s, {row['model']} on {row['machine']} | made in "
                f"{row['seconds']:.0f} s; {right} of {len(sections)} sections heard as planned; choruses alike "
                f"{row['choruses_alike']['chroma']:.3f} in chroma, verse and chorus "
                f"{row['verse_and_chorus_alike']['chroma']:.2f}; a chorus that comes again is "
                f"{row['chorus_lag_ms']:.0f} ms off the bar grid, the last section's beats "
                f"{row['drift_at_the_end_ms']:+.1f} ms | `benchmarks/song_form.py` |"
            )
    return lines


def _canvases() -> list[str]:
    return [
        f"| a picture of {row['columns']:,} columns, {row['model']} on {row['machine']} | "
        f"{row['memory_ratio_without_them']:.2f}× the memory of one clip besides picture and sound, heard as its "
        f"prompt along {row['heard_as_prompt']:.0%} | `benchmarks/canvas_length.py` |"
        for row in newest(rows("canvas_length"), "machine", "model")
    ]


def _remixes() -> list[str]:
    lines = []
    for row in newest(rows("remix_beats"), "machine", "model", "method"):
        if "method" in row:
            gentle, strong = row["strength 0.5"], row["strength 0.75"]
            lines.append(
                f"| recordings remixed (`--method {row['method']}`), {row['model']} on {row['machine']} | at strength "
                f"0.5 beats kept to an onset F-measure of {gentle['onset_f_measure']:.2f}; at 0.75 heard as the "
                f"prompt in {strong['heard_as_prompt']:.0%}; exactly as long | `benchmarks/remix_beats.py` |"
            )
    return lines


def _page() -> list[str]:
    return [
        f"| the page, {row['model']} on {row['machine']} | first sound after {row['first_sound_s']:.1f} s, a new "
        f"prompt heard after {row['prompt_heard_worst_s']:.1f} s at most | `benchmarks/page_latency.py` |"
        for row in newest(rows("page_latency"), "machine", "model")
    ]


def _load() -> list[str]:
    return [
        f"| {row['clients']} clients for {row['seconds'] / 60:.0f} minutes, {row['model']} on {row['machine']} | "
        f"{row['errors']} errors, {row['lost']} lost, memory {row['memory']['second_half_growth_mb']:+.1f} MB in the "
        "second half | `benchmarks/server_load.py` |"
        for row in newest(rows("server_load"), "machine", "model")
    ]


def _cluster() -> list[str]:
    return [
        f"| two engines of a cluster, on {row['machine']} | {row['ratio']:.2f}× the clips of one | "
        "`benchmarks/ray_cluster_serving.py` |"
        for row in newest(rows("ray_scaling"), "machine")
    ]


def _memory() -> list[str]:
    return [
        f"| `--low-memory`, {row['model']} on {row['machine']} | {row['low']['whole_peak_mb'] / 1000:.1f} GB instead "
        f"of {row['ordinary']['whole_peak_mb'] / 1000:.1f} GB, latents {row['apart']['latents_relative_l2']:.0e} apart "
        "| `benchmarks/low_memory.py` |"
        for row in newest(rows("low_memory"), "machine", "model")
    ]


_LIVE: tuple[Callable[[], list[str]], ...] = (
    _stream,
    _page,
    _walks,
    _songs,
    _canvases,
    _remixes,
    _load,
    _cluster,
    _memory,
)

TABLES: tuple[Callable[[], str], ...] = (
    cold_start_table,
    adherence_table,
    live_table,
    suite_table,
    savings_table,
    full_size_export_table,
    cpu_ways_table,
    optimum_table,
    phase_table,
)


def _distances(found: Row) -> str:
    return ", ".join(f"{found[name]:.1e}" for name in ("predictions", "guided", "latents") if name in found)


def grouped(found: list[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by what ``key`` makes of them."""
    groups: dict[Key, list[Row]] = {}
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
