"""The API of jobs: a request in, its job, its progress and its files out."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.datastructures import FormData, Headers, UploadFile

from riffusion_rt.server.answers import ERROR_ANSWERS, ErrorBody, ErrorFacts, error_facts
from riffusion_rt.server.gate import client_of
from riffusion_rt.server.making import Order
from riffusion_rt.server.result_store import AUDIO_TYPES, Result
from riffusion_rt.server.service import Service, ServiceSource
from riffusion_rt.server.work_queue import Job, Status

PREFIX = "/api/v1"

LONGEST_WAIT_S = 60.0
"""Of one long poll."""

LONGEST_RANGE = 40
"""Characters of a range of bytes that is understood."""

NEVER_CHANGES = "private, max-age=3600, immutable"
ALWAYS_NEW = "no-store"

Identity = Annotated[str, InPath(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
Form = Literal["wav", "flac", "ogg", "mp3"]


class ResultView(BaseModel):
    """What a job made."""

    duration_s: float
    sample_rate: int
    channels: int
    seed: int
    compute_s: float
    columns: int = Field(description="Width of the picture")
    audio: dict[Form, str] = Field(description="Where the sound is, by format")
    image: str = Field(description="Where the spectrogram picture is, a PNG")
    plan: str | None = Field(None, description="Where a song's complete plan is, as TOML")


class JobView(BaseModel):
    """One request under way."""

    id: str
    kind: str
    status: Status
    progress: float = Field(ge=0, le=1)
    queue_position: int = Field(ge=0, description="Jobs that will be begun before this one")
    url: str
    error: ErrorFacts | None = None
    result: ResultView | None = None
    preview: str | None = Field(None, description="Where the picture is as it is refined")


def job_view(service: Service, job: Job) -> JobView:
    """A job as the API shows it."""
    url = f"{PREFIX}/jobs/{job.id}"
    result = job.result
    has_preview = job.status is Status.RUNNING and job.stage.preview is not None
    return JobView(
        id=job.id,
        kind=job.kind,
        status=job.status,
        progress=round(job.stage.share, 4),
        queue_position=service.queue.position(job),
        url=url,
        error=None if job.error is None else error_facts(job.error),
        result=None if result is None else _result_view(result, url),
        preview=f"{url}/preview.png?at={job.stage.share:.4f}" if has_preview else None,
    )


def _result_view(result: Result, url: str) -> ResultView:
    return ResultView(
        duration_s=result.duration_s,
        sample_rate=result.sample_rate,
        channels=result.channels,
        seed=result.seed,
        compute_s=result.compute_s,
        columns=result.columns,
        audio={form: f"{url}/audio.{form}" for form in AUDIO_TYPES},  # type: ignore[misc]
        image=f"{url}/image.png",
        plan=None if result.plan is None else f"{url}/plan.toml",
    )


async def ended(service: Service, job: Job, seconds: float) -> None:
    """Return when a job has ended, or after so many seconds."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # The loop has ended, and with it whoever waited.
            loop.call_soon_threadsafe(done.set)

    service.queue.when_ended(job, tell)
    try:
        await asyncio.wait_for(done.wait(), seconds)
    except asyncio.TimeoutError:
        return


def client_name(service: Service, request: Request) -> str:
    """Who a request is from."""
    return client_of(request.scope, Headers(scope=request.scope), service.settings)


def job_routes(source: ServiceSource, bodies: dict[str, type[BaseModel]]) -> APIRouter:
    """The routes of jobs."""
    routes = APIRouter(prefix=PREFIX, tags=["jobs"])
    kinds: dict[str, Callable[..., Callable[..., Awaitable[JobView]]]] = {
        **dict.fromkeys(("generate", "interpolate", "song"), _accepting),
        **dict.fromkeys(("remix", "extend"), _accepting_recording),
    }
    for kind, accepting in kinds.items():
        takes_file = accepting is _accepting_recording
        routes.add_api_route(
            f"/{kind}",
            accepting(source, kind, bodies[kind]),
            methods=["POST"],
            status_code=202,
            response_model=JobView,
            responses=ERROR_ANSWERS,
            summary=f"Send a recording to {kind}" if takes_file else f"Ask for a job: {kind}",
            operation_id=kind,
            openapi_extra=_form_body(bodies[kind]) if takes_file else None,
        )
    _add_reading(routes, source)
    return routes


def _accepting(source: ServiceSource, kind: str, model: type[BaseModel]) -> Callable[..., Awaitable[JobView]]:
    async def accept(body: BaseModel, request: Request) -> JobView:
        service = source()
        order = await run_in_threadpool(service.reader.read, kind, body.model_dump(exclude_unset=True))
        return job_view(service, service.submit(order, client_name(service, request)))

    accept.__annotations__["body"] = model
    return accept


def _accepting_recording(
    source: ServiceSource, kind: str, model: type[BaseModel]
) -> Callable[..., Awaitable[JobView]]:
    async def accept(request: Request) -> JobView:
        service = source()
        # Read here and not by a parameter, so that a full disk is told from a bad form.
        async with request.form(max_files=1, max_fields=8, max_part_size=2**20) as form:
            audio, values = _form_parts(form, model)
            order = await run_in_threadpool(_order_of, service, kind, values, audio)
        return job_view(service, service.submit(order, client_name(service, request)))

    return accept


