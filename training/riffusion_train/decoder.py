"""A trained autoencoder in, the same with a decoder that does not blur out: its encoder, and so all latents, stay.

What latents do not tell, such as how noise falls, the least squared error answers with an average, and averages are
smooth: attacks smear and textures vanish. A critic that tells strips of real pictures from decoded ones (a "patch"
discriminator, arXiv 1611.07004, with the hinge loss of arXiv 1705.02894) asks for one of the pictures that could have
been instead. How much it counts follows from gradients at the last layer, as in arXiv 2012.09841.

A critic that only asks for texture gets it everywhere, also where a soft attack should stand out: without a loss for
onsets, a flute that swings was one only in its latents. So spectral flux has to be that of the picture, too.

Latents that a UNet drew are smoother than encoded ones. Where the run has some (``drawn_latents``), a quarter of each
batch is of them: there is no picture that they should become, so the critic alone says whether they look real. Another
quarter is redrawn from a real clip, if the run has such: as smooth, but its picture is known, and so are its onsets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

from riffusion_train.autoencoder import decibels, onset_loss, restoring_loss, to_model_range
from riffusion_train.clip_draws import cached_latents, folders_of_clips
from riffusion_train.cpu_group_norm import quicken_group_norms
from riffusion_train.drawn_latents import FILE as DRAWN
from riffusion_train.drawn_latents import RedrawnLatents
from riffusion_train.rendered_clips import open_pictures, read_facts
from riffusion_train.running_average import follow
from riffusion_train.training_loop import TrainingLoop, TrainingProgress, set_rate, warm_cosine


@dataclass(frozen=True)
class DecoderRecipe:
    """How long and how fast. Learning rates fall over ``steps``, or over ``minutes`` of wall time without them."""

    minutes: float = 12.0
    steps: int | None = None
    batch: int = 8
    """Strips: where the run has drawn latents a quarter of them of those, and a quarter where it has redrawn ones."""
    strip_columns: int = 8
    """Width of a strip, in columns of latents."""
    learning_rate: float = 3e-4
    critic_learning_rate: float = 4e-4
    critic_weight: float = 0.5
    """Of the critic's gradient at the last layer, beside the other's."""
    onset_weight: float = 4.0
    """How much it counts when things begin: texture that the critic asks for hides soft attacks."""
    alone: int = 50
    """Batches that the critic learns from before the decoder listens to it."""
    most_noise: float = 0.2
    """Latents are disturbed by up to this share of their spread: generated ones are never quite right."""
    ema_decay: float = 0.995
    seed: int = 0


def train_decoder(run: Path, recipe: DecoderRecipe = DecoderRecipe()) -> Iterator[TrainingProgress]:
    """Train the decoder of ``run/vae`` on the run's latents and pictures; resume; leave the whole in ``run/vae``."""
    torch.manual_seed(recipe.seed)
    strips = _Strips(run, recipe)
    model = AutoencoderKL.from_pretrained(run / "vae").to(memory_format=torch.channels_last)
    quicken_group_norms(model)
    model.encoder.requires_grad_(False)
    model.quant_conv.requires_grad_(False)
    learning = nn.ModuleList([model.post_quant_conv, model.decoder]).train()
    average = copy.deepcopy(learning).eval().requires_grad_(False)
    critic = build_critic()
    optimizer = torch.optim.AdamW(
        learning.parameters(), lr=recipe.learning_rate, betas=(0.5, 0.95), weight_decay=1e-4
    )
    of_critic = torch.optim.AdamW(critic.parameters(), lr=recipe.critic_learning_rate, betas=(0.5, 0.95))
    loop = TrainingLoop(
        run / "decoder.pt",
        minutes=recipe.minutes,
        steps=recipe.steps,
        model=learning,
        average=average,
        critic=critic,
        optimizer=optimizer,
        of_critic=of_critic,
    )
    rng = np.random.default_rng([recipe.seed, loop.step])

    def batch(done: float) -> tuple[float, float]:
        annealed = warm_cosine(loop.step, done, warm_steps=50)
        set_rate(optimizer, recipe.learning_rate * annealed)
        set_rate(of_critic, recipe.critic_learning_rate * annealed)
        drawn = strips.drawn(rng, recipe.batch // 4)
        paired = recipe.batch - len(drawn)
        latents, real = strips.draw(rng, paired, recipe.batch // 4)
        with torch.autocast("cpu", torch.bfloat16):
            decoded = model.decode(torch.cat([latents, drawn])).sample.float()
            of_real, of_decoded = critic(_grey(real)).float(), critic(_grey(decoded).detach()).float()
        of_critic.zero_grad(set_to_none=True)
        fooled = (1 - of_real).clamp(min=0).mean() + (1 + of_decoded).clamp(min=0).mean()
        fooled.backward()
        of_critic.step()

        loss = restoring_loss(decoded[:paired], real)
        loss = loss + recipe.onset_weight * onset_loss(decoded[:paired], real)
        if loop.step >= recipe.alone:
            with torch.autocast("cpu", torch.bfloat16):
                wished = -critic(_grey(decoded)).float().mean()
            last = model.decoder.conv_out.weight
            mine, its = (torch.autograd.grad(each, last, retain_graph=True)[0] for each in (loss, wished))
            balance = (mine.norm() / (its.norm() + 1e-4)).clamp(max=1e4)
            loss = loss + recipe.critic_weight * balance * wished
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        optimizer.step()
        follow(average, learning, min(recipe.ema_decay, (2 + loop.step) / (11 + loop.step)))
        return float(loss.detach()), decibels(decoded[:paired].detach(), real)

    def leave() -> None:
        whole = copy.deepcopy(model).float().eval()
        whole.post_quant_conv.load_state_dict(average[0].state_dict())
        whole.decoder.load_state_dict(average[1].state_dict())
        whole.save_pretrained(run / "vae")

    yield from loop.run(batch, leave)


def build_critic(width: int = 24) -> nn.Sequential:
    """How real each patch of grey pictures (n, 1, bands, columns) looks, one number for every 8×8 of them."""
    blocks: list[nn.Module] = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    for channels in (width, 2 * width):
        blocks += [
            nn.Conv2d(channels, 2 * channels, 4, 2, 1),
            nn.GroupNorm(8, 2 * channels),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*blocks, nn.Conv2d(4 * width, 1, 3, padding=1))


class _Strips:
    """Strips of a run's clips: latents, encoded or redrawn, and the pictures that they are of; and drawn latents."""

    def __init__(self, run: Path, recipe: DecoderRecipe) -> None:
        folders = folders_of_clips(run)
        self._recipe = recipe
        latents = [cached_latents(run, name) for name in folders]
        pictures = {name: open_pictures(run / name)[: len(read_facts(run / name))] for name in folders}
        self._encoded = [
            (each, pictures[name][index])
            for name, of_folder in zip(folders, latents, strict=True)
            for index, each in enumerate(of_folder)
        ]
        redrawn = RedrawnLatents.of_run(run)
        self._redrawn = redrawn and [
            (each, pictures[name][index])
            for each, name, index in zip(redrawn.latents, redrawn.folders, redrawn.indices, strict=True)
        ]
        self._drawn = np.load(run / DRAWN) if (run / DRAWN).exists() else latents[0][:0]

    def draw(self, rng: np.random.Generator, count: int, redrawn: int) -> tuple[Tensor, Tensor]:
        """Latents float32 (count, c, h, w), and pictures float32 (count, 3, bands, columns) in ±1.

        The last ``redrawn`` of them are that, where the run has such; the others are encoded, and disturbed.
        """
        latents: list[NDArray[np.floating]] = []
        pictures: list[NDArray[np.uint8]] = []
        encoded = count - (redrawn if self._redrawn else 0)
        for turn in range(count):
            among = self._encoded if turn < encoded or not self._redrawn else self._redrawn
            latent, picture = among[int(rng.integers(len(among)))]
            factor = picture.shape[-1] // latent.shape[-1]
            columns = self._columns(rng, latent.shape[-1])
            latents.append(latent[..., columns])
            pictures.append(picture[:, (columns[:, None] * factor + np.arange(factor)).ravel()])
        clean = torch.from_numpy(np.stack(latents)).float()
        noise = self._recipe.most_noise * torch.rand(count, 1, 1, 1) * torch.randn_like(clean)
        noise[encoded:] = 0
        return clean + noise, to_model_range(np.stack(pictures))

    def drawn(self, rng: np.random.Generator, count: int) -> Tensor:
        """Strips of drawn latents float32 (count, c, h, w); none where the run has none."""
        chosen = rng.integers(len(self._drawn), size=count) if len(self._drawn) else ()
        strips = [self._drawn[i][..., self._columns(rng, self._drawn.shape[-1])] for i in chosen]
        none = self._drawn[:0, ..., : self._recipe.strip_columns]
        return torch.from_numpy(np.stack(strips) if strips else none).float()

    def _columns(self, rng: np.random.Generator, width: int) -> NDArray[np.intp]:
        """Neighbouring columns anywhere in a loop."""
        return (int(rng.integers(width)) + np.arange(min(self._recipe.strip_columns, width))) % width


def _grey(pictures: Tensor) -> Tensor:
    return pictures.mean(dim=1, keepdim=True)
