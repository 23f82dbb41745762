"""The loop does what its table and its guidance say, and nothing behind their backs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import NumericsError, RequestError
from riffusion_rt.denoise import Guidance, Repaint, denoise
from riffusion_rt.noise import TorchNoise
from riffusion_rt.noise_schedule import NoiseSchedule
from riffusion_rt.samplers import sampler_table

SCHEDULE = NoiseSchedule.from_config(
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
)
SHAPE = (2, 4, 8, 8)


class FakeUNet:
    """Predicts a mix of sample and embedding, and keeps what it was fed."""

    graph: Any = None
    provider = "fake"

    def __init__(self, poison_at: int | None = None) -> None:
        self.feeds: list[dict[str, NDArray[Any]]] = []
        self.poison_at = poison_at

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.feeds.append(dict(feeds))
        bias = feeds["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None]
        out = np.tanh(feeds["sample"]) + bias
        if len(self.feeds) - 1 == self.poison_at:
            out[0, 0, 0, 0] = np.nan
        return {"out_sample": out.astype(np.float32)}

    def close(self) -> None: ...


def _guidance(scale: float | NDArray[np.float32]) -> Guidance:
    prompt, negative = np.full((2, 77, 6), 0.2, np.float32), np.full((2, 77, 6), -0.1, np.float32)
    return Guidance(prompt, negative, scale)


def _latents() -> NDArray[np.float32]:
    return np.concatenate([TorchNoise(seed).normal((1, *SHAPE[1:])) for seed in (1, 2)])


def _walk(
    unet: FakeUNet,
    scale: float | NDArray[np.float32],
    sampler: str = "ddim",
    repaint: Repaint | None = None,
    steps: int = 6,
) -> NDArray[np.float32]:
    table = sampler_table(sampler, SCHEDULE, steps)
    walk = list(denoise(unet, table, _latents(), _guidance(scale), [TorchNoise(1), TorchNoise(2)], repaint))
    assert [done.step for done in walk] == list(range(1, len(table) + 1))
    assert walk[0].preview().shape == SHAPE
    return walk[-1].latents


def test_guidance_runs_both_sides_in_one_batch_negative_first() -> None:
    unet = FakeUNet()
    _walk(unet, 5.0)
    fed = unet.feeds[0]["encoder_hidden_states"]
    assert fed.shape[0] == 4
    assert (fed[:2] < 0).all()
    assert (fed[2:] > 0).all()


def test_without_guidance_half_the_work_is_done() -> None:
    unet = FakeUNet()
    _walk(unet, 1.0)
    assert unet.feeds[0]["sample"].shape == SHAPE


def test_guidance_extrapolates_between_the_two_predictions() -> None:
    at_one, at_three, at_five = (_walk(FakeUNet(), scale, steps=1) for scale in (1.0, 3.0, 5.0))
    # One step is linear in the prediction, so equal steps in scale move the latents by equal amounts.
    np.testing.assert_allclose(at_three - at_one, at_five - at_three, rtol=1e-3)
    assert np.abs(at_three - at_one).mean() > 1e-3


def test_each_sample_may_have_its_own_scale() -> None:
    scales = np.array([3.0, 7.0], np.float32)
    mixed = _walk(FakeUNet(), scales)
    for index, scale in enumerate(scales):
        np.testing.assert_allclose(mixed[index], _walk(FakeUNet(), float(scale))[index], atol=1e-5)


def test_a_scale_of_one_or_less_is_the_same_beside_a_guided_sample_as_alone() -> None:
    unet = FakeUNet()
    mixed = _walk(unet, np.array([0.5, 7.0], np.float32))
    assert unet.feeds[0]["sample"].shape[0] == 4
    np.testing.assert_allclose(mixed[0], _walk(FakeUNet(), 0.5)[0], atol=1e-5)


def test_outside_of_its_interval_guidance_costs_nothing() -> None:
    unet = FakeUNet()
    guidance = dataclasses.replace(_guidance(5.0), interval=(0.2, 0.8))
    table = sampler_table("ddim", SCHEDULE, 10)
    list(denoise(unet, table, _latents(), guidance, [TorchNoise(1), TorchNoise(2)]))
    assert [len(feeds["sample"]) for feeds in unet.feeds] == [2, 2, 4, 4, 4, 4, 4, 4, 2, 2]
    assert (unet.feeds[0]["encoder_hidden_states"] > 0).all()


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1), (0, 1.1), (float("nan"), 1)])
def test_an_interval_that_is_none_is_refused(interval: tuple[float, float]) -> None:
    with pytest.raises(RequestError, match="interval"):
        dataclasses.replace(_guidance(5.0), interval=interval)


@pytest.mark.parametrize("scale", [float("nan"), np.ones(3, np.float32), np.array([1, np.inf], np.float32)])
def test_a_scale_that_does_not_fit_the_batch_is_refused(scale: float | NDArray[np.float32]) -> None:
    with pytest.raises(RequestError, match="guidance scale"):
        _guidance(scale)


def test_samples_of_a_batch_do_not_touch_each_other() -> None:
    both = _walk(FakeUNet(), 3.0, "euler-a")
    single = Guidance(np.full((1, 77, 6), 0.2, np.float32), np.full((1, 77, 6), -0.1, np.float32), 3.0)
    table = sampler_table("euler-a", SCHEDULE, 6)
    *_, last = denoise(FakeUNet(), table, _latents()[1:], single, [TorchNoise(2)])
    np.testing.assert_allclose(last.latents[0], both[1], atol=1e-5)


def test_what_the_mask_keeps_ends_as_the_original() -> None:
    original, noise = np.full(SHAPE, 0.3, np.float32), _latents()
    keep = np.zeros((1, 1, 8, 8), np.float32)
    keep[..., :4] = 1
    final = _walk(FakeUNet(), 2.0, repaint=Repaint(original, noise, keep))
    np.testing.assert_allclose(final[..., :4], original[..., :4], atol=1e-6)
    assert np.abs(final[..., 4:] - original[..., 4:]).mean() > 0.05


def test_nan_is_refused_at_the_step_where_it_appears() -> None:
    unet = FakeUNet(poison_at=2)
    with pytest.raises(NumericsError, match="NaN"):
        _walk(unet, 3.0)
    assert len(unet.feeds) == 3
