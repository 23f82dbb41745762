"""A UNet is asked where its columns are, answers by what its padding tells it, and stays as it was otherwise."""

from __future__ import annotations

import copy

import torch
from diffusers import UNet2DConditionModel

from riffusion_train.denoiser import TEXT_WIDTH, build_unet
from riffusion_train.place_in_time import CYCLES, PlaceInTime, phases


def drawn(unet: UNet2DConditionModel, latents: torch.Tensor) -> torch.Tensor:
    states = torch.zeros(len(latents), 4, TEXT_WIDTH)
    prediction: torch.Tensor = unet(latents, 500, encoder_hidden_states=states, return_dict=False)[0]
    return prediction


def test_phases_turn_as_often_as_they_say() -> None:
    waves = phases(32)
    assert waves.shape == (2 * len(CYCLES), 32)
    spectra = torch.fft.rfft(waves).abs()
    assert spectra.argmax(dim=1).tolist() == [*CYCLES, *CYCLES]


def test_place_is_learned_from_noise_alone() -> None:
    torch.manual_seed(0)
    unet = build_unet((32, 32, 32), latent_channels=4)
    place = PlaceInTime(unet)
    assert [head.in_channels for head in place.heads] == [32, 32]
    optimizer = torch.optim.AdamW([*unet.parameters(), *place.parameters()], lr=3e-3)
    losses = []
    for _ in range(60):
        drawn(unet, torch.randn(2, 4, 32, 32))
        loss = place.loss()
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
    assert place.loss().isfinite()
    assert list(heard.state_dict()) == list(unet.state_dict())
