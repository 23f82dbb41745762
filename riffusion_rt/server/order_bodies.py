"""Bodies of job requests in, orders out: models made from the request records, and what they become."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from pydantic import BaseModel, Field

from riffusion_engine.errors import RequestError
from riffusion_rt.bar_grid import BarGrid
from riffusion_rt.extend import ExtendRequest
from riffusion_rt.interpolation import MAX_WAYPOINTS, Waypoint
from riffusion_rt.remix import RemixRequest
from riffusion_rt.request import ClipRequest
from riffusion_rt.server.making import Order, order_key
from riffusion_rt.server.request_schema import REQUIRED, body_model
from riffusion_rt.server.uploads import checked_recording, picture_source
from riffusion_rt.song_plan import (
    MAX_BARS,
    Section,
    SongPlan,
    completed,
    plan_from_line,
    plan_from_toml,
    with_settings,
)
from riffusion_rt.stream_request import MAX_GLIDE, StreamRequest
from riffusion_rt.walk import MAX_CLIPS, WalkRequest

if TYPE_CHECKING:
    from riffusion_engine.manifest import Manifest
    from riffusion_rt.server.service_settings import ServiceSettings

UPLOAD = "(upload)"
"""What metadata calls a recording that was sent."""

MOST_RANGES = 64
MOST_PLAN_CHARACTERS = 50_000

LIVE_FIELDS = (
    "seed",
    "negative_prompt",
    "steps",
    "guidance",
    "sampler",
    "seed_image",
    "strength",
    "clips_a_seed",
    "glide",
    "look_ahead_s",
)
"""Of a stream's request, what a live session's configuration may say."""


@dataclass(frozen=True)
class Bodies:
    """The models of all bodies, as this server takes them."""

    generate: type[BaseModel]
    interpolate: type[BaseModel]
    remix: type[BaseModel]
    extend: type[BaseModel]
    song: type[BaseModel]
    live: type[BaseModel]

    def named(self) -> dict[str, type[BaseModel]]:
        """The models by the kind of request."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def make_bodies(settings: ServiceSettings) -> Bodies:
    """The models, with this server's limits."""
    most = settings.most_prompt_characters
    picture = Annotated[
        str,
        Field(
            max_length=settings.most_body_bytes,
            description="The id of one of the server's seed images, or a picture as a data URL.",
        ),
    ]
    pictures = {"seed_image": (picture | None, None), "mask": (picture | None, None)}
    ranges = Annotated[tuple[tuple[float, float], ...], Field(max_length=MOST_RANGES)]
    seconds = Annotated[float, Field(ge=0.01, le=settings.most_audio_s)]
    waypoint = body_model("Waypoint", Waypoint, most_characters=most)
    section = body_model("SongSection", Section, most_characters=most)
    plan = Annotated[
        str,
        Field(
            max_length=MOST_PLAN_CHARACTERS,
            description='One line, like: intro 4 | verse 8 "jazz piano" | outro. Or TOML. Instead of sections.',
        ),
    ]
    return Bodies(
        generate=body_model(
            "Generate",
            ClipRequest,
            without=("seed_audio",),
            instead={
                **pictures,
                "repaint_s": (ranges, ()),
                "repaint_hz": (ranges, ()),
                "duration_s": (seconds | None, None),
            },
            most_characters=most,
        ),
        interpolate=body_model(
            "Interpolate",
            WalkRequest,
            without=("seed_audio",),
            instead={
                **pictures,
                "waypoints": (
                    Annotated[list[waypoint], Field(min_length=1, max_length=MAX_WAYPOINTS)],  # type: ignore[valid-type]
                    REQUIRED,
                ),
                "alphas": (
                    Annotated[
                        list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1, max_length=MAX_CLIPS)
                    ],
                    [0.0, 0.25, 0.5, 0.75, 1.0],
                ),
            },
            most_characters=most,
        ),
        remix=body_model("Remix", RemixRequest, without=("audio", "with_audio"), most_characters=most),
        extend=body_model(
            "Extend",
            ExtendRequest,
            without=("audio",),
            instead={"duration_s": (Annotated[float, Field(ge=0.1, le=settings.most_audio_s)], 5.12)},
            most_characters=most,
        ),
        song=body_model(
            "Song",
            SongPlan,
            instead={
                "plan": (plan, ""),
                "sections": (Annotated[list[section], Field(max_length=MAX_BARS)], []),  # type: ignore[valid-type]
            },
            most_characters=most,
        ),
        live=body_model(
            "LiveConfig",
            StreamRequest,
            only=LIVE_FIELDS,
            instead={
                "seed_image": (picture | None, None),
                "glide": (Annotated[int, Field(ge=1, le=MAX_GLIDE)], StreamRequest("").glide),
            },
            most_characters=most,
        ),
    )


