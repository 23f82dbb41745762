"""Tiles cover a width evenly, and merge back without a trace."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from riffusion_rt.tiling import crossfaded, tile_starts


@pytest.mark.parametrize("width", [8, 9, 13, 14, 15, 100, 1001])
def test_tiles_reach_from_end_to_end_and_share_what_they_must(width: int) -> None:
    starts = tile_starts(width, 8, 2)
    assert starts[0] == 0
    assert starts[-1] + 8 == width
    assert all(second - first <= 6 for first, second in pairwise(starts))


@pytest.mark.parametrize("width", [8, 9, 14, 57])
@pytest.mark.parametrize("unit", [1, 3])
def test_tiles_of_one_picture_merge_into_it(width: int, unit: int) -> None:
    whole = np.random.default_rng(0).standard_normal((2, width * unit)).astype(np.float32)
    starts = tile_starts(width, 8, 2)
    tiles = [whole[:, start * unit : (start + 8) * unit] for start in starts]
    np.testing.assert_allclose(
        np.concatenate(list(crossfaded(tiles, starts, unit)), axis=1), whole, rtol=1e-6
    )


def test_tiles_that_disagree_are_faded_into_each_other() -> None:
    merged = np.concatenate(list(crossfaded([np.zeros((1, 8), "f"), np.ones((1, 8), "f")], [0, 4])), axis=1)
    assert merged[0, 3] == 0
    assert merged[0, 8] == 1
    assert np.abs(np.diff(merged)).max() <= 0.25
