"""A walk's plan and a UNet's session in, one step after another out, all of it in ONNX Runtime's device memory.

Two graphs take turns on the same buffers: the UNet, and the small step graph that guides, updates and makes the UNet's
next input. What crosses to the device at a step is a timestep and a handful of coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riffusion_engine.denoising_session import WalkPlan
from riffusion_engine.devices import import_onnxruntime
from riffusion_engine.errors import DeviceError, RequestError
from riffusion_engine.step_graph import StepShape, step_graph

Run = Callable[[Any, int], None]
"""Runs a binding of the UNet; the number tells captured CUDA graphs apart."""
OpenStep = Callable[[bytes], Any]
"""Opens a step graph where the UNet runs."""


class BoundBuffers:
    """The device arrays of walks of one size, and the bindings that tie two graphs to them.

    They are kept from one walk to the next: a captured CUDA graph reads and writes fixed addresses.
    """

    def __init__(
        self,
        unet: Any,
        device: str,
        shape: tuple[int, ...],
        context: tuple[int, ...],
        dtype: np.dtype[Any],
        weights: Mapping[str, NDArray[Any]],
    ) -> None:
        """Reserve for samples (n, c, h, w) and prompts (n, tokens, width); ``weights`` are fed at every step."""
        self.shape, self.context, self.dtype, self._weights = shape, context, dtype, weights
        reserve: Any = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type
        self._new: Callable[..., Any] = lambda size, kind: reserve(list(size), kind, device)
        count, *rest = shape
        twice = {False: count, True: 2 * count}
        self.samples = {guided: self._new((runs, *rest), dtype) for guided, runs in twice.items()}
        self.predictions = {guided: self._new((runs, *rest), dtype) for guided, runs in twice.items()}
        self.timesteps = {guided: self._new((runs,), np.float32) for guided, runs in twice.items()}
        self.prompts = {guided: self._new((runs, *context[1:]), dtype) for guided, runs in twice.items()}
        self.unet_bindings = {guided: self._bind_unet(unet, guided) for guided in twice}

    def empty(self, *sizes: int) -> Any:
        """A float32 array on the device."""
        return self._new(sizes, np.float32)

    def _bind_unet(self, unet: Any, guided: bool) -> Any:
        binding = unet.io_binding()
        binding.bind_ortvalue_input("sample", self.samples[guided])
        binding.bind_ortvalue_input("timestep", self.timesteps[guided])
        binding.bind_ortvalue_input("encoder_hidden_states", self.prompts[guided])
        for name, array in self._weights.items():
            binding.bind_cpu_input(name, array)
        binding.bind_ortvalue_output("out_sample", self.predictions[guided])
        return binding


class OnnxRuntimeWalk:
    """A walk under way; see ``riffusion_engine.denoising_session.DeviceWalk``."""

    def __init__(self, plan: WalkPlan, buffers: BoundBuffers, run_unet: Run, open_step: OpenStep) -> None:
        """Fill ``buffers`` with the plan's start. Another walk on the same buffers ends this one."""
        self._plan, self._buffers, self._run_unet, self._open_step = plan, buffers, run_unet, open_step
        self._taken = 0
        self._steps: dict[tuple[bool, bool], tuple[Any, tuple[Any, Any]]] = {}
        count, *rest = plan.latents.shape
        self._registers = [buffers.empty(plan.registers, count, *rest) for _ in range(2)]
        self._denoised = buffers.empty(count, *rest)
        self._coefficients = buffers.empty(*plan.coefficients.shape[1:])
        self._input_scale = buffers.empty(1)
        self._fixed: dict[str, Any] = {"weights": self._put(plan.weights)}
        if any(plan.takes_noise(step) for step in range(len(plan))):
            self._fixed["noise"] = buffers.empty(count, *rest)
        if plan.kept is not None:
            keep = np.broadcast_to(plan.kept.keep, (count, 1, *rest[1:]))
            self._fixed |= {"kept": self._put(plan.kept.latents), "kept_noise": self._put(plan.kept.noise)}
            self._fixed |= {"keep": self._put(keep), "shares": buffers.empty(3)}
        self._fill()

    def step(self, noise: NDArray[np.float32] | None = None) -> None:
        """Take the next step; see ``DeviceWalk.step``."""
        plan, step = self._plan, self._taken
        guided, noisy = plan.guided[step], plan.takes_noise(step)
        if noisy:
            if noise is None or noise.shape != plan.latents.shape:
                raise RequestError(
                    f"Step {step} needs noise of the shape {plan.latents.shape}",
                    hint="Pass noise where takes_noise(step)",
                )
            _set(self._fixed["noise"], noise)
        timesteps = self._buffers.timesteps[guided]
        _set(timesteps, np.full(timesteps.shape(), plan.timesteps[step]))
        self._run_unet(self._buffers.unet_bindings[guided], int(guided))
        _set(self._coefficients, plan.coefficients[step])
        _set(self._input_scale, plan.input_scale[min(step + 1, len(plan) - 1)].reshape(1))
        if plan.kept is not None:
            _set(self._fixed["shares"], plan.kept.shares[step])
        session, bindings = self._step_graph(guided, noisy)
        session.run_with_iobinding(bindings[step % 2])
        self._taken += 1

    def latents(self) -> NDArray[np.float32]:
        """A copy of the latents; see ``DeviceWalk.latents``."""
        copied: NDArray[np.float32] = np.array(self._registers[self._taken % 2].numpy()[0])
        return copied

    def denoised(self) -> NDArray[np.float32]:
        """A copy of the predicted clean latents; see ``DeviceWalk.denoised``."""
        copied: NDArray[np.float32] = np.array(self._denoised.numpy())
        return copied

    def _fill(self) -> None:
        plan, buffers = self._plan, self._buffers
        registers = np.zeros((plan.registers, *plan.latents.shape), np.float32)
        registers[0] = plan.latents
        _set(self._registers[0], registers)
        sample = plan.input_scale[0] * plan.latents
        _set(buffers.samples[False], sample)
        _set(buffers.samples[True], np.concatenate([sample, sample]))
        _set(buffers.prompts[False], plan.prompt)
        _set(buffers.prompts[True], np.concatenate([plan.negative, plan.prompt]))

    def _step_graph(self, guided: bool, noisy: bool) -> tuple[Any, tuple[Any, Any]]:
        """The graph for a step of this kind, and its bindings for even and odd steps."""
        if (guided, noisy) not in self._steps:
            _, channels, height, width = self._plan.latents.shape
            shape = StepShape(
                registers=self._plan.registers,
                channels=channels,
                height=height,
                width=width,
                dtype=self._buffers.dtype.name,
                guided=guided,
                noisy=noisy,
                masked=self._plan.kept is not None,
            )
            session = self._open_step(step_graph(shape))
            even, odd = (self._bind_step(session, guided, before) for before in (0, 1))
            self._steps[guided, noisy] = session, (even, odd)
        return self._steps[guided, noisy]

    def _bind_step(self, session: Any, guided: bool, before: int) -> Any:
        inputs: Mapping[str, Any] = {
            "registers": self._registers[before],
            "prediction": self._buffers.predictions[guided],
            "coefficients": self._coefficients,
            "input_scale": self._input_scale,
            **self._fixed,
        }
        binding = session.io_binding()
        for value in session.get_inputs():
            binding.bind_ortvalue_input(value.name, inputs[value.name])
        binding.bind_ortvalue_output("next_registers", self._registers[1 - before])
        binding.bind_ortvalue_output("denoised", self._denoised)
        binding.bind_ortvalue_output("sample", self._buffers.samples[False])
        binding.bind_ortvalue_output("guided_sample", self._buffers.samples[True])
        return binding

    def _put(self, array: NDArray[np.float32]) -> Any:
        value = self._buffers.empty(*array.shape)
        _set(value, array)
        return value


def _set(value: Any, array: NDArray[Any]) -> None:
    """Copy an array into a device array of its size, cast to its type."""
    try:
        value.update_inplace(np.ascontiguousarray(array, _NUMPY_TYPES[value.element_type()]))
    except RuntimeError as error:
        raise DeviceError(
            f"The device did not take an array: {error}", hint="See what it has: riffusion-rt doctor"
        ) from error


_NUMPY_TYPES: Mapping[int, Any] = {1: np.float32, 10: np.float16}
"""TensorProto.DataType to numpy's type, for what a walk keeps on the device."""
