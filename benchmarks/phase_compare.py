"""Recordings enter as pictures; how well and how fast phases come back leaves, beside torchaudio in the same run.

    benchmarks/phase_environment.sh
    .venvs/phase/bin/python benchmarks/phase_compare.py             (takes up a run that was interrupted)
    .venvs/phase/bin/python benchmarks/phase_compare.py --summary   (of all clips measured so far)

Every clip becomes a spectrogram picture of 256 levels, as a model draws them. The peer, torchaudio's
InverseMelScale and GriffinLim (32 iterations, momentum 0.99, n_fft 17,640: what Riffusion does), and each
preset decode that picture by turns. Measured, up to 10 kHz:

- spectral convergence against the n_fft 17,640 magnitudes, in dB, lower is better: of the recording (``source``: what
  one wants to hear) and of the picture as torchaudio inverts it (``picture``: what the peer aims at);
- log-spectral distance to the recording, in dB, over 80 dB of range;
- Zimtohrli, Google's full-reference metric of just noticeable differences (Apache-2.0, developed for audio codecs on
  music as well as speech, unlike PESQ), to the recording without what lies above 10 kHz; lower is better.

Pictures that riffusion-mini draws have no recording: only ``picture`` and ``mel`` are measured. Rows go to
``benchmarks/results/phase.jsonl``, a clip each; a clip that was measured with these presets is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from phase_clips import COLUMNS, HOP, RATE, MissingSource, clips
from recording import RESULTS, record
from scipy.signal import resample_poly
from zimtohrli import Pyohrli

from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.phase import PRESETS, waveform_from_mel

PARAMS = SpectrogramParams()
PEER = "torchaudio"
MAX_VALUE = 30e6
# Frames 0 .. 510 are whole in the peer's output, which ends at the middle of the last column.
WHOLE_FRAMES = COLUMNS - 1
HIGHEST_BIN = PARAMS.f_max * PARAMS.n_fft // RATE + 1
LSD_RANGE = 1e-4
ZIMTOHRLI_RATE = (160, 147)
GENERATED = "generated"
PROMPTS = ("funky piano", "acoustic guitar chords", "strings", "church bells", "slap bass", "drums and bass")
# Time on the clock and, less upset by what else the machine does, on all cores together.
SPENT = ("time_s", "cpu_s")

Array = NDArray[np.float32]


class Peer:
    """Riffusion's decoder, with torchaudio's exact inverse of the mel scale."""

    def __init__(self) -> None:
        self.bank = torchaudio.functional.melscale_fbanks(
            PARAMS.n_fft // 2 + 1, 0.0, float(PARAMS.f_max), PARAMS.bands, RATE, norm=None, mel_scale="htk"
        ).numpy()
        self.inverse = torchaudio.transforms.InverseMelScale(
            n_stft=PARAMS.n_fft // 2 + 1,
            n_mels=PARAMS.bands,
            sample_rate=RATE,
            f_min=0.0,
            f_max=float(PARAMS.f_max),
            norm=None,
            mel_scale="htk",
        )
        self.griffin_lim = torchaudio.transforms.GriffinLim(
            n_fft=PARAMS.n_fft,
            n_iter=32,
            win_length=PARAMS.win_length,
            hop_length=HOP,
            power=1.0,
            momentum=0.99,
        )

    def magnitudes(self, mel: Array) -> Array:
        """``(columns, bins)`` up to 10 kHz, as the peer inverts the picture."""
        with torch.no_grad():
            return self.inverse(torch.from_numpy(mel))[0].numpy().T[:, :HIGHEST_BIN]

    def __call__(self, mel: Array) -> Array:
        torch.manual_seed(0)
        with torch.no_grad():
            return self.griffin_lim(self.inverse(torch.from_numpy(mel)))[0].numpy()


def decoders(peer: Peer) -> dict[str, Callable[[Array], Array]]:
    """The peer and the presets, by name."""

    def ours(preset: str) -> Callable[[Array], Array]:
        return lambda mel: waveform_from_mel(mel, PARAMS, preset=preset)[0]

    return {PEER: peer, **{preset: ours(preset) for preset in PRESETS}}


def magnitudes(samples: Array) -> Array:
    """n_fft 17,640 magnitudes up to 10 kHz of centred frames with mirrored ends; ``(columns, bins)``."""
    padded = np.pad(samples, PARAMS.win_length // 2, mode="reflect")
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(PARAMS.win_length) / PARAMS.win_length)).astype(
        np.float32
    )
    frames = np.lib.stride_tricks.sliding_window_view(padded, PARAMS.win_length)[::HOP][:COLUMNS]
    return np.concatenate(
        [
            np.abs(np.fft.rfft(frames[first : first + 32] * window, PARAMS.n_fft))[:, :HIGHEST_BIN]
            for first in range(0, len(frames), 32)
        ]
    ).astype(np.float32)


def drawn(mel: Array) -> Array:
    """The mel amplitudes that a picture of 256 levels keeps, at most ``MAX_VALUE``."""
    levels = np.floor(255 - 255 * (mel / mel.max()) ** PARAMS.power)
    return (((255 - levels) / 255) ** (1 / PARAMS.power) * MAX_VALUE).astype(np.float32)


def convergence_db(got: Array, wanted: Array) -> float:
    """Spectral convergence."""
    frames = min(len(got), WHOLE_FRAMES)
    error = np.linalg.norm(got[:frames] - wanted[:frames])
    return float(20 * np.log10(error / np.linalg.norm(wanted[:frames])))


def log_distance_db(got: Array, wanted: Array) -> float:
    """Log-spectral distance above ``LSD_RANGE`` of the loudest magnitude."""
    frames, floor = min(len(got), WHOLE_FRAMES), wanted.max() * LSD_RANGE
    ratio = 20 * np.log10((got[:frames] + floor) / (wanted[:frames] + floor))
    return float(np.sqrt((ratio**2).mean(axis=1)).mean())


def audible_distance(got: Array, recording: Array) -> float:
    """Zimtohrli distance at a peak of 0.5."""
    length = WHOLE_FRAMES * HOP
    spectrum = np.fft.rfft(recording[:length])
    spectrum[int(PARAMS.f_max * length / RATE) :] = 0
    wanted = np.fft.irfft(spectrum, length)
    heard = got[:length] * (np.linalg.norm(wanted) / max(np.linalg.norm(got[:length]), 1e-9))
    scale = 0.5 / np.abs(wanted).max()
    at_48_khz = (resample_poly(sound * scale, *ZIMTOHRLI_RATE) for sound in (wanted, heard))
    return float(Pyohrli().distance(*at_48_khz))


def measured(
    name: str, kind: str, mel: Array, recording: Array | None, peer: Peer, repeats: int
) -> dict[str, Any]:
    """One clip's row."""
    row: dict[str, Any] = {"benchmark": "phase", "clip": name, "kind": kind, "presets": stages()}
    times: dict[str, list[float]] = {}
    work: dict[str, list[float]] = {}
    sounds = {}
    for _ in range(repeats):
        for decoder, decode in decoders(peer).items():
            began, worked = time.perf_counter(), time.process_time()
            sounds[decoder] = decode(mel)
            times.setdefault(decoder, []).append(time.perf_counter() - began)
            work.setdefault(decoder, []).append(time.process_time() - worked)
    wanted = {"picture": peer.magnitudes(mel)}
    if recording is not None:
        wanted["source"] = magnitudes(recording)
    for decoder, sound in sounds.items():
        got = magnitudes(np.pad(sound, (0, max(0, COLUMNS * HOP - len(sound)))))
        values = {f"{what}_db": round(convergence_db(got, target), 3) for what, target in wanted.items()}
        values["mel_db"] = round(convergence_db(got @ peer.bank[:HIGHEST_BIN], mel[0].T), 3)
        if recording is not None:
            values["lsd_db"] = round(log_distance_db(got, wanted["source"]), 3)
            values["zimtohrli"] = round(audible_distance(sound, recording), 5)
        spent = {"time_s": times[decoder], "cpu_s": work[decoder]}
        row[decoder] = {**{key: round(float(np.median(value)), 4) for key, value in spent.items()}, **values}
    return row


