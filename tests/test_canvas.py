"""A canvas of any width is denoised in windows of the trained one, and nothing tells where they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riffusion_engine.errors import RequestError
from riffusion_engine.manifest import LatentSpec
from riffusion_engine.spectrogram_params import SpectrogramParams
from riffusion_rt import Clip, ClipRequest, Riffusion, StepProgress
from riffusion_rt.canvas import Canvas, WideUNet, told_at, unet_for, window_weight

SPEC = LatentSpec(channels=2, height=4, width=8, scale=1.0, shift=0.0, vae_factor=4)
PARAMS = SpectrogramParams()


class LocalUNet:
    """Predicts each place from itself and the embedding alone, and keeps the shapes it was fed."""

    graph: Any = None
    provider = "fake"

    def __init__(self) -> None:
        self.fed: list[tuple[int, ...]] = []

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.fed.append(feeds["sample"].shape)
        bias = feeds["encoder_hidden_states"].mean(axis=(1, 2))[:, None, None, None]
        time = feeds["timestep"][:, None, None, None] / 1000
        return {"out_sample": (np.tanh(feeds["sample"]) + bias + time).astype(np.float32)}

    def close(self) -> None: ...


class BorderUNet(LocalUNet):
    """Predicts how near each column is to the window's border: what must not show."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        width = feeds["sample"].shape[-1]
        edge = np.minimum(np.arange(width), np.arange(width)[::-1]) == 0
        return {"out_sample": np.broadcast_to(edge, feeds["sample"].shape).astype(np.float32)}


def feeds_of(width: int, batch: int = 2, knots: int | None = None) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    told = (batch, 3, 5) if knots is None else (batch, knots, 3, 5)
    return {
        "sample": rng.standard_normal((batch, 2, 4, width)).astype(np.float32),
        "timestep": np.full(batch, 500, np.float32),
        "encoder_hidden_states": rng.standard_normal(told).astype(np.float32),
    }


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Iterator[Riffusion]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        yield riffusion


@pytest.mark.parametrize(
    ("columns", "circular"), [(33, False), (100, False), (48, True), (20, True), (8, True)]
)
def test_a_network_without_borders_sees_the_canvas_as_one(columns: int, circular: bool) -> None:
    canvas = Canvas.for_columns(columns, SPEC, circular=circular)
    feeds = feeds_of(canvas.width)
    wide = WideUNet(LocalUNet(), canvas, rows_at_once=3).run(feeds)["out_sample"]
    np.testing.assert_allclose(wide, LocalUNet().run(feeds)["out_sample"], atol=1e-5)


def test_the_network_is_only_fed_its_own_width_and_a_bounded_batch() -> None:
    canvas, unet = Canvas.for_columns(10_000, SPEC), LocalUNet()
    WideUNet(unet, canvas, rows_at_once=2).run(feeds_of(canvas.width))
    assert {shape[-1] for shape in unet.fed} == {SPEC.width}
    assert max(shape[0] for shape in unet.fed) == 2


def test_what_a_network_does_at_borders_is_all_but_gone() -> None:
    canvas = Canvas.for_columns(200, SPEC)
    output = WideUNet(BorderUNet(), canvas, 4).run(feeds_of(canvas.width))["out_sample"]
    inner = output[..., SPEC.width // 2 : -SPEC.width // 2]
    assert inner.max() < 0.05
    assert output[..., 0].min() == 1


def test_a_circle_turned_by_a_stride_gives_the_same_prediction_turned() -> None:
    canvas = Canvas.for_columns(96, SPEC, circular=True)
    feeds, stride = feeds_of(canvas.width), SPEC.width // 2
    unet = WideUNet(BorderUNet(), canvas, 4)
    turned = {**feeds, "sample": np.roll(feeds["sample"], stride, axis=-1)}
    expected = np.roll(unet.run(feeds)["out_sample"], stride, axis=-1)
    np.testing.assert_allclose(unet.run(turned)["out_sample"], expected, atol=1e-6)


def test_prompts_change_along_the_canvas_from_the_first_to_the_last() -> None:
    canvas = Canvas.for_columns(400, SPEC)
    feeds = feeds_of(canvas.width, batch=1, knots=2)
    feeds["sample"][:] = 0
    feeds["encoder_hidden_states"][:] = np.array([0.0, 1.0], np.float32)[None, :, None, None]
    output = WideUNet(LocalUNet(), canvas, 4).run(feeds)["out_sample"][0, 0, 0] - np.float32(0.5)
    assert output[0] == pytest.approx(0)
    assert output[-1] == pytest.approx(1)
    assert (np.diff(output) > -1e-6).all()


def test_told_at_a_knot_is_that_knot() -> None:
    knots = np.arange(3, dtype=np.float32)[:, None, None] * np.ones((3, 2, 2), np.float32)
    assert [told_at(knots, place).mean() for place in (0, 0.25, 0.5, 1, 7)] == [0, 0.5, 1, 2, 2]


def test_windows_cover_the_canvas_and_count_least_at_their_borders() -> None:
    weight = window_weight(8)
    assert weight.min() > 0
    assert weight.argmin() in (0, 7)
    for columns in (1, 32, 33, 47, 1000):
        canvas = Canvas.for_columns(columns, SPEC)
        assert canvas.width * SPEC.vae_factor >= columns
        assert canvas.starts[-1] + canvas.window == canvas.width


def test_a_clip_of_the_models_own_width_is_denoised_by_the_network_itself() -> None:
    unet = LocalUNet()
    assert unet_for(Canvas.for_duration(None, SPEC, PARAMS), unet, "cpu") is unet
    assert unet_for(Canvas.for_duration(None, SPEC, PARAMS, circular=True), unet, "cpu") is not unet
    with pytest.raises(RequestError, match="column"):
        Canvas.for_duration(0.001, SPEC, PARAMS)


@pytest.mark.parametrize("duration_s", [0.3, 0.64, 1.0, 2.005])
def test_any_duration_is_columns_times_hop_samples(toy: Riffusion, duration_s: float) -> None:
    clip = toy.generate("bells", steps=1, duration_s=duration_s)
    assert clip.image.width == round(duration_s * 100)
    assert clip.samples.shape[1] == clip.image.width * 441


def test_a_loop_of_one_window_differs_from_the_clip_and_from_other_lengths(toy: Riffusion) -> None:
    plain, loop, short = (
        toy.generate("bells", steps=2, loop=loop, duration_s=duration)
        for loop, duration in ((False, None), (True, None), (True, 0.32))
    )
    assert loop.image.size == plain.image.size
    assert loop.image.tobytes() != plain.image.tobytes()
    assert short.image.width == 32


def test_a_film_of_a_canvas_has_pictures_of_the_clips_size(toy: Riffusion) -> None:
    events = list(toy.iterate(ClipRequest("bells", steps=2, duration_s=1.0)))
    clip = events[-1]
    assert isinstance(clip, Clip)
    shown = [event.preview() for event in events if isinstance(event, StepProgress)]
    assert [picture.size for picture in shown] == [clip.image.size] * 2
    # The last step expects what it then decodes.
    apart = np.asarray(shown[-1], np.int16) - np.asarray(clip.image, np.int16)
    assert (
        np.abs(apart).mean()
        < np.abs(np.asarray(shown[0], np.int16) - np.asarray(clip.image, np.int16)).mean() + 1
    )
