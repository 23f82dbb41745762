"""Widths enter; how much memory a reconstruction of each takes at most leaves, each in a process of its own.

    python benchmarks/phase_memory.py

Peak resident memory less that of a process that has only imported everything. A row goes to
``benchmarks/results/phase.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from recording import record

WIDTHS = (1, 64, 512, 1024, 2048, 4096, 8192, 16_384)

_CHILD = """
import resource, sys
import numpy as np
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.phase import waveform_from_mel

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

columns, preset, params = int(sys.argv[1]), sys.argv[2], SpectrogramParams()
waveform_from_mel(np.ones((1, params.bands, 1), np.float32), params, preset=preset)
before = peak()
mel = np.random.default_rng(0).random((1, params.bands, columns), np.float32) ** 4
samples = waveform_from_mel(mel, params, preset=preset, loop=sys.argv[3] == "loop")
assert samples.shape == (1, columns * params.hop_length) and np.isfinite(samples).all()
print(before, peak())
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--width", type=int, action="append")
    parser.add_argument("--loop", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for columns in arguments.width or WIDTHS:
        began = time.perf_counter()
        command = [
            sys.executable,
            "-c",
            _CHILD,
            str(columns),
            arguments.preset,
            "loop" if arguments.loop else "open",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        before, peak = (int(word) for word in done.stdout.split())
        rows.append(
            {
                "columns": columns,
                "peak_mb": round(peak / 1e6, 1),
                "own_mb": round((peak - before) / 1e6, 1),
                "kb_a_column": round((peak - before) / 1e3 / columns, 1),
                "wall_s": round(time.perf_counter() - began, 2),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    record("phase", benchmark="phase memory", preset=arguments.preset, loop=arguments.loop, widths=rows)


if __name__ == "__main__":
    main()
