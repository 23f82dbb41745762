"""GroupNorm modules in, the same ones out, computed in the layout and precision that a CPU is quick at.

On a CPU, torch's GroupNorm backward over channels-last bfloat16 is about 25 times slower than over contiguous tensors,
while its convolutions are about 2.5 times faster channels-last. Crossing over between the two costs less than either.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn


def quicken_group_norms(model: nn.Module) -> None:
    """Make every GroupNorm of ``model`` work on contiguous tensors in their own precision, under autocast too."""
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(self: nn.GroupNorm, input: Tensor) -> Tensor:
    weight, bias = self.weight.to(input.dtype), self.bias.to(input.dtype)
    with torch.autocast("cpu", enabled=False):
        out = nn.functional.group_norm(input.contiguous(), self.num_groups, weight, bias, self.eps)
    return out.contiguous(memory_format=torch.channels_last) if input.ndim == 4 else out