def stages() -> dict[str, list[int]]:
    """What the presets are, by name."""
    return {name: list(preset.stages) for name, preset in PRESETS.items()}


def measured_rows() -> list[dict[str, Any]]:
    """The clips that were measured with the presets as they are."""
    path = RESULTS / "phase.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row.get("benchmark") == "phase" and row.get("presets") == stages()]


def pictures(
    peer: Peer, kinds: tuple[str, ...] | None, most: int, done: set[str]
) -> Iterator[tuple[str, str, Array, Array | None]]:
    """(name, kind, mel, recording) of every clip that is not done; generated pictures last."""
    seen: Counter[str] = Counter()
    for clip in clips(kinds):
        if isinstance(clip, MissingSource):
            print(f"skipped {clip}")
            continue
        seen[clip.kind] += 1
        if seen[clip.kind] > most or clip.name in done:
            continue
        mel = magnitudes(clip.samples * 32768) @ peer.bank[:HIGHEST_BIN]
        gain = MAX_VALUE / mel.max()
        yield clip.name, clip.kind, drawn(mel.T)[None], (clip.samples * 32768 * gain).astype(np.float32)
    if kinds is None or GENERATED in kinds:
        yield from generated_pictures(done, most)


def generated_pictures(done: set[str], most: int) -> Iterator[tuple[str, str, Array, None]]:
    """What riffusion-mini draws."""
    from riffusion_rt import Riffusion
    from riffusion_rt.spectrogram_image import mel_from_image

    wanted = [prompt for prompt in PROMPTS[:most] if prompt not in done]
    if not wanted:
        return
    with Riffusion("riffusion-mini", device="cpu") as model:
        images = [model.generate(prompt).image for prompt in wanted]
    for prompt, image in zip(wanted, images, strict=True):
        yield prompt, GENERATED, mel_from_image(image, PARAMS), None


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means, worst clips and ratios of times against the peer."""
    result: dict[str, Any] = {"clips": len(rows), "kinds": len({row["kind"] for row in rows})}
    for decoder in (PEER, *PRESETS):
        measures = sorted({key for row in rows for key in row[decoder]} - set(SPENT))
        entry: dict[str, Any] = {}
        for spent in SPENT:
            ratios = [row[PEER][spent] / row[decoder][spent] for row in rows]
            entry[spent] = {
                "median": round(float(np.median([row[decoder][spent] for row in rows])), 4),
                "times_less": round(float(np.median(ratios)), 1),
                "times_less_at_worst": round(float(min(ratios)), 1),
            }
        for measure in measures:
            having = [row for row in rows if measure in row[decoder]]
            gains = [row[PEER][measure] - row[decoder][measure] for row in having]
            entry[measure] = {
                "mean": round(float(np.mean([row[decoder][measure] for row in having])), 4),
                "mean_gain": round(float(np.mean(gains)), 4),
                "worst_gain": round(float(min(gains)), 4),
                "worst_clip": having[int(np.argmin(gains))]["clip"],
                "better_clips": f"{sum(gain > 0 for gain in gains)} of {len(gains)}",
            }
        result[decoder] = entry
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips-a-kind", type=int, default=4)
    parser.add_argument("--kind", action="append", help="only this kind; may be repeated")
    parser.add_argument("--repeats", type=int, default=1, help="times each decoder runs on each clip")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of the peer")
    parser.add_argument("--summary", action="store_true", help="measure nothing; sum up what was measured")
    arguments = parser.parse_args()
    if arguments.summary:
        total = summary(measured_rows())
        print(json.dumps(total, indent=1))
        record("phase", benchmark="phase summary", presets=stages(), **total)
        return
    torch.set_num_threads(arguments.threads)
    peer = Peer()
    for decode in decoders(peer).values():
        decode(np.random.default_rng(0).random((1, PARAMS.bands, COLUMNS), np.float32))
    done = {row["clip"] for row in measured_rows()}
    kinds = tuple(arguments.kind) if arguments.kind else None
    for name, kind, mel, recording in pictures(peer, kinds, arguments.clips_a_kind, done):
        row = measured(name, kind, mel, recording, peer, arguments.repeats)
        print(json.dumps(row), flush=True)
        record("phase", **row, peer_threads=arguments.threads)


if __name__ == "__main__":
    main()
