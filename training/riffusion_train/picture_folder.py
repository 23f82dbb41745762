"""A data set's folder in, the paths of its pictures and their captions out, checked before anything is trained."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riffusion_engine.errors import ImageFileError, RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams

LISTINGS = ("metadata.jsonl", "metadata.csv")
TEXT_COLUMNS = ("text", "caption", "prompt")
_MAKE_ONE = "Make one: riffusion-rt dataset AUDIO_FOLDER -o DATASET"


@dataclass(frozen=True)
class CaptionedPicture:
    """One example: the picture's file, its caption, and whether its end is followed by its start."""

    path: Path
    text: str
    loop: bool = False


@dataclass(frozen=True)
class PictureFolder:
    """A data set as it lies on disk: pictures to learn from and held-out ones, all ``height`` by ``width``."""

    train: tuple[CaptionedPicture, ...]
    test: tuple[CaptionedPicture, ...]
    height: int
    width: int
    params: SpectrogramParams | None
    """What the pictures' EXIF says; None if they say nothing."""

    @property
    def digest(self) -> str:
        """Tells data sets apart by names, sizes and captions of their pictures."""
        rows = [
            (p.path.name, p.path.stat().st_size, p.text, p.loop)
            for side in (self.train, self.test)
            for p in side
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_picture_folder(folder: Path) -> PictureFolder:
    """Read an imagefolder: ``train/`` and ``test/`` with a listing each, or one listing beside the pictures.

    Raises:
        RequestError: there is no listing, or it lists nothing usable.
        ImageFileError: a picture is missing, or of another size than the others.
    """
    if not folder.is_dir():
        raise RequestError(f"There is no data set {folder}", hint=_MAKE_ONE)
    train = _listed(folder / "train") or _listed(folder)
    test = next((found for name in ("test", "validation") if (found := _listed(folder / name))), ())
    if not train:
        raise RequestError(f"{folder} lists no pictures to learn from (train/{LISTINGS[0]})", hint=_MAKE_ONE)
    width, height = _one_size([*train, *test])
    return PictureFolder(train, test, height, width, _stated_params(train[0].path))


def _listed(folder: Path) -> tuple[CaptionedPicture, ...]:
    path = next((folder / name for name in LISTINGS if (folder / name).is_file()), None)
    if path is None:
        return ()
    rows = list(_rows(path))
    column = next((name for name in TEXT_COLUMNS if rows and name in rows[0]), None)
    if rows and (column is None or "file_name" not in rows[0]):
        raise RequestError(f"{path} has no columns file_name and text", hint=_MAKE_ONE)
    return tuple(
        CaptionedPicture(
            folder / str(row["file_name"]),
            str(row.get(column or "text") or ""),
            row.get("loop") in (True, "true"),
        )
        for row in rows
    )


def _rows(path: Path) -> Iterable[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines()))
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read: {error}", hint=_MAKE_ONE) from error


def _one_size(pictures: Sequence[CaptionedPicture]) -> tuple[int, int]:
    from PIL import Image

    size: tuple[int, int] | None = None
    for picture in pictures:
        try:
            with Image.open(picture.path) as image:
                found = image.size
        except Exception as error:  # Pillow raises whatever a damaged file leads it to.
            raise ImageFileError(f"Cannot read {picture.path} as a picture", hint=_MAKE_ONE) from error
        size = size or found
        if found != size:
            raise ImageFileError(
                f"{picture.path} is {found[0]}x{found[1]}, but {pictures[0].path.name} is {size[0]}x{size[1]}",
                hint="Train on pictures of one size: riffusion-rt dataset makes them so",
            )
    assert size is not None
    return size


def _stated_params(path: Path) -> SpectrogramParams | None:
    from riffusion_rt.spectrogram_image import EXIF_SAMPLE_RATE, load_image, params_from_exif

    image = load_image(path)
    return params_from_exif(image) if EXIF_SAMPLE_RATE in image.getexif() else None
