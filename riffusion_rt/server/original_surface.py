"""What Riffusion's web app posts in, what it expects out: one clip between two prompts, as data URLs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

from riffusion_engine.errors import RequestError, RiffusionError
from riffusion_rt.server.answers import error_facts, log, retry_after, status_of
from riffusion_rt.server.job_routes import client_name, ended
from riffusion_rt.server.work_queue import ServerBusy

if TYPE_CHECKING:
    from riffusion_rt.server.making import Order
    from riffusion_rt.server.result_store import Result
    from riffusion_rt.server.service import Service, ServiceSource

PATHS = ("/run_inference/", "/run_inference")

LOOK_S = 0.5
"""How often it is seen whether the client still waits."""

JPEG_QUALITY = 95


class PromptInput(msgspec.Struct, frozen=True):
    """One end of the walk, with the original's defaults."""

    prompt: str
    seed: int
    negative_prompt: str | None = None
    denoising: float = 0.75
    guidance: float = 7.0


class InferenceInput(msgspec.Struct, frozen=True):
    """What the web app posts."""

    start: PromptInput
    end: PromptInput
    alpha: float
    num_inference_steps: int = 50
    seed_image_id: str = "og_beat"
    mask_image_id: str | None = None


@dataclass(frozen=True)
class InferenceOutput:
    """What the web app reads."""

    image: str
    audio: str
    duration_s: float


def read_input(body: bytes) -> InferenceInput:
    """The body as the original reads it.

    Raises:
        RequestError: it is no JSON of that form.
    """
    try:
        return msgspec.json.decode(body, type=InferenceInput, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"Invalid input: {error}", hint="See /docs") from error


def order_of(service: Service, given: InferenceInput) -> Order:
    """The walk that makes the clip.

    Raises:
        RequestError: a value is outside its range, or there is no such seed image.
    """
    if given.mask_image_id is not None:
        raise RequestError(
            f"There is no mask image {given.mask_image_id!r}",
            hint="Leave mask_image_id out, or use /api/v1/generate",
        )
    if given.seed_image_id.startswith("data:"):
        raise RequestError("A seed image is named here", hint="Send pictures to /api/v1/generate")
    waypoints = [
        {
            "prompt": end.prompt,
            "seed": end.seed,
            "negative_prompt": end.negative_prompt or "",
            "guidance": end.guidance,
            "strength": end.denoising,
        }
        for end in (given.start, given.end)
    ]
    longest = service.settings.most_prompt_characters
    if any(len(point[name]) > longest for point in waypoints for name in ("prompt", "negative_prompt")):  # type: ignore[arg-type]
        raise RequestError(f"A prompt may have {longest:,} characters", hint="Shorten it")
    values: Mapping[str, Any] = {
        "waypoints": waypoints,
        "alphas": (given.alpha,),
        "steps": given.num_inference_steps,
        "seed_image": given.seed_image_id,
    }
    return service.reader.read("interpolate", values)


def output_of(service: Service, result: Result) -> InferenceOutput:
    """The clip as the web app plays it: an MP3 and a JPEG."""
    from PIL import Image

    sound = service.store.audio(result, "mp3")
    picture, buffer = Image.open(io.BytesIO(service.store.picture(result))), io.BytesIO()
    picture.convert("RGB").save(
        buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, exif=picture.info.get("exif", b"")
    )
    return InferenceOutput(
        _data_url("image/jpeg", buffer.getvalue()), _data_url("audio/mpeg", sound), result.duration_s
    )


def original_routes(source: ServiceSource) -> APIRouter:
    """``/run_inference/``, and the same without its last slash."""
    routes = APIRouter(tags=["original"])

    async def run_inference(request: Request) -> Response:
        """One clip on the way from one prompt to another, for the original web app."""
        try:
            service = source()
            given = read_input(await request.body())
            order = await run_in_threadpool(order_of, service, given)
            job = service.submit(order, client_name(service, request))
            while not job.status.ended:
                await ended(service, job, LOOK_S)
                if await request.is_disconnected():
                    service.queue.cancel(job)
                    return Response(status_code=499)
            if job.result is None:
                raise job.error or asyncio.CancelledError
            output = await run_in_threadpool(output_of, service, job.result)
            job.fetched = True
        except RiffusionError as error:
            return _plain(error)
        return Response(json.dumps(output.__dict__), media_type="application/json")

    for path in PATHS:
        routes.add_api_route(
            path,
            run_inference,
            methods=["POST"],
            response_model=None,
            summary="The original server's surface",
            operation_id="run_inference" + ("_slash" if path.endswith("/") else ""),
            responses=_answers(),
            openapi_extra=_body(),
        )
    return routes


def _plain(error: RiffusionError) -> Response:
    status = status_of(error)
    # The original knows one kind of bad input.
    status = 400 if status in (410, 415) else status
    facts = error_facts(error)
    if status >= 500 and facts.code == "engine_failed":
        log.error("A clip failed", exc_info=error)
    headers = {"Retry-After": retry_after(error.retry_after_s)} if isinstance(error, ServerBusy) else None
    text = f"{facts.message}. {facts.hint}".encode("utf-8", "replace")
    return Response(text, status, headers, media_type="text/plain; charset=utf-8")


def _data_url(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _answers() -> dict[int | str, dict[str, Any]]:
    plain = {"text/plain": {"schema": {"type": "string"}}}
    properties = {"image": {"type": "string"}, "audio": {"type": "string"}, "duration_s": {"type": "number"}}
    clip = {"schema": {"type": "object", "properties": properties}}
    return {
        200: {
            "description": "The clip: data URLs of a JPEG and an MP3",
            "content": {"application/json": clip},
        },
        400: {"description": "Bad input, in words", "content": plain},
        503: {"description": "Busy: see Retry-After", "content": plain},
    }


def _body() -> dict[str, Any]:
    (schema,), definitions = msgspec.json.schema_components([InferenceInput], ref_template="#/$defs/{name}")
    end, whole = definitions["PromptInput"], definitions["InferenceInput"]
    whole["properties"]["start"] = whole["properties"]["end"] = end
    assert schema
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}
