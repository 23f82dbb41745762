"""What coarser matrix products would cost the vocoder graph, shown on the CPU.

    .venvs/phase/bin/python benchmarks/phase_precision.py

The same graph three times: float32; operands of every matrix product in the loop rounded to TF32's 11 significant bits;
and cast through float16. Products still add up in float32, as tensor cores do. For each clip: how far the magnitudes
are from the recording's (spectral convergence in dB), and how far the waveform is from the float32 one.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import onnxruntime
from phase_clips import MissingSource, clips
from phase_compare import MAX_VALUE, PARAMS, Peer, convergence_db, drawn, magnitudes
from recording import record

from riffusion_export.vocoder_graph import VocoderPlan, vocoder_model

ROUNDINGS = (None, "tf32", "fp16")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", action="append", help="default: piano, mix, drums, synthetic")
    kinds = tuple(parser.parse_args().kind or ("piano", "mix", "drums", "synthetic"))
    sessions = {
        rounding or "fp32": onnxruntime.InferenceSession(
            vocoder_model(VocoderPlan(PARAMS, ends="mirror", round_products_to=rounding)).SerializeToString(),
            providers=["CPUExecutionProvider"],
        )
        for rounding in ROUNDINGS
    }
    bank = Peer().bank
    seen = set()
    for clip in clips(kinds):
        if isinstance(clip, MissingSource):
            print(f"skipped {clip}")
            continue
        if clip.kind in seen:
            continue
        seen.add(clip.kind)
        recording = magnitudes(clip.samples * 32768)
        mel = recording @ bank[: recording.shape[1]]
        gain = MAX_VALUE / mel.max()
        levels = 1 - (drawn(mel.T) / MAX_VALUE) ** PARAMS.power
        image = np.repeat(levels[None, None, ::-1], 3, axis=1).astype(np.float32)
        sounds = {name: session.run(None, {"image": image})[0][0, 0] for name, session in sessions.items()}
        exact = sounds["fp32"]
        row = {
            "benchmark": "vocoder precision",
            "clip": clip.name,
            **{
                name: {
                    "source_db": round(convergence_db(magnitudes(sound), recording * gain), 2),
                    "relative_l2_to_fp32": float(
                        f"{np.linalg.norm(sound - exact) / np.linalg.norm(exact):.2g}"
                    ),
                }
                for name, sound in sounds.items()
            },
        }
        print(json.dumps(row), flush=True)
        record("phase", **row)


if __name__ == "__main__":
    main()
