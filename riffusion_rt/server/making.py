"""A checked request in, its stages and its result out: the library's own walks, and what a server keeps of them."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from riffusion_rt.request import ClipRequest
from riffusion_rt.server.result_store import Result, ResultStore, readable_metadata
from riffusion_rt.server.work_queue import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from riffusion_rt.clip import Clip
    from riffusion_rt.extend import ExtendRequest
    from riffusion_rt.open_model import OpenModel
    from riffusion_rt.pipeline import StepProgress
    from riffusion_rt.remix import RemixRequest
    from riffusion_rt.server.engine_owner import EngineOwner
    from riffusion_rt.server.unet_batches import Ticket
    from riffusion_rt.song_plan import SongPlan
    from riffusion_rt.walk import WalkRequest

    Making = ClipRequest | WalkRequest | RemixRequest | ExtendRequest | SongPlan

DENOISING_SHARE = 0.85
"""Of a job's progress; the rest is decoding and sound."""


@dataclass(frozen=True, eq=False)
class Order:
    """What is to be made."""

    kind: str
    request: Making
    key: str
    """Digest of everything that matters to the result."""
    hidden: Mapping[str, str] = field(default_factory=dict)
    """What metadata calls things of which a request holds the path."""
    uploads: tuple[Path, ...] = ()
    """Files that belong to the order, and go with it."""

    def discard(self) -> None:
        """Remove its files."""
        for path in self.uploads:
            path.unlink(missing_ok=True)


def order_key(kind: str, settings: Mapping[str, Any], sources: Sequence[str], model: str) -> str:
    """The digest of a request's plain values and of the pictures and recordings that it works on."""
    facts = json.dumps([kind, settings, list(sources), model], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(facts.encode()).hexdigest()


class Workshop:
    """Carries orders out.

    Args:
        owner: the model.
        store: where results go.
        finishing: orders that are decoded and sounded at the same time: each holds pictures and sound in memory.
    """

    def __init__(self, owner: EngineOwner, store: ResultStore, *, finishing: int) -> None:
        self._owner, self._store = owner, store
        self._studio = Studio(finishing=finishing)

    def work(self, order: Order) -> Callable[[Ticket], Iterator[Stage | Result]]:
        """What a job does for an order."""

        def run(ticket: Ticket) -> Iterator[Stage | Result]:
            # The same may have been made while this waited for its turn.
            found = self._store.find(order.key)
            if found is not None:
                yield found
                return
            started = time.perf_counter()
            model = self._owner.model_for(ticket)
            clip: Clip | None = None
            for event in self._studio.events(model, order.request):
                if isinstance(event, Stage):
                    yield event
                else:
                    clip = event
            assert clip is not None
            plan = plan_text(order.request)
            yield self._store.put(
                order.key,
                clip,
                metadata=readable_metadata(clip, order.hidden),
                compute_s=time.perf_counter() - started,
                plan=plan,
            )

        return run


class Studio:
    """Turns requests into clips, with word of how far it is.

    Args:
        finishing: requests that are decoded and sounded at the same time: each holds pictures and sound in memory.
    """

    def __init__(self, *, finishing: int) -> None:
        self._slots = threading.Semaphore(finishing)

    def preview(self, progress: StepProgress) -> bytes:
        """What the picture is expected to be, as PNG."""
        from io import BytesIO

        with self._slots:
            picture = progress.preview()
        buffer = BytesIO()
        picture.convert("L").save(buffer, "PNG")
        return buffer.getvalue()

    def events(self, model: OpenModel, request: Making) -> Iterator[Stage | Clip]:
        """How far the making of a request is, and at last what it made."""
        from riffusion_rt.extend import ExtendRequest, iterate_extend
        from riffusion_rt.pipeline import iterate_clip
        from riffusion_rt.remix import RemixRequest, iterate_remix
        from riffusion_rt.walk import WalkRequest, iterate_walk, joined_walk

        if isinstance(request, ClipRequest):
            yield from self._steps(iterate_clip(model, request))
        elif isinstance(request, RemixRequest):
            yield from self._steps(iterate_remix(model, request))
        elif isinstance(request, ExtendRequest):
            yield from self._steps(iterate_extend(model, request))
        elif isinstance(request, WalkRequest):
            clips: list[Clip] = []
            for event in self._steps(iterate_walk(model, request)):
                if isinstance(event, Stage):
                    yield event
                else:
                    clips.append(event)
            yield clips[0] if len(clips) == 1 else joined_walk(clips, request)
        else:
            yield from self._song(model, request)

    def _steps(self, events: Iterator[StepProgress | Clip]) -> Iterator[Stage | Clip]:
        from riffusion_rt.clip import Clip

        event = next(events, None)
        while event is not None:
            if isinstance(event, Clip):
                yield event
                event = next(events, None)
                continue
            progress = event
            share = DENOISING_SHARE * progress.step / progress.steps
            yield Stage(share, partial(self.preview, progress))
            if progress.step < progress.steps:
                event = next(events, None)
            else:
                with self._slots:
                    event = next(events, None)

    def _song(self, model: OpenModel, plan: SongPlan) -> Iterator[Stage | Clip]:
        from PIL import Image

        from riffusion_rt.clip import Clip
        from riffusion_rt.song import SongProgress, SongRequest, iterate_song
        from riffusion_rt.spectrogram_image import DECODED_MAX

        sounds, pictures = [], []
        share = 0.0
        for event in iterate_song(model, plan):
            if isinstance(event, SongProgress):
                share = max(share, DENOISING_SHARE * event.drawn / event.clips)
                yield Stage(share)
            else:
                sounds.append(event.samples)
                pictures.append(event.pixels)
                yield Stage(max(share, (event.bar + 1) / event.bars * DENOISING_SHARE))
        yield Clip(
            np.concatenate(sounds, axis=1),
            Image.fromarray(np.concatenate(pictures, axis=1)),
            model.manifest.spectrogram,
            SongRequest(plan),
            model.manifest.name,
            DECODED_MAX,
        )


def plan_text(request: Making) -> str | None:
    """A song's complete plan as TOML; None for anything else."""
    from riffusion_rt.song_plan import SongPlan, plan_as_toml

    return plan_as_toml(request) if isinstance(request, SongPlan) else None
