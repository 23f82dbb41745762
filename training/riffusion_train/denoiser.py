"""Latents and captions in, a UNet and a text encoder out: trained together on the noise-prediction objective."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from riffusion_export.clip_tokenizer import write_clip_tokenizer
from riffusion_train.begun import Begun, begun_networks
from riffusion_train.both_players import apart_from_both
from riffusion_train.clip_draws import ClipDraws
from riffusion_train.manner_emphasis import MannerEmphasis
from riffusion_train.model_soup import Soup
from riffusion_train.noise_objective import NoiseObjective
from riffusion_train.place_in_time import PlaceInTime
from riffusion_train.pooled_text import POOLED_TEXT, silence
from riffusion_train.running_average import follow
from riffusion_train.token_ids import token_ids
from riffusion_train.training_loop import TrainingLoop, TrainingProgress, set_rate, warm_cosine
from riffusion_train.usual_errors import UsualErrors

TEXT_WIDTH = 256
VOCABULARY = 1_200

NOISE_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
"""Stable Diffusion v1's, so that every one of its samplers works here too."""


@dataclass(frozen=True)
class DenoiserRecipe:
    """How long and how fast. The learning rate falls over ``steps``, or over ``minutes`` of wall time without them."""

    minutes: float = 45.0
    steps: int | None = None
    batch: int = 16
    learning_rate: float = 6e-4
    empty_caption_share: float = 0.1
    ema_decay: float = 0.999
    snr_cap: float = 5.0
    """Cap of the signal-to-noise ratio in the loss weight (min-SNR, arXiv 2303.09556)."""
    levels: int = 32
    """Bands of noise levels whose errors are measured by what is usual there."""
    place_weight: float = 0.2
    """How much it counts to know where in a clip a column is."""
    beat_weight: float = 1.0
    """How much it counts to know the clip's own beat there, and what tempo the prompt asks for."""
    swing_weight: float = 0.3
    """How much it counts to know whether the clip swings."""
    both_weight: float = 0.2
    pairs: int = 4
    """How much it counts that the text encoder says of both players what it says of each, and pairs in each batch."""
    seed: int = 0


class PromptedUNet(nn.Module):
    """The two models that learn together."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, token_ids: Tensor) -> Tensor:
        """Predict the noise in ``latents`` (n, c, h, w) at ``timesteps`` (n,) for ``token_ids`` (n, 77)."""
        states = self.text_encoder(token_ids).last_hidden_state
        prediction: Tensor = self.unet(latents, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return prediction


def build_unet(
    channels: tuple[int, ...] = (128, 192, 256), latent_channels: int = 16
) -> UNet2DConditionModel:
    """A UNet over 32×32 latents with attention everywhere but at the top resolution, where it is slow on CPUs.

    The prompt reaches that, too, as one vector.
    """
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * (len(channels) - 1)),
        up_block_types=(*("CrossAttnUpBlock2D",) * (len(channels) - 1), "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
        **POOLED_TEXT,
    )
    return silence(unet)


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A narrow CLIPTextModel, to be trained along with the UNet."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=TEXT_WIDTH,
        )
    )


def train_denoiser(run: Path, recipe: DenoiserRecipe = DenoiserRecipe()) -> Iterator[TrainingProgress]:
    """Train on the clips and duos of ``run`` as its ``vae`` encodes them; resume; leave models and tokenizer there.

    A run that was begun with a finished model (``begun.begin_with``) trains on from its weights.
    """
    torch.manual_seed(recipe.seed)
    clips = ClipDraws.of_run(run)
    if not (run / "tokenizer" / "vocab.json").exists():
        write_clip_tokenizer(run / "tokenizer", [f.caption for f in clips.facts], VOCABULARY)
    tokenizer = CLIPTokenizer.from_pretrained(run / "tokenizer")
    tokenized = partial(token_ids, tokenizer)
    begun = not (run / "denoiser.pt").exists() and Begun.of_run(run)
    networks = begun_networks(run) if begun else (build_unet(), build_text_encoder(tokenizer))
    model = PromptedUNet(*networks).train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    place = PlaceInTime(model.unet)
    alphas = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod
    objective = NoiseObjective(alphas, "epsilon", recipe.snr_cap)
    usual = UsualErrors(objective.expected(torch.arange(len(alphas))), recipe.levels)
    optimizer = torch.optim.AdamW(
        [*model.parameters(), *place.parameters()],
        lr=recipe.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=1e-2,
    )
    loop = TrainingLoop(
        run / "denoiser.pt",
        minutes=recipe.minutes,
        steps=recipe.steps,
        model=model,
        average=average,
        place=place,
        usual=usual,
        optimizer=optimizer,
    )
    rng = np.random.default_rng([recipe.seed, loop.step])

    def batch(done: float) -> tuple[float, float]:
        set_rate(optimizer, recipe.learning_rate * warm_cosine(loop.step, done, warm_steps=100))
        drawn = clips.draw(rng, recipe.batch)
        clean, untold = drawn.latents, rng.random(recipe.batch) < recipe.empty_caption_share
        ids = tokenized(["" if none else each for none, each in zip(untold, drawn.captions, strict=True)])
        # One random offset for the whole batch: every batch covers all noise levels evenly, which steadies the loss.
        spread = (np.arange(recipe.batch) + rng.random()) / recipe.batch
        timesteps = torch.from_numpy((spread * len(alphas)).astype(np.int64))
        noise = torch.randn_like(clean)
        noisy = objective.noisy(clean, noise, timesteps)
        with torch.autocast("cpu", torch.bfloat16):
            prediction = model(noisy, timesteps, ids)
            lessons = place.lessons(drawn.beats, drawn.swings)
            apart = apart_from_both(model.text_encoder, tokenized, clips.solos(rng, recipe.pairs))
        error = (prediction.float() - noise).square().mean(dim=(1, 2, 3))
        loss = (error / usual.at(timesteps) * objective.balanced_weights(timesteps)).mean()
        loss = loss + recipe.place_weight * lessons.place
        loss = loss + recipe.beat_weight * (lessons.beat + 0.2 * lessons.tempo)
        loss = loss + recipe.swing_weight * lessons.swing + recipe.both_weight * apart
        usual.learn(timesteps, error)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        follow(average, model, min(recipe.ema_decay, (2 + loop.step) / (11 + loop.step)))
        value = float(error.detach().mean())
        return value, value

    yield from loop.run(batch, lambda: _save(average, run))


def _save(model: PromptedUNet, run: Path) -> None:
    model.unet.save_pretrained(run / "unet")
    model.text_encoder.save_pretrained(run / "text_encoder")
    Soup.forget(run)
    MannerEmphasis.forget(run)
    (run / "noise_schedule.json").write_text(json.dumps(NOISE_SCHEDULE))
