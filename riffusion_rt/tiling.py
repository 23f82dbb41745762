"""A width too large for one graph in, overlapping tiles of the trained width out, and back, crossfaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def tile_starts(width: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin that cover ``width`` from end to end, evenly, each sharing ``overlap`` or more with the next.

    ``width`` is at least ``tile``, and ``overlap`` at most half of it, so that no place lies in three tiles.
    """
    count = 1 + -(-(width - tile) // (tile - overlap))
    if count == 1:
        return [0]
    return [round(number * (width - tile) / (count - 1)) for number in range(count)]


def crossfaded(
    tiles: Iterable[NDArray[np.float32]], starts: Sequence[int], unit: int = 1
) -> Iterator[NDArray[np.float32]]:
    """Merge tiles along their last axis: linear crossfades where two of them overlap.

    Args:
        tiles: (…, columns), one for each start.
        starts: as from ``tile_starts``.
        unit: columns that one step of ``starts`` stands for.

    Yields:
        The finished columns after each tile; together the whole width. At most two tiles are held.
    """
    tail: NDArray[np.float32] | None = None
    for tile, start, following in zip(tiles, starts, [*starts[1:], None], strict=True):
        merged = tile
        if tail is not None:
            shared = tail.shape[-1]
            fade = (np.arange(shared, dtype=np.float32) + np.float32(0.5)) / np.float32(shared)
            merged = tile.copy()
            merged[..., :shared] = (1 - fade) * tail + fade * tile[..., :shared]
        ready = tile.shape[-1] if following is None else (following - start) * unit
        tail = merged[..., ready:]
        yield merged[..., :ready]
