"""A folder of recordings in, a data set out: spectrogram pictures with their captions, as Hugging Face's imagefolder.

    train/metadata.jsonl  {"file_name": …, "text": …, …}   train/*.png
    test/metadata.jsonl                                     test/*.png
    README.md             what it was made of
    .dataset/             one note for each finished recording, so that an interrupted run goes on

Whether a recording is held out depends on its bytes and the seed alone: a copy of it, another run, or more recordings
never put it on both sides.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.errors import OutputError, RequestError, RiffusionError
from riffusion_engine.whole_file import whole_file
from riffusion_train.cutting import Cuts, CuttingRecipe, Piece, cut
from riffusion_train.dataset_card import dataset_card
from riffusion_train.piece_pictures import picture_of_piece, turned, turns
from riffusion_train.recording_captions import CaptionSources

SPLITS = ("train", "test")
NOTES = ".dataset"
_SETTINGS = "settings.json"
_PICTURE = re.compile(r".*-[0-9a-f]{10}-\d{4}(-t\d+)?\.png")
_DIGEST_LETTERS = 10
_SLUG_LETTERS = 40
FORMAT = 1
"""Raised when the same settings would draw other pictures, so that old ones are not taken for new."""


@dataclass(frozen=True)
class DatasetRecipe:
    """How recordings are cut, and which share of them is held out for judging."""

    cutting: CuttingRecipe = field(default_factory=CuttingRecipe)
    held_out: float = 0.1
    seed: int = 0

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            RequestError: with the option to change.
        """
        self.cutting.check()
        if not 0 <= self.held_out < 1:
            raise RequestError(
                f"held out must be from 0 to below 1, not {self.held_out}", hint="0.1 keeps back a tenth"
            )

    def split_of(self, digest: str) -> str:
        """The side of a recording whose bytes have this SHA-256: "train" or "test"."""
        drawn = int(hashlib.sha256(f"{self.seed} {digest}".encode()).hexdigest()[:12], 16) / 16**12
        return SPLITS[drawn < self.held_out]


@dataclass(frozen=True)
class RecordingDone:
    """One recording is done with: its pictures, or why there are none."""

    source: Path
    pictures: int
    split: str = ""
    caption_from: str = ""
    kept: bool = False
    skipped: tuple[tuple[str, int], ...] = ()
    error: RiffusionError | None = None


@dataclass
class DatasetSummary:
    """What came of all recordings, counted."""

    recordings: Counter[str] = field(default_factory=Counter)
    """Recordings with pictures, by split."""
    pictures: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    failed: list[tuple[Path, RiffusionError]] = field(default_factory=list)

    def add(self, done: RecordingDone) -> None:
        """Count one recording."""
        if done.error is not None:
            self.failed.append((done.source, done.error))
        self.skipped.update(dict(done.skipped))
        if done.pictures:
            self.recordings[done.split] += 1
            self.pictures[done.split] += done.pictures
            self.captions[done.caption_from] += 1
            self.kept += done.kept


def make_dataset(
    recordings: Sequence[Path],
    output: Path,
    captions: CaptionSources,
    recipe: DatasetRecipe = DatasetRecipe(),
    *,
    workers: int = 1,
) -> Iterator[RecordingDone]:
    """Make pictures of recordings below ``captions.root``; yields each recording as it is done with.

    What an earlier run finished with the same settings is kept. The listings and the card are written at the end.

    Raises:
        RequestError: before anything is written, if the recipe makes no sense; at the end, if nothing came of it.
        OutputError: ``output`` holds a data set of other settings, or cannot be written.
    """
    recipe.check()
    rows: dict[str, list[dict[str, Any]]] = {}
    summary = DatasetSummary()
    taken: dict[str, Path] = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        digests = dict(zip(recordings, pool.map(_digest, recordings), strict=True))
        if {recipe.split_of(digest) for digest in digests.values() if digest} == {SPLITS[1]}:
            raise RequestError(
                f"All {len(recordings)} recordings would be held out, and none left to learn from",
                hint="Use --held-out 0, or another --seed",
            )
        _claim(output, recipe)
        jobs = {}
        for recording in recordings:
            digest = digests[recording]
            if digest and digest in taken:
                done = RecordingDone(recording, 0, skipped=(("copies of another", 1),))
                summary.add(done)
                yield done
                continue
            taken[digest] = recording
            jobs[pool.submit(_recording_done, recording, digest, output, captions, recipe)] = recording
        try:
            for future in as_completed(jobs):
                done, found = future.result()
                if found:
                    rows[found[0]["source"]] = found
                summary.add(done)
                yield done
        finally:
            pool.shutdown(cancel_futures=True)
    _sweep(output, {row["split_file"] for found in rows.values() for row in found}, set(digests.values()))
    if not rows:
        raise RequestError(
            f"No picture came of the {len(recordings)} recordings in {captions.root}: {_counted(summary)}",
            hint="Give longer recordings, or captions with --captions FILE or --caption TEXT",
        )
    for split in SPLITS:
        _write_listing(
            output / split, [row for source in sorted(rows) for row in rows[source] if row["split"] == split]
        )
    _write_text(output / "README.md", dataset_card(recipe.cutting, asdict(recipe), summary, _texts(rows)))


def _recording_done(
    recording: Path, digest: str, output: Path, captions: CaptionSources, recipe: DatasetRecipe
) -> tuple[RecordingDone, list[dict[str, Any]]]:
    try:
        return _pictures_of(recording, digest, output, captions, recipe)
    except OutputError:
        raise  # No other recording could be written either.
    except RiffusionError as error:
        return RecordingDone(recording, 0, error=error), []


