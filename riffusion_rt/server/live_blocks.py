"""A stream's blocks in, the messages and pictures that a live session sends out."""

from __future__ import annotations

import io
import json
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from riffusion_rt.bar_grid import BARS_A_CLIP

if TYPE_CHECKING:
    from riffusion_rt.stream import AudioBlock

Format = Literal["s16le", "f32le"]

ALIGNMENT = 4
"""Samples begin at a multiple of so many bytes: a page may look at them where they are."""

MOST_PICTURES = 24
"""Clips of a session whose pictures are kept: two minutes."""

MOST_KEPT_S = 60.0
"""Blocks that were sent are kept for a client that lost its connection, unless it has played them this long ago."""


@dataclass(frozen=True, eq=False)
class SentBlock:
    """One block as it goes over the wire."""

    start: int
    """Frame of the session with which it begins."""
    frames: int
    message: bytes

    @property
    def end(self) -> int:
        """Frame after its last one."""
        return self.start + self.frames


def block_message(header: dict[str, Any], samples: NDArray[np.float32], form: Format) -> bytes:
    """A binary message: the header's length (uint32, little-endian), the header as JSON, interleaved samples."""
    from riffusion_rt.stream_output import pcm16

    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "replace")
    text += b" " * (-(len(text) + 4) % ALIGNMENT)
    sound = pcm16(samples) if form == "s16le" else np.ascontiguousarray(samples.T, "<f4").tobytes()
    return struct.pack("<I", len(text)) + text + sound


def block_header(
    block: AudioBlock, session: str, *, base: int, first_clip: int, bar_samples: int, up_next: Any
) -> dict[str, Any]:
    """What is said of a block.

    Args:
        block: of a stream.
        session: whose it is.
        base, first_clip: frames and clips of the session before this stream.
        bar_samples: of a whole bar.
        up_next: prompts that the walk goes to, None if it has arrived.
    """
    within = block.bar % BARS_A_CLIP
    clip = first_clip + block.clip
    # A bar may be cut short at the end of a stream; its left edge is a whole bar's.
    columns = block.pixels.shape[1]
    left = within * columns
    return {
        "start_frame": base + block.start,
        "frames": block.samples.shape[1],
        "clip": clip,
        "bar": block.bar,
        "prompts": told(block.prompts),
        "up_next": up_next,
        "seed": block.seed,
        "alpha": round(block.alpha, 4),
        "columns": [left, left + columns],
        "picture_frame": base + (block.bar - within) * bar_samples,
        "picture": f"/api/v1/live/{session}/pictures/{clip}.png",
        "steps": block.steps,
        "compute_s": round(block.compute_s, 4),
        "note": block.note,
    }


def told(prompts: tuple[tuple[str, float], ...]) -> list[dict[str, Any]]:
    """Prompts and shares as the API says them."""
    return [{"text": text, "weight": round(share, 4)} for text, share in prompts]


def grey_png(pixels: NDArray[np.uint8]) -> bytes:
    """A clip's picture (bands, columns, 3) as an 8-bit grey PNG; of a stereo one the louder channel is seen."""
    from PIL import Image

    mono = bool((pixels[..., 0] == pixels[..., 1]).all())
    grey = pixels[..., 0] if mono else pixels[..., 1:].min(axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


class KeptBlocks:
    """What was sent lately, for a client that comes back, and the pictures of the last clips."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._blocks: list[SentBlock] = []
        self._pictures: OrderedDict[int, bytes] = OrderedDict()

    def add(self, block: SentBlock, played: int) -> None:
        """Keep a block, and drop those that were played long ago."""
        oldest = played - MOST_KEPT_S * self._rate
        self._blocks = [each for each in self._blocks if each.end > oldest]
        self._blocks.append(block)

    def since(self, frame: int) -> list[SentBlock]:
        """All that is kept and ends after a frame."""
        return [each for each in self._blocks if each.end > frame]

    def add_picture(self, clip: int, png: bytes) -> None:
        """Keep a clip's picture."""
        self._pictures[clip] = png
        while len(self._pictures) > MOST_PICTURES:
            self._pictures.popitem(last=False)

    def picture(self, clip: int) -> bytes | None:
        """A clip's picture, if it is still kept."""
        return self._pictures.get(clip)
