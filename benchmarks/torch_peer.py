"""The same weights in torch: diffusers' own modules and pipeline, eager or compiled, as the peer of every figure."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from riffusion_engine.manifest import MANIFEST_NAME
from riffusion_rt import ClipRequest

Array = NDArray[np.float32]

PEERS = ("eager", "compile")


class TorchPeer:
    """Diffusers' pipeline of a bundle's or checkpoint's weights, with DPM-Solver++ 2M as its scheduler.

    Args:
        model: a bundle or a diffusers folder.
        device: "cpu" or "cuda".
        dtype: "float32" or "float16".
        compiled: wrap the UNet and the decoder in ``torch.compile``; on CUDA with its graphs ("reduce-overhead").
    """

    def __init__(self, model: Path, *, device: str, dtype: str, compiled: bool) -> None:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

        self._scratch = tempfile.TemporaryDirectory()
        if (model / MANIFEST_NAME).is_file():
            from riffusion_export.checkpoint import checkpoint_from_bundle

            checkpoint = Path(self._scratch.name) / "checkpoint"
            checkpoint_from_bundle(model, checkpoint)
            model = checkpoint
        self.device = device
        self.dtype = getattr(torch, dtype)
        self.pipeline: Any = StableDiffusionPipeline.from_pretrained(
            model, torch_dtype=self.dtype, safety_checker=None
        ).to(device)
        self.pipeline.scheduler = DPMSolverMultistepScheduler.from_config(self.pipeline.scheduler.config)
        self.pipeline.set_progress_bar_config(disable=True)
        if compiled:
            mode = "reduce-overhead" if device == "cuda" else "default"
            self.pipeline.unet.to(memory_format=torch.channels_last)
            self.pipeline.unet = torch.compile(self.pipeline.unet, mode=mode)
            self.pipeline.vae.decode = torch.compile(self.pipeline.vae.decode, mode=mode)

    @torch.inference_mode()
    def text_encoder(self, feeds: dict[str, NDArray[Any]]) -> Array:
        """Last hidden state."""
        ids = torch.from_numpy(feeds["input_ids"]).long().to(self.device)
        return _array(self.pipeline.text_encoder(ids).last_hidden_state)

    @torch.inference_mode()
    def unet(self, feeds: dict[str, NDArray[Any]]) -> Array:
        """Noise prediction."""
        sample, timestep, states = (
            self._tensor(feeds[name]) for name in ("sample", "timestep", "encoder_hidden_states")
        )
        return _array(self.pipeline.unet(sample, timestep, states, return_dict=False)[0])

    @torch.inference_mode()
    def vae_decoder(self, feeds: dict[str, NDArray[Any]]) -> Array:
        """Picture in −1 … 1."""
        return _array(self.pipeline.vae.decode(self._tensor(feeds["latent_sample"]), return_dict=False)[0])

    @torch.inference_mode()
    def vae_encoder(self, feeds: dict[str, NDArray[Any]]) -> Array:
        """Mean and log-variance."""
        vae = self.pipeline.vae
        return _array(vae.quant_conv(vae.encoder(self._tensor(feeds["sample"]))))

    @torch.inference_mode()
    def draw(self, request: ClipRequest) -> tuple[Array, NDArray[np.uint8]]:
        """Final latents and pictures (1, rows, columns, 3)."""
        latents = self._walked(request, 1)
        decoded = self.pipeline.vae.decode(
            latents / self.pipeline.vae.config.scaling_factor, return_dict=False
        )[0]
        pictures = self.pipeline.image_processor.postprocess(decoded, output_type="np")
        return _array(latents), np.rint(pictures * 255).astype(np.uint8)

    @torch.inference_mode()
    def walk(self, request: ClipRequest, count: int) -> Array:
        """Final latents of ``count`` seeds from the request's on, in one batch."""
        return _array(self._walked(request, count))

    def _walked(self, request: ClipRequest, count: int) -> torch.Tensor:
        latents: torch.Tensor = self.pipeline(
            [request.prompt] * count,
            negative_prompt=[request.negative_prompt] * count,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            generator=[torch.Generator("cpu").manual_seed(request.seed + i) for i in range(count)],
            output_type="latent",
        ).images
        return latents

    @cached_property
    def step_flops(self) -> float:
        """Floating-point operations of the UNet for one latent, 2 for each multiply and add, as torch counts them."""
        from torch.utils.flop_counter import FlopCounterMode

        config = self.pipeline.unet.config
        unet = getattr(self.pipeline.unet, "_orig_mod", self.pipeline.unet)
        sample = torch.randn(1, config.in_channels, config.sample_size, config.sample_size)
        states = torch.randn(1, 77, config.cross_attention_dim)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            unet(*(x.to(self.device, self.dtype) for x in (sample, torch.ones(1), states)))
        return float(counter.get_total_flops())

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)


def _array(tensor: torch.Tensor) -> Array:
    """On the host, so that the device has finished when the clock is read."""
    return tensor.float().cpu().numpy()
