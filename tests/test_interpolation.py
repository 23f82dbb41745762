"""Between two waypoints everything changes as Riffusion changes it: noise on the arc, the rest on the straight line."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from riffusion_engine.errors import RequestError
from riffusion_rt.interpolation import (
    CURVES,
    MixedNoise,
    Waypoint,
    curve_positions,
    lerp,
    path_weights,
    slerp,
)
from riffusion_rt.noise import TorchNoise

SHAPE = (1, 4, 8, 8)


def test_slerp_keeps_the_norm_that_lerp_loses() -> None:
    a, b = TorchNoise(1).normal(SHAPE), TorchNoise(2).normal(SHAPE)
    norm = (np.linalg.norm(a) + np.linalg.norm(b)) / 2
    assert np.linalg.norm(slerp(0.5, a, b)) == pytest.approx(norm, rel=0.05)
    assert np.linalg.norm(lerp(0.5, a, b)) < 0.8 * norm


def test_slerp_starts_and_ends_at_its_ends_and_goes_evenly() -> None:
    a, b = TorchNoise(1).normal(SHAPE), TorchNoise(2).normal(SHAPE)
    np.testing.assert_allclose(slerp(0.0, a, b), a, atol=1e-6)
    np.testing.assert_allclose(slerp(1.0, a, b), b, atol=1e-6)
    unit = [slerp(share, a / np.linalg.norm(a), b / np.linalg.norm(b)).ravel() for share in (0, 0.25, 0.5)]
    first, second = (math.acos(float(np.dot(x, y))) for x, y in pairwise(unit))
    assert first == pytest.approx(second, rel=1e-3)


def test_nearly_parallel_and_silent_tensors_are_mixed_straight() -> None:
    a = TorchNoise(1).normal(SHAPE)
    np.testing.assert_array_equal(slerp(0.3, a, a), lerp(0.3, a, a))
    np.testing.assert_array_equal(slerp(0.3, a, 0 * a), lerp(0.3, a, 0 * a))
    np.testing.assert_array_equal(slerp(0.3, a, np.float32(-1) * a), lerp(0.3, a, -a))


def test_mixed_noise_of_one_seed_is_that_seeds_noise_draw_after_draw() -> None:
    mixed, plain = MixedNoise([3, 9], [1.0, 0.0]), TorchNoise(3)
    for _ in range(2):
        np.testing.assert_array_equal(mixed.normal(SHAPE), plain.normal(SHAPE))


def test_mixed_noise_of_many_seeds_stays_unit_noise() -> None:
    drawn = MixedNoise([1, 2, 3, 4], [1, 1, 2, 4]).normal((1, 4, 32, 32))
    assert drawn.std() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("curve", CURVES)
def test_every_curve_runs_from_0_to_1_and_never_back(curve: str) -> None:
    places = curve_positions(9, curve, power=3)
    assert (places[0], places[-1]) == (0, 1)
    assert all(a < b for a, b in pairwise(places))


def test_curves_differ_where_they_should() -> None:
    assert curve_positions(3) == (0, 0.5, 1)
    assert curve_positions(3, "power", 2) == (0, 0.25, 1)
    smooth = curve_positions(5, "smooth")
    assert smooth[1] < 0.25
    assert smooth[3] > 0.75
    assert curve_positions(1) == (0.0,)


def test_legs_are_as_long_as_their_weights_say() -> None:
    path = [Waypoint("a", weight=3), Waypoint("b", weight=1), Waypoint("c")]
    assert path_weights(path, 0) == [1, 0, 0]
    assert path_weights(path, 0.375) == pytest.approx([0.5, 0.5, 0])
    assert path_weights(path, 0.75) == pytest.approx([0, 1, 0])
    assert path_weights(path, 0.875) == pytest.approx([0, 0.5, 0.5])
    assert path_weights(path, 1) == pytest.approx([0, 0, 1])
    assert path_weights(path[:1], 0.7) == [1]


@pytest.mark.parametrize(
    "settings",
    [{"seed": -1}, {"guidance": math.nan}, {"strength": 2.0}, {"weight": 0}, {"weight": math.inf}],
    ids=lambda settings: next(iter(settings)),
)
def test_an_absurd_waypoint_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=next(iter(settings))):
        Waypoint("piano", **settings)


def test_absurd_curves_are_refused() -> None:
    for arguments in ((0,), (3, "zigzag"), (3, "power", 0.0), (3, "power", math.nan)):
        with pytest.raises(RequestError):
            curve_positions(*arguments)