class OrderReader:
    """Turns checked bodies into orders; what the request records refuse is refused here.

    Values are those that were sent: what was left out is the record's own default.
    """

    def __init__(self, settings: ServiceSettings, manifest: Manifest) -> None:
        self._settings, self._manifest = settings, manifest
        # The manifest holds the hashes of all files: another bundle of the same name is another model.
        self._model = hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()

    def read(self, kind: str, values: Mapping[str, Any], audio: Path | None = None) -> Order:
        """The order for a body's values, and for the recording that came with it.

        Raises:
            RequestError, ImageFileError, AudioFileError: something in it cannot be done.
        """
        readers = {"generate": self._generate, "interpolate": self._interpolate, "song": self._song}
        if audio is None:
            return readers[kind](dict(values))
        return self._recording(kind, dict(values), audio)

    def sources(self, values: dict[str, Any]) -> list[str]:
        """Replace the pictures in ``values`` by what they stand for; returns their digests."""
        found = []
        for name in ("seed_image", "mask"):
            text = values.get(name)
            if text is not None:
                values[name], digest = picture_source(text, max_pixels=self._settings.most_picture_pixels)
                found.append(f"{name} {digest}")
        return found

    def _generate(self, values: dict[str, Any]) -> Order:
        sources = self.sources(values)
        request = ClipRequest(**values).resolved(self._manifest.defaults)
        self._check_length(request.duration_s or 0.0)
        return Order("generate", request, self._key("generate", request.settings(), sources))

    def _interpolate(self, values: dict[str, Any]) -> Order:
        sources = self.sources(values)
        request = WalkRequest(**values).resolved(self._manifest.defaults)
        self._check_length(len(request.alphas) * BarGrid.of(self._manifest).clip_s)
        return Order("interpolate", request, self._key("interpolate", request.settings(), sources))

    def _recording(self, kind: str, values: dict[str, Any], audio: Path) -> Order:
        digest = checked_recording(audio, most_s=self._settings.most_audio_s)
        record: type[RemixRequest] | type[ExtendRequest] = RemixRequest if kind == "remix" else ExtendRequest
        request = record(audio=audio, **values).resolved(self._manifest.defaults)
        settings = {**request.settings(), "audio": digest}
        return Order(kind, request, self._key(kind, settings, []), {"audio": UPLOAD}, (audio,))

    def _song(self, values: dict[str, Any]) -> Order:
        text, sections = values.pop("plan", ""), values.pop("sections", [])
        if bool(text) == bool(sections):
            raise RequestError(
                "A song is either a plan or sections", hint='Send {"plan": "verse 8 \\"jazz piano\\""}'
            )
        if text:
            # Never read_plan: it would take a text for a path.
            plan = completed(plan_from_toml(text) if "[[" in text else plan_from_line(text))
            plan = with_settings(plan, values) if values else plan
        else:
            plan = completed(msgspec.convert({**values, "sections": sections}, SongPlan))
        if plan.seed_image:
            from riffusion_rt.seed_image_set import seed_image

            plan = msgspec.structs.replace(plan, seed_image=seed_image(plan.seed_image).name)
        longest = max(len(each.prompt or "") for each in plan.sections) + len(plan.style)
        if longest > self._settings.most_prompt_characters:
            raise RequestError("A prompt of the plan is too long", hint="Shorten it")
        self._check_length(plan.bars * BarGrid.of(self._manifest).bar_s)
        return Order("song", plan, self._key("song", msgspec.to_builtins(plan), []))

    def _check_length(self, seconds: float) -> None:
        if seconds > self._settings.most_audio_s + 1e-6:
            raise RequestError(
                f"{seconds:.0f} s of sound are more than this server makes at once",
                hint=f"Ask for up to {self._settings.most_audio_s:g} s",
            )

    def _key(self, kind: str, settings: Mapping[str, Any], sources: list[str]) -> str:
        return order_key(kind, settings, sources, self._model)
