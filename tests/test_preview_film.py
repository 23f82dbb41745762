"""A film shows every step of a picture, in order, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from riffusion_engine.errors import OutputError, RequestError
from riffusion_rt.preview_film import LAST_MS, STEP_MS, WIDEST, save_film

FRAMES = [Image.fromarray(np.full((16, 24, 3), level, np.uint8)) for level in (0, 90, 180, 250)]


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_every_frame_is_shown_and_the_last_one_longest(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"film{suffix}"
    save_film(path, FRAMES)
    with Image.open(path) as film:
        assert film.n_frames == 4  # type: ignore[attr-defined]
        assert film.size == (24, 16)
        shown, durations = [], []
        for number in range(4):
            film.seek(number)
            film.load()
            shown.append(int(np.asarray(film.convert("L")).mean()))
            durations.append(film.info["duration"])
    assert shown == pytest.approx([0, 90, 180, 250], abs=6)
    assert durations == [STEP_MS] * 3 + [LAST_MS]


def test_what_is_no_film_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="webp"):
        save_film(tmp_path / "film.mp4", FRAMES)
    with pytest.raises(RequestError):
        save_film(tmp_path / "film.gif", [])
    with pytest.raises(RequestError, match="wide"):
        save_film(tmp_path / "film.webp", [Image.new("RGB", (WIDEST + 1, 1))])
    assert list(tmp_path.iterdir()) == []
