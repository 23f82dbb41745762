"""What an operator may choose, checked: sizes, limits, who may come in, and how long things are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_type_hints

from annotated_types import Ge, Le

from riffusion_engine.errors import RequestError
from riffusion_rt.models import DEFAULT_MODEL

PORT = 3013
"""Where Riffusion's web app looks for its server."""

MEGABYTE = 10**6


@dataclass(frozen=True)
class ServiceSettings:
    """A server's settings; the defaults suit one machine and its owner."""

    model: str | Path = DEFAULT_MODEL
    device: str = "auto"
    threads: Annotated[int, Ge(1), Le(1024)] | None = None
    """CPU threads of one run of a graph."""
    lanes: Annotated[int, Ge(1), Le(256)] | None = None
    """Runs of the UNet side by side on a CPU; the cores if None."""
    rows_at_once: Annotated[int, Ge(1), Le(1024)] | None = None
    """Rows in one run of the UNet."""
    at_once: Annotated[int, Ge(1), Le(256)] = 8
    """Jobs under way at the same time, which share the UNet's runs."""
    most_queued: Annotated[int, Ge(0), Le(100_000)] = 256
    """Jobs that wait; with more the server is busy (503)."""
    most_queued_per_client: Annotated[int, Ge(1), Le(100_000)] = 64
    """Jobs of one client under way or waiting; with more it is told to wait (429)."""
    most_live: Annotated[int, Ge(0), Le(1000)] = 4
    """Live sessions at the same time."""
    deadline_s: Annotated[float, Ge(0.01), Le(86_400)] = 600.0
    """Jobs that take longer, waiting included, are given up."""
    requests_a_minute: Annotated[int, Ge(1), Le(10**9)] = 600
    """Of one client, counting only those that cost something: jobs, uploads and live sessions."""
    most_upload_bytes: Annotated[int, Ge(1), Le(2**40)] = 64 * MEGABYTE
    """A recording to remix or extend."""
    most_body_bytes: Annotated[int, Ge(1), Le(2**40)] = 12 * MEGABYTE
    """Any other body: JSON, with a seed image in it at most."""
    most_audio_s: Annotated[float, Ge(0.1), Le(1200)] = 300.0
    """Of a recording that is sent, and of sound that is made."""
    most_picture_pixels: Annotated[int, Ge(1), Le(2**26)] = 2**24
    """Of a seed image or mask."""
    most_prompt_characters: Annotated[int, Ge(1), Le(20_000)] = 2000
    kept_s: Annotated[float, Ge(1), Le(10**7)] = 3600.0
    """How long finished jobs and their results are kept."""
    kept_bytes: Annotated[int, Ge(1), Le(2**44)] = 1000 * MEGABYTE
    """Results on the disk; the oldest go first."""
    folder: Path | None = None
    """Where results and uploads lie while the server runs; a temporary folder if None."""
    api_key: str | None = field(default=None, repr=False)
    """What clients must show; None asks for nothing."""
    client_header: str | None = None
    """A header, set by a proxy in front, that says who a client is; else its address does."""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    """Names by which the server may be addressed; ``*`` is any."""
    allowed_origins: tuple[str, ...] = ()
    """Other sites whose pages may use the API; ``*`` is any. The original surface is open to all."""
    drain_s: Annotated[float, Ge(0), Le(3600)] = 60.0
    """When it is told to end: how long accepted work may go on."""
    idle_s: Annotated[float, Ge(0.1), Le(86_400)] = 600.0
    """A live session without a word from its client for so long is paused."""
    resumable_s: Annotated[float, Ge(0), Le(3600)] = 60.0
    """How long a live session waits for its client after the connection was lost."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            RequestError: a setting is outside its range.
        """
        from riffusion_rt.request import check_ranges

        check_ranges(self, get_type_hints(ServiceSettings, include_extras=True))
        if self.api_key is not None and len(self.api_key) < 8:
            raise RequestError("An API key must have 8 characters or more", hint="Choose a longer --api-key")
