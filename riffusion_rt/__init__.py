"""Type a prompt, get music: the torch-free Riffusion runtime.

>>> from riffusion_rt import Riffusion
>>> clip = Riffusion().generate("funky piano", seed=1)
>>> clip.save("riff.wav")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from riffusion_engine.errors import RiffusionError as RiffusionError
    from riffusion_rt.clip import Clip as Clip
    from riffusion_rt.extend import ExtendRequest as ExtendRequest
    from riffusion_rt.interpolation import Waypoint as Waypoint
    from riffusion_rt.pipeline import Riffusion as Riffusion
    from riffusion_rt.pipeline import StepProgress as StepProgress
    from riffusion_rt.remix import RemixRequest as RemixRequest
    from riffusion_rt.request import ClipRequest as ClipRequest
    from riffusion_rt.song_plan import SongPlan as SongPlan
    from riffusion_rt.stream import Stream as Stream
    from riffusion_rt.stream_request import StreamRequest as StreamRequest
    from riffusion_rt.walk import WalkRequest as WalkRequest

__version__ = "0.1.0"
__all__ = [
    "Clip",
    "ClipRequest",
    "ExtendRequest",
    "RemixRequest",
    "Riffusion",
    "RiffusionError",
    "SongPlan",
    "StepProgress",
    "Stream",
    "StreamRequest",
    "WalkRequest",
    "Waypoint",
    "__version__",
]

_HOMES = {
    "Clip": "riffusion_rt.clip",
    "ClipRequest": "riffusion_rt.request",
    "ExtendRequest": "riffusion_rt.extend",
    "RemixRequest": "riffusion_rt.remix",
    "Riffusion": "riffusion_rt.pipeline",
    "RiffusionError": "riffusion_engine.errors",
    "SongPlan": "riffusion_rt.song_plan",
    "StepProgress": "riffusion_rt.pipeline",
    "Stream": "riffusion_rt.stream",
    "StreamRequest": "riffusion_rt.stream_request",
    "WalkRequest": "riffusion_rt.walk",
    "Waypoint": "riffusion_rt.interpolation",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
