"""A walk's clips are Riffusion's own, whether they are denoised together or alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from riffusion_engine.errors import RequestError
from riffusion_rt import Clip, ClipRequest, Riffusion, StepProgress
from riffusion_rt.interpolation import Waypoint, mixed_conditions
from riffusion_rt.walk import WalkRequest, joined_walk

START = Waypoint("church bells", seed=3, negative_prompt="drums", guidance=7.0, strength=0.75)
END = Waypoint("(funky:1.0) piano", seed=8, guidance=4.0, strength=0.75)
ALPHAS = (0.0, 0.25, 0.5, 1.0)
STEPS = 12


@pytest.fixture(scope="module")
def toy(toy_bundle: Path) -> Iterator[Riffusion]:
    with Riffusion(toy_bundle, device="cpu", threads=1) as riffusion:
        yield riffusion


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def walked(
    riffusion: Riffusion, request: WalkRequest, batch: int | None = None
) -> tuple[list[NDArray[np.float32]], list[Clip]]:
    """(final latents of every pass, clips)."""
    finals: list[NDArray[np.float32]] = []
    clips: list[Clip] = []
    last: StepProgress | None = None
    for event in riffusion.interpolate(request, batch=batch):
        if isinstance(event, StepProgress):
            last = event
        else:
            clips.append(event)
            if last is not None:
                finals.append(last.latents)
                last = None
    return finals, clips


def reference_latents(checkpoint: Path, picture: Image.Image, alpha: float) -> NDArray[np.float32]:
    """Riffusion's interpolation on a seed image, in torch and diffusers, but for its fault: negatives count."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(checkpoint)
    scheduler = pipe.scheduler

    def embedded(text: str) -> torch.Tensor:
        ids = pipe.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return pipe.text_encoder(ids)[0]

    def noise(seed: int, shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))

    def between(a: float | torch.Tensor, b: float | torch.Tensor) -> float | torch.Tensor:
        return (1 - alpha) * a + alpha * b

    pixels = torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1)[None] / 255 * 2 - 1
    posterior = pipe.vae.encode(pixels).latent_dist
    init = posterior.sample(generator=torch.Generator("cpu").manual_seed(START.seed)) * 0.18215
    a, b = noise(START.seed, init.shape), noise(END.seed, init.shape)
    cosine = (a * b).sum() / (a.norm() * b.norm())
    theta = torch.arccos(cosine)
    drawn = (
        torch.sin((1 - alpha) * theta) / torch.sin(theta) * a
        + torch.sin(alpha * theta) / torch.sin(theta) * b
    )
    guidance = between(START.guidance or 0, END.guidance or 0)
    prompt = between(embedded("church bells"), embedded("funky piano"))
    negative = between(embedded("drums"), embedded(""))

    scheduler.set_timesteps(STEPS)
    offset = scheduler.config.steps_offset
    init_steps = min(int(STEPS * between(START.strength or 0, END.strength or 0)) + offset, STEPS)
    latents = scheduler.add_noise(init, drawn, torch.tensor([int(scheduler.timesteps[-init_steps])]))
    for timestep in scheduler.timesteps[max(STEPS - init_steps + offset, 0) :]:
        both = pipe.unet(
            torch.cat([latents, latents]), timestep, encoder_hidden_states=torch.cat([negative, prompt])
        ).sample
        without, told = both.chunk(2)
        latents = scheduler.step(without + guidance * (told - without), timestep, latents).prev_sample
    return latents.numpy()


@torch.no_grad()
def test_latents_along_a_walk_are_those_of_riffusions_algorithm_in_torch(
    toy: Riffusion, toy_checkpoint: Path, picture: Image.Image
) -> None:
    request = WalkRequest((START, END), ALPHAS, steps=STEPS, sampler="pndm", seed_image=picture)
    (latents,), _ = walked(toy, request)
    for index, alpha in enumerate(ALPHAS):
        expected = reference_latents(toy_checkpoint, picture, alpha)
        assert np.abs(latents[index] - expected[0]).max() <= 1e-3 * np.abs(expected).max(), alpha


def test_both_ends_of_a_walk_are_the_clips_of_their_prompts(toy: Riffusion) -> None:
    request = WalkRequest((START, END), (0.0, 1.0), steps=4)
    _, (first, last) = walked(toy, request)
    for clip, point in ((first, START), (last, END)):
        plain = toy.generate(
            point.prompt,
            negative_prompt=point.negative_prompt,
            seed=point.seed,
            guidance=point.guidance,
            steps=4,
        )
        assert _levels_apart(clip, plain) <= 1


