"""A request states what a clip is asked to be, and refuses what no clip can be."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from riffusion_engine.errors import RequestError
from riffusion_engine.manifest import SamplingDefaults
from riffusion_rt.request import MAX_PROMPT_CHARACTERS, MAX_SEED, ClipRequest, field_range

DEFAULTS = SamplingDefaults(sampler="dpm++2m", steps=20, guidance=3.0, strength=0.6)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": MAX_SEED + 1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 1001}, "steps"),
        ({"steps": 2.0}, "steps"),
        ({"guidance": -0.1}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"guidance": "7"}, "guidance"),
        ({"sampler": "heun"}, "heun"),
        ({"strength": 0.5}, "strength"),
        ({"mask": Path("mask.png")}, "mask"),
        ({"seed_image": Path("a.png"), "strength": 1.01}, "strength"),
        ({"negative_prompt": None}, "negative_prompt"),
        ({"negative_prompt": "x" * (MAX_PROMPT_CHARACTERS + 1)}, "characters"),
    ],
)
def test_absurd_settings_are_refused_by_name_and_with_a_hint(settings: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError, match=word) as refusal:
        ClipRequest("piano", **settings)
    assert refusal.value.hint


def test_a_prompt_must_be_text() -> None:
    with pytest.raises(RequestError, match="prompt"):
        ClipRequest(7)  # type: ignore[arg-type]


def test_defaults_fill_in_only_what_was_not_said() -> None:
    resolved = ClipRequest("piano", steps=7).resolved(DEFAULTS)
    assert (resolved.steps, resolved.guidance, resolved.sampler, resolved.strength) == (
        7,
        3.0,
        "dpm++2m",
        None,
    )
    with_picture = ClipRequest("piano", guidance=0.0, seed_image="a.png").resolved(DEFAULTS)
    assert (with_picture.guidance, with_picture.strength) == (0.0, 0.6)


def test_settings_are_plain_json_values_that_make_the_same_request() -> None:
    request = ClipRequest("piano", seed=4, seed_image=Path("beat.png"), strength=0.5)
    settings = request.settings()
    assert settings["seed_image"] == "beat.png"
    assert ClipRequest(**settings) == dataclasses.replace(request, seed_image="beat.png")


def test_ranges_are_published_for_numbers_only() -> None:
    assert field_range("strength") == (0, 1)
    assert field_range("seed") == (0, MAX_SEED)
    assert field_range("prompt") is None


def test_what_has_a_seed_has_a_guidance_of_its_own() -> None:
    told = SamplingDefaults(sampler="dpm++2m", steps=20, guidance=3.0, strength=0.6, seeded_guidance=6.0)
    plain, seeded = ClipRequest("piano"), ClipRequest("piano", seed_audio="a.wav")
    assert plain.resolved(told).guidance == 3.0
    assert seeded.resolved(told).guidance == 6.0
    assert seeded.resolved(DEFAULTS).guidance == 3.0
    assert dataclasses.replace(seeded, guidance=1.5).resolved(told).guidance == 1.5