def _form_parts(form: FormData, model: type[BaseModel]) -> tuple[UploadFile, dict[str, Any]]:
    audio, text = form.get("audio"), form.get("request", "{}")
    if not isinstance(audio, UploadFile):
        raise _invalid("audio", "Send the recording as a file")
    if not isinstance(text, str):
        raise _invalid("request", "Send the request as JSON text")
    try:
        values = model.model_validate(json.loads(text)).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    except (ValueError, RecursionError) as error:
        raise _invalid("request", "This is no JSON") from error
    return audio, values


def _order_of(service: Service, kind: str, values: dict[str, Any], audio: UploadFile) -> Order:
    """Keep the recording in a file of our own naming, and read the order."""
    path = service.folder / f"upload-{secrets.token_hex(12)}"
    try:
        with path.open("wb") as file:
            shutil.copyfileobj(audio.file, file, 2**20)
        return service.reader.read(kind, values, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _add_reading(routes: APIRouter, source: ServiceSource) -> None:
    missing: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorBody, "description": "There is no such job"},
        409: {"model": ErrorBody, "description": "It has no result"},
        410: {"model": ErrorBody, "description": "Its result is no longer kept"},
    }

    def found(identity: str) -> tuple[Service, Job]:
        service = source()
        job = service.queue.find(identity)
        if job is None:
            raise HTTPException(404, "There is no such job, or it was long ago")
        return service, job

    def result_of(identity: str) -> tuple[Service, Job, Result]:
        service, job = found(identity)
        if job.result is None:
            raise HTTPException(409, f"The job is {job.status.value}: it has no result")
        return service, job, job.result

    @routes.get("/jobs/{identity}", response_model=JobView, responses={404: missing[404]})
    async def look(
        identity: Identity,
        response: Response,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for its end")] = 0,
    ) -> JobView:
        """Where a job is."""
        service, job = found(identity)
        if wait:
            await ended(service, job, wait)
        response.headers["Cache-Control"] = ALWAYS_NEW
        return job_view(service, job)

    @routes.delete("/jobs/{identity}", response_model=JobView, responses={404: missing[404]})
    async def cancel(identity: Identity) -> JobView:
        """Give a job up: it leaves the network at the next step."""
        service, job = found(identity)
        service.queue.cancel(job)
        return job_view(service, job)

    @routes.get(
        "/jobs/{identity}/audio.{form}",
        response_class=Response,
        responses={**missing, 200: {"content": {kind: {} for kind in AUDIO_TYPES.values()}}},
    )
    async def audio(identity: Identity, form: Form, request: Request) -> Response:
        """The sound."""
        service, job, result = result_of(identity)
        content = await run_in_threadpool(service.store.audio, result, form)
        job.fetched = True
        return ranged(content, AUDIO_TYPES[form], request)

    @routes.get(
        "/jobs/{identity}/image.png",
        response_class=Response,
        responses={**missing, 200: {"content": {"image/png": {}}}},
    )
    async def image(identity: Identity) -> Response:
        """The spectrogram picture."""
        service, _, result = result_of(identity)
        content = await run_in_threadpool(service.store.picture, result)
        return Response(content, media_type="image/png", headers={"Cache-Control": NEVER_CHANGES})

    @routes.get(
        "/jobs/{identity}/plan.toml",
        response_class=Response,
        responses={**missing, 200: {"content": {"application/toml": {}}}},
    )
    async def plan(identity: Identity) -> Response:
        """A song's complete plan."""
        _, _, result = result_of(identity)
        if result.plan is None:
            raise HTTPException(404, "Only songs have a plan")
        return Response(result.plan, media_type="application/toml", headers={"Cache-Control": NEVER_CHANGES})

    @routes.get(
        "/jobs/{identity}/preview.png",
        response_class=Response,
        responses={**missing, 200: {"content": {"image/png": {}}}},
    )
    async def preview(identity: Identity) -> Response:
        """What the picture looks like by now, while the job is under way."""
        _, job = found(identity)
        make = job.stage.preview
        if make is None:
            raise HTTPException(409, "There is nothing to be seen at the moment")
        content = await run_in_threadpool(make)
        return Response(content, media_type="image/png", headers={"Cache-Control": ALWAYS_NEW})


def ranged(content: bytes, media_type: str, request: Request) -> Response:
    """Bytes, or the one range of them that is asked for: browsers' players will not seek without."""
    headers = {"Cache-Control": NEVER_CHANGES, "Accept-Ranges": "bytes"}
    unit, _, span = request.headers.get("range", "").partition("=")
    first, dash, last = span.partition("-")
    asked = unit.strip() == "bytes" and dash and len(span) <= LONGEST_RANGE and (first + last).isdecimal()
    if not asked:
        return Response(content, media_type=media_type, headers=headers)
    size = len(content)
    begin = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if begin >= end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return Response(content[begin:end], 206, headers, media_type)


def _form_body(model: type[BaseModel]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["audio"],
        "properties": {
            "audio": {"type": "string", "format": "binary", "description": "WAV, FLAC, OGG, MP3 or AIFF"},
            "request": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": model.model_json_schema(),
                "description": "JSON text: " + ", ".join(model.model_fields),
            },
        },
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _invalid(place: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("body", place), "msg": message, "type": "value_error"}])
