"""Noise for a seed is torch's noise for that seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from riffusion_engine.errors import RequestError
from riffusion_rt.noise import HIGHEST_SEED, LOWEST_SEED, TorchNoise

ORDINARY_SEEDS = (0, 1, 42, 1_234_567, 2**31, 2**32 - 1)
FAR_SEEDS = (2**32, 2**40 + 7, 2**63, HIGHEST_SEED, -1, -2, -(2**31), LOWEST_SEED)


def torch_noise(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn(shape, generator=generator).numpy() for shape in shapes]


@pytest.mark.parametrize("seed", ORDINARY_SEEDS + FAR_SEEDS)
def test_same_seed_gives_the_same_noise_as_torch(seed: int) -> None:
    (expected,) = torch_noise(seed, (1, 4, 64, 64))
    noise = TorchNoise(seed).normal((1, 4, 64, 64))
    assert noise.shape == expected.shape
    assert noise.dtype == np.float32
    np.testing.assert_allclose(noise, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("size", [1, 2, 3, 15, 16, 17, 24, 31, 32, 33, 100, 4095])
def test_every_length_takes_the_path_it_takes_in_torch(size: int) -> None:
    (expected,) = torch_noise(3, (size,))
    np.testing.assert_allclose(TorchNoise(3).normal((size,)), expected, rtol=0, atol=5e-7)


def test_successive_draws_continue_the_stream() -> None:
    # Odd short draws leave a spare value behind, which long draws must pass by and short ones pick up.
    shapes = [(3,), (16,), (2,), (1,), (15,), (17,), (4, 8, 8), (5,), (0,), (31,), (2, 2), (1,)]
    noise = TorchNoise(11)
    for expected in torch_noise(11, *shapes):
        np.testing.assert_allclose(noise.normal(expected.shape), expected, rtol=0, atol=5e-7)


def test_seeds_are_told_apart_by_their_low_32_bits_only() -> None:
    np.testing.assert_array_equal(TorchNoise(5).normal((64,)), TorchNoise(5 + 2**32).normal((64,)))
    assert not np.array_equal(TorchNoise(5).normal((64,)), TorchNoise(6).normal((64,)))


def test_generators_of_one_seed_do_not_disturb_each_other() -> None:
    first, second = TorchNoise(7), TorchNoise(7)
    one = first.normal((20,))
    first.normal((20,))
    np.testing.assert_array_equal(second.normal((20,)), one)


def test_noise_is_finite_and_standard_normal() -> None:
    noise = TorchNoise(0).normal((400_000,))
    assert np.isfinite(noise).all()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_numpy_whole_numbers_are_seeds_too() -> None:
    np.testing.assert_array_equal(TorchNoise(np.int64(9)).normal((8,)), TorchNoise(9).normal((8,)))


@pytest.mark.parametrize("seed", [LOWEST_SEED - 1, HIGHEST_SEED + 1, 10**30, 1.5, "1", None])
def test_seeds_that_torch_refuses_are_refused(seed: object) -> None:
    with pytest.raises(RequestError, match=r"[Ss]eed") as refusal:
        TorchNoise(seed)  # type: ignore[arg-type]
    assert refusal.value.hint


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(RequestError, match="shape"):
        TorchNoise(0).normal((4, -1))
