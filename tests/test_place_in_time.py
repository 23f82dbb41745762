"""A UNet is asked where its columns are, answers by what its padding tells it, and stays as it was otherwise."""

from __future__ import annotations

import copy

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


def test_phases_turn_as_often_as_they_say() -> None:
    drawn = waves(torch.tensor(CYCLES), 32)
    assert drawn.shape == (32, 2 * len(CYCLES))
    spectra = torch.fft.rfft(drawn, dim=0).abs()
    assert spectra.argmax(dim=0).tolist() == [*CYCLES, *CYCLES]
    each = waves(torch.tensor([[6], [10]]), 32)
    assert each.shape == (2, 32, 2)
    assert torch.fft.rfft(each[..., 0]).abs().argmax(dim=1).tolist() == [6, 10]


def test_place_and_the_beat_that_is_asked_for_are_learned_from_noise_alone() -> None:
    torch.manual_seed(0)
    unet = build_unet((32, 32, 32), latent_channels=4)
    place = PlaceInTime(unet)
    assert [head.in_channels for head in place.heads] == [32, 32]
    optimizer = torch.optim.AdamW([*unet.parameters(), *place.parameters()], lr=3e-3)
    told = torch.randn(2, 4, TEXT_WIDTH)
    losses = []
    for _ in range(60):
        drawn(unet, torch.randn(2, 4, 32, 32), told)
        loss = place.loss(torch.tensor([6, 8]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * 0.5 < losses[0]


def test_a_listener_changes_nothing() -> None:
    torch.manual_seed(0)
    unet = build_unet((32, 32, 32), latent_channels=4)
    heard = copy.deepcopy(unet)
    place = PlaceInTime(heard)
    latents = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(drawn(unet, latents), drawn(heard, latents))
    assert place.loss(torch.tensor([8])).isfinite()
    assert list(heard.state_dict()) == list(unet.state_dict())
