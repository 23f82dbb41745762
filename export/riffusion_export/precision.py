"""What a user asks of precision in, one type of arithmetic and of stored weights for each graph out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from riffusion_engine.errors import ExportError

GRAPHS: tuple[str, ...] = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
"""The graphs that have weights, in the order in which they are exported."""
AUTO = "auto"
"""float16 where activations stay within its range, float32 where they do not."""
COMPUTE_DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16", AUTO)
WEIGHTS_DTYPES: tuple[str, ...] = ("float16", "float32", "bfloat16")

FLOAT16_LIMIT = 65_504.0
"""The greatest finite float16."""

_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({"vae": ("vae_decoder", "vae_encoder")})
_SHORT: Mapping[str, str] = MappingProxyType(
    {"fp16": "float16", "half": "float16", "fp32": "float32", "bf16": "bfloat16"}
)


@dataclass(frozen=True)
class Precision:
    """How one graph computes and how its weights are stored, as torch calls the types; ``compute`` may be "auto"."""

    compute: str
    weights: str


def parse_precisions(precision: str, weights: str = "float16") -> dict[str, Precision]:
    """Read ``--precision`` and ``--weights``.

    Args:
        precision: one type for all graphs ("float16"), or a list by graph ("unet=float16,vae=float32"; graphs left
            out compute in float32; "vae" is both of its halves; a lone type in the list is for the rest). Types are
            float32, float16, bfloat16, their short names fp32, fp16, bf16, and "auto".
        weights: type of the stored weights. A bfloat16 graph stores bfloat16, unless this is float32.

    Raises:
        ExportError: a graph or a type is unknown, or the two contradict each other.
    """
    stored = _dtype("--weights", weights, WEIGHTS_DTYPES)
    rest = "float32"
    chosen: dict[str, str] = {}
    for entry in filter(None, (entry.strip() for entry in precision.split(","))):
        graph, equals, value = entry.partition("=")
        dtype = _dtype("--precision", (value if equals else graph).strip(), COMPUTE_DTYPES)
        if not equals:
            rest = dtype
            continue
        names = _GROUPS.get(graph.strip(), (graph.strip(),))
        if names[0] not in GRAPHS:
            raise ExportError(
                f"--precision names a graph {graph.strip()!r} that there is not",
                hint=f"Choose of: {', '.join((*GRAPHS, *_GROUPS))}, as in --precision unet=float16",
            )
        chosen.update(dict.fromkeys(names, dtype))
    return {name: _paired(name, chosen.get(name, rest), stored) for name in GRAPHS}


def _dtype(option: str, value: str, known: tuple[str, ...]) -> str:
    dtype = _SHORT.get(value.lower(), value.lower())
    if dtype not in known:
        raise ExportError(f"{option} cannot be {value!r}", hint=f"Choose one of: {', '.join(known)}")
    return dtype


def _paired(graph: str, compute: str, weights: str) -> Precision:
    if compute == "bfloat16" and weights == "float16":
        weights = "bfloat16"
    if compute != "float32" and weights != ("bfloat16" if compute == "bfloat16" else "float16"):
        raise ExportError(
            f"A {compute} graph has no use for {weights} weights",
            hint=f"Leave --weights out, or use --precision {graph}=float32",
        )
    return Precision(compute, weights)