def test_a_clip_of_a_walk_is_made_again_alone_from_what_it_says(toy: Riffusion, picture: Image.Image) -> None:
    request = WalkRequest((START, END), (0.2, 0.4, 0.6), steps=4, seed_image=picture)
    _, clips = walked(toy, request)
    settings = clips[1].request.settings()
    assert settings.pop("verb") == "interpolate"
    again = WalkRequest(**{**settings, "seed_image": picture})
    assert again.alphas == (0.4,)
    _, (clip,) = walked(toy, again)
    assert _levels_apart(clip, clips[1]) <= 1


def _levels_apart(a: Clip, b: Clip) -> int:
    return int(np.abs(np.asarray(a.image, np.int16) - np.asarray(b.image, np.int16)).max())


def test_batches_change_how_often_the_network_runs_and_not_what_is_heard(toy: Riffusion) -> None:
    request = WalkRequest((START, END), (0.0, 0.3, 0.7, 1.0), steps=3)
    together, alone = walked(toy, request, batch=4)[0], walked(toy, request, batch=1)[0]
    assert (len(together), len(alone)) == (1, 4)
    np.testing.assert_allclose(together[0], np.concatenate(alone), atol=2e-4)


def test_strengths_that_differ_start_at_different_steps_and_keep_their_order(
    toy: Riffusion, picture: Image.Image
) -> None:
    points = (dataclasses.replace(START, strength=0.25), dataclasses.replace(END, strength=1.0))
    request = WalkRequest(points, (0.0, 0.5, 1.0), steps=8, sampler="ddim", seed_image=picture)
    events = list(toy.interpolate(request))
    steps = [event for event in events if isinstance(event, StepProgress)]
    assert [event.step for event in steps] == list(range(1, 2 + 5 + 8 + 1))
    assert {event.steps for event in steps} == {15}
    assert [event.request.alphas for event in events if isinstance(event, Clip)] == [(0.0,), (0.5,), (1.0,)]  # type: ignore[attr-defined]


def test_negative_prompts_guidance_and_weights_are_heard_on_the_way(toy: Riffusion) -> None:
    base = WalkRequest((START, END, Waypoint("drums", seed=1)), (0.3,), steps=3)
    plain = walked(toy, base)[0][0]
    for change in ({"negative_prompt": "saxophone"}, {"guidance": 1.5}, {"weight": 2.0}, {"seed": 77}):
        changed = dataclasses.replace(
            base,
            waypoints=(dataclasses.replace(START, **change), *base.waypoints[1:]),  # type: ignore[arg-type]
        )
        assert np.abs(walked(toy, changed)[0][0] - plain).max() > 1e-4, change


def test_any_number_of_waypoints_can_be_mixed_at_once(toy: Riffusion) -> None:
    points = [START, END, Waypoint("drums", seed=1, guidance=1.0)]
    told = mixed_conditions(toy.model, points, [[2, 1, 1], [0, 0, 3]])
    assert told.guidance == pytest.approx([(2 * 7 + 4 + 1) / 4, 1.0])
    np.testing.assert_allclose(told.prompt[1:], toy.model.embed(["drums"]), atol=1e-5)
    with pytest.raises(RequestError, match="mixed"):
        mixed_conditions(toy.model, points, [[0, 0, 0]])


def test_a_joined_walk_is_as_long_as_its_clips(toy: Riffusion) -> None:
    request = WalkRequest((START, END), (0.0, 1.0), steps=2)
    _, clips = walked(toy, request)
    joined = joined_walk(clips, request)
    assert joined.image.width == 2 * clips[0].image.width
    assert joined.samples.shape[1] == 2 * clips[0].samples.shape[1]
    assert joined.metadata()["title"] == "church bells → (funky:1.0) piano"


def test_what_no_walk_can_be_is_refused() -> None:
    for settings in (
        {"waypoints": ()},
        {"alphas": (1.5,)},
        {"alphas": ()},
        {"steps": 0},
        {"sampler": "heun"},
    ):
        with pytest.raises(RequestError):
            WalkRequest(**{"waypoints": (Waypoint("a"), Waypoint("b")), **settings})  # type: ignore[arg-type]


def test_a_clip_request_and_a_walk_say_the_same_of_their_seed(picture: Image.Image) -> None:
    walk = WalkRequest((START,), (0.0,), seed_image=picture)
    assert walk.seed == ClipRequest("church bells", seed=3).seed
