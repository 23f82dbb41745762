"""The bars of a long spectrogram in, one picture of all of it out: rows like lines of a score, with their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

BARS_A_ROW = 8
SHRINK = 4
"""Columns and bands averaged into one pixel: a minute of music is then six thumbs high."""

LABEL_ROWS = 14
"""Pixels above each row for the names of what begins there."""

RULE = 170
"""Grey of the line before a bar."""


class ContactSheet:
    """Collects a song's pictures bar by bar, shrunk, so that its length costs next to nothing."""

    def __init__(self, bar_columns: int, bands: int) -> None:
        """``bar_columns`` is the width of a bar; ``bands`` the height of the picture."""
        self._width = max(1, bar_columns // SHRINK)
        self._height = max(1, bands // SHRINK)
        self._bars: list[NDArray[np.uint8]] = []
        self._labels: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._bars)

    def add(self, pixels: NDArray[np.uint8], label: str = "") -> None:
        """The next bar's pixels (bands, columns, 3), and what begins with it, if anything."""
        from PIL import Image as Pictures

        if label:
            self._labels[len(self._bars)] = label
        picture = Pictures.fromarray(np.ascontiguousarray(pixels)).convert("L")
        small = picture.resize((self._width, self._height), Pictures.Resampling.BOX)
        self._bars.append(np.asarray(small))

    def picture(self) -> Image.Image:
        """The sheet, grey."""
        from PIL import Image as Pictures
        from PIL import ImageDraw

        rows = max(1, -(-len(self._bars) // BARS_A_ROW))
        row_height = self._height + LABEL_ROWS
        sheet = Pictures.new("L", (BARS_A_ROW * self._width, rows * row_height), 255)
        draw = ImageDraw.Draw(sheet)
        for number, bar in enumerate(self._bars):
            row, place = divmod(number, BARS_A_ROW)
            left, top = place * self._width, row * row_height
            sheet.paste(Pictures.fromarray(bar), (left, top + LABEL_ROWS))
            draw.line([(left, top + LABEL_ROWS), (left, top + row_height - 1)], fill=RULE)
            if number in self._labels:
                draw.text((left + 2, top + 1), self._labels[number], fill=0)
        return sheet
