"""The vocoder graph on a GPU, timed beside torchaudio's decoder on the same GPU.

    .venvs/phase/bin/pip install onnxruntime-gpu     (in place of onnxruntime; CUDA torch)
    .venvs/phase/bin/python benchmarks/phase_vocoder_time.py

``--device cpu`` runs the same on the CPU, ``--write-only FILE`` only writes the graph. Input and output stay on the
device; the first runs are apart; medians and 95th percentiles. The graph's output is compared with the numpy form in
the same run, each from its own start. A row goes to ``benchmarks/results/phase.jsonl``. Without a GPU it says so and
ends well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from recording import record

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_export.vocoder_graph import IMAGE, MAX_VALUE, WAVEFORM, VocoderPlan, vocoder_model
from riffusion_rt.phase import PRESETS, waveform_from_mel

PARAMS = SpectrogramParams()
WARM_RUNS = 5


def picture(columns: int) -> NDArray[np.float32]:
    """Levels of a chord with beats, 0..1; never time on zeros."""
    time_s = np.arange(columns) * PARAMS.step_ms / 1000
    bands = np.arange(PARAMS.bands)[:, None]
    darkness = np.zeros((PARAMS.bands, columns))
    for number, centre in enumerate((40, 75, 98, 140, 188, 230, 301)):
        beat = np.exp(-3 * ((time_s * 3.125 / 2 + number / 7) % 1))
        darkness += np.exp(-(((bands - centre) / 2.0) ** 2)) * beat * 0.9**number
    darkness += np.random.default_rng(0).random(darkness.shape) * 0.1
    levels = np.round(255 * (1 - np.minimum(darkness, 1))) / 255
    return np.repeat(levels[None, ::-1], 3, axis=0)[None].astype(np.float32)


def timed(run: Callable[[], object], runs: int) -> dict[str, float]:
    """Milliseconds a call."""
    for _ in range(WARM_RUNS):
        run()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - began))
    return {
        "median_ms": round(float(np.median(times)), 3),
        "p95_ms": round(float(np.percentile(times, 95)), 3),
    }


def why_not(device: str) -> str | None:
    """Why this cannot run on the device, or None."""
    import onnxruntime
    import torch

    if device == "cpu":
        return None
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU; --device cpu runs the same on the CPU"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider: pip install onnxruntime-gpu in place of onnxruntime"
    return None


def graph_runner(model: bytes, image: NDArray[np.float32], device: str, plan: VocoderPlan, tf32: bool) -> Any:
    """A session with its input and output bound on the device; call it to run, ``.result()`` to fetch."""
    import onnxruntime

    names = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
    options = [{"use_tf32": int(tf32)}] if device == "cuda" else [{}]
    session = onnxruntime.InferenceSession(model, providers=[names[device]], provider_options=options)
    if session.get_providers()[0] != names[device]:
        raise SystemExit(
            f"ONNX Runtime gave {session.get_providers()[0]}; pip install onnxruntime-gpu, or --device cpu"
        )
    binding = session.io_binding()
    binding.bind_ortvalue_input(IMAGE, onnxruntime.OrtValue.ortvalue_from_numpy(image, device, 0))
    shape = (len(image), PARAMS.channels, plan.samples)
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0)
    binding.bind_ortvalue_output(WAVEFORM, output)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run, output


def torchaudio_runner(mel: NDArray[np.float32], device: str) -> Callable[[], object]:
    """Riffusion's decoder on the same device."""
    import torch
    import torchaudio

    bins, high = PARAMS.n_fft // 2 + 1, float(PARAMS.f_max)
    inverse = torchaudio.transforms.InverseMelScale(
        n_stft=bins,
        n_mels=PARAMS.bands,
        sample_rate=PARAMS.sample_rate,
        f_max=high,
        norm=None,
        mel_scale="htk",
    ).to(device)
    phases = torchaudio.transforms.GriffinLim(
        n_fft=PARAMS.n_fft,
        n_iter=32,
        win_length=PARAMS.win_length,
        hop_length=PARAMS.hop_length,
        power=1.0,
        momentum=0.99,
    ).to(device)
    there = torch.from_numpy(mel).to(device)

    def run() -> None:
        with torch.no_grad():
            phases(inverse(there))
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="balanced")
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--unrolled", action="store_true", help="iterations one by one instead of a Loop")
    parser.add_argument("--tf32", action="store_true", help="let matrix products round to 11 bits")
    parser.add_argument("--write-only", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    reason = None if arguments.write_only else why_not(arguments.device)
    if reason:
        print(f"skipped: {reason}")
        return
    plan = VocoderPlan(PARAMS, arguments.columns, arguments.preset, unrolled=arguments.unrolled)
    model = vocoder_model(plan)
    if arguments.write_only:
        onnx.save(model, arguments.write_only)
        return
    image = np.repeat(picture(arguments.columns), arguments.batch, axis=0)
    run, output = graph_runner(model.SerializeToString(), image, arguments.device, plan, arguments.tf32)
    row: dict[str, Any] = {
        "benchmark": "vocoder graph",
        **{key: str(value) for key, value in vars(arguments).items()},
    }
    row["graph"] = timed(run, arguments.runs)
    mel = ((1 - image[:, 0, ::-1]) ** (1 / PARAMS.power) * MAX_VALUE).astype(np.float32)
    expected = waveform_from_mel(mel[:1], PARAMS, preset=arguments.preset, loop=True)
    difference = np.linalg.norm(output.numpy()[0] - expected) / np.linalg.norm(expected)
    row["relative_l2_to_numpy"] = float(difference)
    row["torchaudio"] = timed(torchaudio_runner(mel, arguments.device), max(3, arguments.runs // 10))
    row["times_faster"] = round(row["torchaudio"]["median_ms"] / row["graph"]["median_ms"], 1)
    print(json.dumps(row))
    record("phase", **row)


if __name__ == "__main__":
    main()
