"""Torch networks in, ONNX graphs out: the four graphs of a bundle, their inputs, and how each is traced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from riffusion_engine.manifest import TensorSpec
from riffusion_export.checkpoint import MODEL_WEIGHTS, TEXT_WEIGHTS
from riffusion_export.geometry import Geometry
from riffusion_export.group_norm import as_instance_norms
from riffusion_export.silence import quiet

OPSET = 23
"""The first with Attention, which stays whole, so that backends can fuse it; so does GroupNormalization in float16."""
BATCH = "batch"
TOKENS = "tokens"
"""The UNet reads any number of tokens: a long prompt is several chunks."""
TIMESTEP_BATCH = "timestep_batch"
"""One timestep for each sample, or one for all: the graph expands it."""

_TRACED_BATCH = 2  # One would be taken for a constant.


@dataclass(frozen=True, eq=False)
class GraphPlan:
    """How one graph is made: ``module`` traced on ``example(batch)``, under these input and output names."""

    name: str
    module: nn.Module
    weights_file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    axes: tuple[dict[int, str], ...]
    example: Callable[[int, torch.Generator], tuple[Tensor, ...]]

    def feeds(self, batch: int, seed: int) -> dict[str, NDArray[Any]]:
        """Random inputs for ``batch`` samples."""
        drawn = self.example(batch, torch.Generator().manual_seed(seed))
        return {name: tensor.numpy() for name, tensor in zip(self.inputs, drawn, strict=True)}


class _TextGraph(nn.Module):
    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_model = (
            text_encoder  # Weights are found by name: this is the prefix that they have on disk.
        )

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        encoded = self.text_model(input_ids=input_ids)
        return encoded.last_hidden_state, encoded.pooler_output


class _UNetGraph(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        out: Tensor = self.unet(sample, timestep, encoder_hidden_states, return_dict=False)[0]
        return out


class _DecoderGraph(nn.Module):
    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.post_quant_conv = autoencoder.post_quant_conv
        self.decoder = autoencoder.decoder

    def forward(self, latent_sample: Tensor) -> Tensor:
        latents = latent_sample if self.post_quant_conv is None else self.post_quant_conv(latent_sample)
        out: Tensor = self.decoder(latents)
        return out


class _EncoderGraph(nn.Module):
    def __init__(self, autoencoder: Any) -> None:
        super().__init__()
        self.quant_conv = autoencoder.quant_conv
        self.encoder = autoencoder.encoder

    def forward(self, sample: Tensor) -> Tensor:
        parameters: Tensor = self.encoder(sample)
        return parameters if self.quant_conv is None else self.quant_conv(parameters)


def plan_part(part: str, network: Any, geometry: Geometry) -> tuple[GraphPlan, ...]:
    """The graphs of one of a checkpoint's networks, under the file and tensor names that optimum reads.

    ``part`` is "text_encoder", "unet" or "vae"; the last gives two graphs.
    """
    latent = geometry.latent
    canvas = (latent.channels, latent.height, latent.width)
    picture = (3, latent.height * latent.vae_factor, latent.width * latent.vae_factor)
    tokens = geometry.tokens
    steps = 1000

    def ids(batch: int, draw: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randint(geometry.vocabulary, (batch, tokens), generator=draw, dtype=torch.int32),)

    def noisy(batch: int, draw: torch.Generator) -> tuple[Tensor, ...]:
        return (
            torch.randn(batch, *canvas, generator=draw),
            torch.randint(steps, (batch,), generator=draw).float(),
            torch.randn(batch, tokens, geometry.text_width, generator=draw),
        )

    def latents(batch: int, draw: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.randn(batch, *canvas, generator=draw) / latent.scale,)

    def pixels(batch: int, draw: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(batch, *picture, generator=draw) * 2 - 1,)

    each = {0: BATCH}
    if part == "text_encoder":
        return (
            GraphPlan(
                name="text_encoder",
                module=_TextGraph(network),
                weights_file=TEXT_WEIGHTS,
                inputs=("input_ids",),
                outputs=("last_hidden_state", "pooler_output"),
                axes=(each,),
                example=ids,
            ),
        )
    if part == "unet":
        return (
            GraphPlan(
                name="unet",
                module=_UNetGraph(network),
                weights_file=MODEL_WEIGHTS,
                inputs=("sample", "timestep", "encoder_hidden_states"),
                outputs=("out_sample",),
                axes=(each, each, {0: BATCH, 1: TOKENS}),
                example=noisy,
            ),
        )
    return (
        GraphPlan(
            name="vae_decoder",
            module=_DecoderGraph(network),
            weights_file=MODEL_WEIGHTS,
            inputs=("latent_sample",),
            outputs=("sample",),
            axes=(each,),
            example=latents,
        ),
        GraphPlan(
            name="vae_encoder",
            module=_EncoderGraph(network),
            weights_file=MODEL_WEIGHTS,
            inputs=("sample",),
            outputs=("latent_parameters",),
            axes=(each,),
            example=pixels,
        ),
    )


class InDtype(nn.Module):
    """A module that computes in a type its caller does not have: float32 goes in and comes out."""

    def __init__(self, module: nn.Module, inputs: tuple[str, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.kept = tuple(name == "timestep" for name in inputs)
        self.dtype = dtype

    def forward(self, *inputs: Tensor) -> Any:
        typed = (
            tensor if kept or not tensor.is_floating_point() else tensor.to(self.dtype)
            for tensor, kept in zip(inputs, self.kept, strict=True)
        )
        made = self.module(*typed)
        return tuple(out.float() for out in made) if isinstance(made, tuple) else made.float()


def trace_graph(plan: GraphPlan, dtype: torch.dtype) -> ir.Model:
    """Trace one graph with its arithmetic, inputs and outputs in ``dtype``; a timestep stays float32.

    Inputs and outputs of a bfloat16 graph are float32: numpy has no such type. The module is left in ``dtype``. The
    model carries no trace of the machine that made it.
    """
    plan.module.to(dtype).eval()
    example = cast_inputs(plan, plan.example(_TRACED_BATCH, torch.Generator().manual_seed(0)), dtype)
    traced = InDtype(plan.module, plan.inputs, dtype) if dtype == torch.bfloat16 else plan.module
    dims = {axis: torch.export.Dim(axis) for axis in (BATCH, TOKENS)}
    shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in plan.axes)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            traced,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(plan.inputs),
            output_names=list(plan.outputs),
            dynamic_shapes=(shapes,) if traced is not plan.module else shapes,  # Its inputs are one *inputs.
            verbose=False,
        )
    assert program is not None
    model = program.model
    model.graph.name = plan.name
    if "timestep" in plan.inputs:
        _expand_timestep(model.graph)
    if dtype == torch.float32:
        as_instance_norms(model.graph)
    ClearMetadataAndDocStringPass()(model)
    return model


def cast_inputs(plan: GraphPlan, inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Inputs as a graph of this ``dtype`` takes them: in float16, or rounded to bfloat16's digits.

    A timestep stays as it is: float16 cannot tell fractional late steps apart.
    """
    rounded = (
        tensor.to(dtype) if tensor.is_floating_point() and name != "timestep" else tensor
        for name, tensor in zip(plan.inputs, inputs, strict=True)
    )
    return tuple(tensor.float() if tensor.dtype == torch.bfloat16 else tensor for tensor in rounded)


def tensor_specs(values: Any) -> tuple[TensorSpec, ...]:
    """What a manifest says of a graph's inputs or outputs."""
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=value.dtype.numpy().name,
            shape=tuple(size if isinstance(size, int) else str(size.value) for size in value.shape),
        )
        for value in values
    )


def _expand_timestep(graph: ir.Graph) -> None:
    """Give the timestep an axis of its own and spread it over the batch, so that one value serves all samples."""
    sample, timestep = (
        next(value for value in graph.inputs if value.name == name) for name in ("sample", "timestep")
    )
    batch = ir.node("Shape", [sample], {"start": 0, "end": 1})
    batch.outputs[0].name = "batch_size"
    batch.outputs[0].shape = ir.Shape([1])
    batch.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    spread = ir.node("Expand", [timestep, batch.outputs[0]])
    spread.outputs[0].name = "timestep_of_each"
    spread.outputs[0].shape = ir.Shape([BATCH])
    spread.outputs[0].type = timestep.type
    first = next(iter(graph))
    ir.convenience.replace_all_uses_with(timestep, spread.outputs[0])
    spread.replace_input_with(0, timestep)
    graph.insert_before(first, [batch, spread])
    timestep.shape = ir.Shape([TIMESTEP_BATCH])
