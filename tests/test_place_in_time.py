"""A UNet is asked where its columns are, answers by what its padding tells it, and stays as it was otherwise."""

from __future__ import annotations

import copy
import math

import torch
from diffusers import UNet2DConditionModel

from riffusion_train.denoiser import TEXT_WIDTH, build_unet
from riffusion_train.place_in_time import CYCLES, PlaceInTime, waves


def drawn(
    unet: UNet2DConditionModel, latents: torch.Tensor, states: torch.Tensor | None = None
) -> torch.Tensor:
    states = torch.zeros(len(latents), 4, TEXT_WIDTH) if states is None else states
    prediction: torch.Tensor = unet(latents, 500, encoder_hidden_states=states, return_dict=False)[0]
    return prediction


def test_waves_turn_as_often_as_they_say() -> None:
    every = waves(torch.tensor(CYCLES), 32)
    assert every.shape == (32, 2 * len(CYCLES))
    spectra = torch.fft.rfft(every, dim=0).abs()
    assert spectra.argmax(dim=0).tolist() == [*CYCLES, *CYCLES]
    each = waves(torch.tensor([[6], [10]]), 32)
    assert each.shape == (2, 32, 2)
    assert torch.fft.rfft(each[..., 0]).abs().argmax(dim=1).tolist() == [6, 10]


def test_place_beat_tempo_and_swing_are_learned_from_noise_and_prompt_alone() -> None:
    torch.manual_seed(0)
    unet = build_unet((32, 32, 32), latent_channels=4)
    place = PlaceInTime(unet)
    assert [head.in_channels for head in place.heads] == [32, 32]
    optimizer = torch.optim.AdamW([*unet.parameters(), *place.parameters()], lr=3e-3)
    told, history = torch.randn(2, 4, TEXT_WIDTH), []
    for _ in range(90):
        drawn(unet, torch.randn(2, 4, 32, 32), told)
        lessons = place.lessons(torch.tensor([6, 12]), torch.tensor([0.0, 1.0]))
        optimizer.zero_grad()
        (lessons.place + lessons.beat + lessons.tempo + lessons.swing).backward()
        optimizer.step()
        history.append(lessons)
    first, last = history[0], history[-1]
    assert last.place < 0.8 * 0.5 < first.place
    assert last.beat < 0.8 * 0.5 < first.beat
    assert last.tempo < 0.3 * first.tempo
    assert last.swing < 0.3 * first.swing


def test_a_listener_changes_nothing() -> None:
    torch.manual_seed(0)
    unet = build_unet((32, 32, 32), latent_channels=4)
    heard = copy.deepcopy(unet)
    place = PlaceInTime(heard)
    latents = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(drawn(unet, latents), drawn(heard, latents))
    told = place.lessons(torch.tensor([8]), torch.tensor([math.nan]))
    assert told.beat.isfinite()
    assert told.swing == 0
    assert list(heard.state_dict()) == list(unet.state_dict())
