"""Seconds and hertz say what may change: white inside, black outside."""

from __future__ import annotations

import numpy as np
import pytest

from riffusion_engine.errors import RequestError
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt.masks_by_range import band_centres_hz, mask_of_ranges
from riffusion_rt.request import ClipRequest, parse_range

PARAMS = SpectrogramParams()


def test_times_are_columns_and_frequencies_are_rows_from_the_bottom() -> None:
    mask = np.asarray(mask_of_ranges(((1.5, 3.0),), ((0, 500),), 512, PARAMS))
    assert mask.shape == (512, 512)
    assert set(np.unique(mask)) == {0, 255}
    assert np.flatnonzero(mask[-1])[[0, -1]].tolist() == [150, 299]
    low = band_centres_hz(PARAMS) <= 500
    assert (mask[:, 200][::-1] == 255).tolist() == low.tolist()


def test_without_one_of_the_two_all_of_it_may_change() -> None:
    assert np.asarray(mask_of_ranges(((1, 2),), (), 300, PARAMS))[:, 150].min() == 255
    assert np.asarray(mask_of_ranges((), ((0, 500),), 300, PARAMS))[-1].min() == 255


def test_several_ranges_add_up() -> None:
    mask = np.asarray(mask_of_ranges(((0, 1), (2, 3)), (), 400, PARAMS))[0]
    assert (mask > 0).sum() == 200


@pytest.mark.parametrize(("times", "bands"), [(((6.0, 7.0),), ()), ((), ((11_000.0, 12_000.0),))])
def test_a_range_beyond_the_clip_is_refused_with_where_it_ends(times: tuple, bands: tuple) -> None:
    with pytest.raises(RequestError, match="reaches"):
        mask_of_ranges(times, bands, 512, PARAMS)


@pytest.mark.parametrize("text", ["", "1", "3-1", "a-b", "-1-2", "1-inf", "nan-2"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="s"):
        parse_range(text, "s")


def test_a_request_reads_its_ranges_back_from_json() -> None:
    request = ClipRequest("bells", seed_audio="a.wav", repaint_s=((1.5, 3.0),), repaint_hz=((0, 500),))
    assert (
        ClipRequest(**{**request.settings(), "repaint_s": [[1.5, 3.0]], "repaint_hz": [[0, 500]]}) == request
    )