def _pictures_of(
    recording: Path, digest: str, output: Path, captions: CaptionSources, recipe: DatasetRecipe
) -> tuple[RecordingDone, list[dict[str, Any]]]:
    source = recording.relative_to(captions.root).as_posix()
    said = captions.caption_of(recording)
    if said is None:
        return RecordingDone(recording, 0, skipped=(("without a caption", 1),)), []
    split = recipe.split_of(digest)
    note = output / NOTES / f"{digest}.json"
    finished = _finished(note, output, source)
    kept = finished is not None
    if finished is None:
        samples = _at_the_pictures_rate(recording, recipe.cutting)
        cuts = cut(samples, recipe.cutting)
        stem = f"{_slug(recording.stem)}-{digest[:_DIGEST_LETTERS]}"
        rows = [
            row
            for number, piece in enumerate(cuts.pieces)
            for row in _draw(samples, piece, f"{stem}-{number:04}", output / split, source, recipe.cutting)
        ]
        _write_text(note, json.dumps({"source": source, "skipped": cuts.skipped, "rows": rows}))
    else:
        rows, cuts = finished
    complete = [
        {**row, "text": said[0], "split": split, "split_file": f"{split}/{row['file_name']}"} for row in rows
    ]
    return RecordingDone(recording, len(rows), split, said[1], kept, cuts.skipped), complete


def _at_the_pictures_rate(recording: Path, recipe: CuttingRecipe) -> NDArray[np.float32]:
    from riffusion_rt.audio_file import read_audio
    from riffusion_rt.resampling import resample, with_channels

    samples, rate = read_audio(recording)
    return resample(with_channels(samples, recipe.params.channels), rate, recipe.params.sample_rate)


def _draw(
    samples: NDArray[np.float32], piece: Piece, stem: str, folder: Path, source: str, recipe: CuttingRecipe
) -> Iterator[dict[str, Any]]:
    from riffusion_rt.spectrogram_image import save_png

    image, loudest = picture_of_piece(samples, piece, recipe)
    # A held-out piece is for judging: turning it adds nothing.
    copies = turns(piece, recipe) if folder.name == SPLITS[0] else ()
    for turn in (0, *copies):
        name = f"{stem}-t{turn}.png" if turn else f"{stem}.png"
        save_png(
            turned(image, turn) if turn else image, folder / name, recipe.params, loudest, {"source": source}
        )
        yield {
            "file_name": name,
            "source": source,
            "start_s": round(piece.start / recipe.params.sample_rate, 4),
            "duration_s": round(piece.length * piece.repeats / recipe.params.sample_rate, 4),
            "bpm": None if piece.bpm is None else round(piece.bpm, 3),
            "beats": piece.beats or None,
            "loop": piece.loop,
            "turned_columns": turn,
        }


def _finished(note: Path, output: Path, source: str) -> tuple[list[dict[str, Any]], Cuts] | None:
    """What an earlier run noted of a recording, if all its pictures are still there."""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        rows = [{**row, "source": source} for row in noted["rows"]]
        skipped = tuple((str(reason), int(count)) for reason, count in noted["skipped"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    there = all(any((output / split / row["file_name"]).is_file() for split in SPLITS) for row in rows)
    return (rows, Cuts((), skipped)) if there else None


def _claim(output: Path, recipe: DatasetRecipe) -> None:
    """Take a folder that is new, empty or of the same settings."""
    settings = json.dumps({"format": FORMAT, **asdict(recipe)}, indent=2)
    path = output / NOTES / _SETTINGS
    if path.is_file():
        if path.read_text(encoding="utf-8") != settings:
            raise OutputError(
                f"{output} holds a data set that was made with other settings",
                hint="Name another folder with -o, or delete that one",
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already, and is no data set", hint="Name a new folder with -o")
    _write_text(path, settings)


def _sweep(output: Path, current: set[str], digests: set[str]) -> None:
    """Remove pictures and notes that nothing refers to: of recordings that went, or of a run that was killed."""
    for split in SPLITS:
        for path in (output / split).glob("*.png"):
            if f"{split}/{path.name}" not in current and _PICTURE.fullmatch(path.name):
                path.unlink()
    for path in (output / NOTES).glob("*.json"):
        if path.name != _SETTINGS and path.stem not in digests:
            path.unlink()
    for path in output.rglob(".*.part"):
        path.unlink()


def _write_listing(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One split's ``metadata.jsonl``; a split without pictures has no folder, which `datasets` could not read."""
    hidden = ("split", "split_file")
    lines = [
        json.dumps({k: v for k, v in row.items() if k not in hidden}, ensure_ascii=False) for row in rows
    ]
    if lines:
        _write_text(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    elif folder.is_dir():
        (folder / "metadata.jsonl").unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode())


def _texts(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Counter[str]:
    return Counter(str(row["text"]) for found in rows.values() for row in found)


def _counted(summary: DatasetSummary) -> str:
    reasons = [f"{count} {reason}" for reason, count in summary.skipped.most_common()]
    return (
        ", ".join([*reasons, *([f"{len(summary.failed)} unreadable"] if summary.failed else [])])
        or "nothing to cut"
    )


def _digest(path: Path) -> str:
    """SHA-256 of a file; empty if it cannot be read, which is found out again where it is."""
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(2**20):
                digest.update(block)
            return digest.hexdigest()
    except OSError:
        return ""


def _slug(stem: str) -> str:
    words = "".join(
        letter if letter.isascii() and letter.isalnum() else " " for letter in stem.lower()
    ).split()
    return "-".join(words)[:_SLUG_LETTERS].strip("-") or "recording"
