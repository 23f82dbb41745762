"""An instrument that riffusion-mini has never heard in, recordings of it with captions out: to fine-tune on.

    python -m riffusion_train.new_instrument harmonica -o recordings --count 96

Each recording is a loop of 5.12 s, composed and captioned like those that riffusion-mini learned from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from riffusion_engine.errors import RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_engine.whole_file import whole_file
from riffusion_train.captions import Part, caption
from riffusion_train.catalogue import BEATS_PER_CLIP, INSTRUMENTS, Instrument
from riffusion_train.phrases import compose, draw_setting
from riffusion_train.rendered_clips import render_clip
from riffusion_train.rendering import DEBIAN_SOUNDFONT, SAMPLE_RATE, Orchestra

NEW_INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument(
        "harmonica",
        ("harmonica", "harmonica", "diatonic harmonica"),
        "plain",
        (22,),
        58,
        88,
        ("melody", "chords"),
    ),
    Instrument("banjo", ("banjo", "banjo", "bluegrass banjo"), "plain", (105,), 48, 81, ("arpeggio", "riff")),
    Instrument("sitar", ("sitar", "sitar", "indian sitar"), "plain", (104,), 46, 76, ("melody", "arpeggio")),
    Instrument("steel drums", ("steel drums", "steel pan"), "plain", (114,), 53, 84, ("arpeggio", "melody")),
)
"""Not in the catalogue, and so absent from everything that riffusion-mini and its listener were trained on."""
CAPTIONS = "captions.jsonl"
_REHEARSED_SEEDS = 5000
"""Far from the seeds of training sets and of what judges hear."""
COLUMNS = 512


def new_instrument(label: str) -> Instrument:
    """The instrument of that label.

    Raises:
        RequestError: there is none.
    """
    found = next((each for each in NEW_INSTRUMENTS if each.label == label), None)
    if found is None:
        known = ", ".join(each.label for each in NEW_INSTRUMENTS)
        raise RequestError(f"There is no new instrument {label}", hint=f"Known are {known}")
    return found


def render_loop(
    orchestra: Orchestra, instrument: Instrument, seed: int, index: int
) -> tuple[NDArray[np.float32], str]:
    """Loop ``index`` of ``seed``: samples float32 (225,792,) in ±1, and its caption."""
    samples = COLUMNS * SpectrogramParams().hop_length
    rng = np.random.default_rng([seed, index])
    beats = int(rng.choice(BEATS_PER_CLIP, p=[0.2, 0.4, 0.25, 0.15]))
    setting = draw_setting(rng, beats)
    part = Part(instrument, str(rng.choice(list(instrument.patterns))))
    notes = compose(rng, instrument, setting, part.pattern)
    sound = orchestra.play([(False, int(rng.choice(list(instrument.programs))), notes)], beats, samples)
    text = caption(rng, (part,), beats, setting.mode)
    return np.asarray(0.9 * sound / max(float(np.abs(sound).max()), 1e-6), np.float32), text


def render_recordings(
    folder: Path,
    label: str,
    count: int,
    *,
    rehearse: int = 0,
    seed: int = 0,
    soundfont: Path = DEBIAN_SOUNDFONT,
) -> Iterator[int]:
    """Write ``count`` recordings and their list of captions; yields how many are done.

    ``rehearse`` more of every instrument of the catalogue remind the model of what it knows already.

    Raises:
        RequestError: there is no instrument of that label.
    """
    from riffusion_rt.audio_file import write_audio

    instrument = new_instrument(label)
    orchestra = Orchestra(soundfont)
    rows = []
    old = [each.label for each in INSTRUMENTS for _ in range(rehearse)]
    for index, played in enumerate([label] * count + old):
        if index < count:
            sound, text = render_loop(orchestra, instrument, seed, index)
        else:
            sound, facts = render_clip(orchestra, _REHEARSED_SEEDS + seed, index, label=played)
            sound, text = 0.9 * sound, facts.caption
        name = f"{played.replace(' ', '-')}-{index:04}.flac"
        write_audio(folder / name, sound[None], SAMPLE_RATE)
        rows.append(json.dumps({"file_name": name, "text": text}))
        yield index + 1
    with whole_file(folder / CAPTIONS) as file:
        file.write(("\n".join(rows) + "\n").encode())


@click.command()
@click.argument("label")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--count", default=96, show_default=True)
@click.option("--rehearse", default=0, show_default=True, help="Loops of every instrument already known.")
@click.option("--seed", default=0, show_default=True)
@click.option("--soundfont", type=click.Path(path_type=Path), default=DEBIAN_SOUNDFONT, show_default=True)
def main(label: str, output: Path, count: int, rehearse: int, seed: int, soundfont: Path) -> None:
    """Render recordings of the instrument LABEL, with captions.jsonl beside them."""
    total = count + rehearse * len(INSTRUMENTS)
    with tqdm(total=total, unit="loop") as bar:
        for done in render_recordings(
            output, label, count, rehearse=rehearse, seed=seed, soundfont=soundfont
        ):
            bar.update(done - bar.n)


if __name__ == "__main__":
    main()
