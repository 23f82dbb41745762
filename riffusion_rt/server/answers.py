"""Exceptions in, typed error answers out: a code, a sentence, what to do next, and nothing of the server's inside."""

from __future__ import annotations

import errno
import json
import logging
import math
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from riffusion_engine.errors import (
    AudioFileError,
    ImageFileError,
    OutputError,
    RequestError,
    RiffusionError,
)
from riffusion_rt.server.result_store import ResultGone
from riffusion_rt.server.work_queue import DeadlineError, ServerBusy

log = logging.getLogger("riffusion_rt.server")

_CODES: tuple[tuple[type[RiffusionError], int, str], ...] = (
    (ResultGone, 410, "gone"),
    (DeadlineError, 504, "deadline"),
    (AudioFileError, 415, "bad_audio"),
    (ImageFileError, 415, "bad_picture"),
    (RequestError, 400, "bad_request"),
    (OutputError, 507, "no_room"),
)

_STATUS_CODES = {
    400: "bad_request",
    401: "no_key",
    404: "not_found",
    405: "wrong_method",
    413: "too_large",
    415: "wrong_type",
    429: "too_many_requests",
    503: "busy",
}

_HINTS = {
    401: "Send the key as Authorization: Bearer KEY",
    404: "See /docs for what there is",
    405: "See /docs for what there is",
}

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class ErrorFacts(BaseModel):
    """What went wrong."""

    code: str
    message: str
    hint: str


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFacts


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in (
        (400, "The request contradicts itself or asks for what there is not"),
        (401, "The server wants a key"),
        (413, "The body is too large"),
        (415, "A picture or recording is of a type that is not taken"),
        (422, "A value is missing, of the wrong type or outside its range"),
        (429, "Too much at once from you: see Retry-After"),
        (503, "The server is busy or shutting down: see Retry-After"),
        (507, "The server has no room for it"),
    )
}
"""For the documentation of routes that take work."""


def error_answer(
    status: int, code: str, message: str, hint: str, headers: dict[str, str] | None = None
) -> Response:
    """An error as every route of the API gives it; in ASCII, whatever the message holds."""
    body = json.dumps({"error": {"code": code, "message": message, "hint": hint}})
    return Response(body, status, headers, media_type="application/json")


def error_facts(error: BaseException) -> ErrorFacts:
    """What may be said of an exception; of one that is no ``RiffusionError`` nothing but that it was one."""
    if isinstance(error, ServerBusy):
        return ErrorFacts(code="busy", message=error.message, hint=error.hint)
    if isinstance(error, RiffusionError):
        code = next((code for kind, _, code in _CODES if isinstance(error, kind)), "engine_failed")
        return ErrorFacts(code=code, message=error.message, hint=error.hint)
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return ErrorFacts(code="no_room", message="The server has no room left", hint="Try again later")
    return ErrorFacts(
        code="internal",
        message="Something went wrong in the server",
        hint="Tell its operator the time of day",
    )


def status_of(error: BaseException) -> int:
    """The HTTP status that an exception stands for."""
    if isinstance(error, ServerBusy):
        return 429 if error.yours else 503
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return 507
    return next((status for kind, status, _ in _CODES if isinstance(error, kind)), 500)


def answer_for(error: BaseException) -> Response:
    """The answer to a request that ended with an exception."""
    facts, status = error_facts(error), status_of(error)
    headers = {"Retry-After": retry_after(error.retry_after_s)} if isinstance(error, ServerBusy) else None
    if status == 500:
        log.error("A request failed", exc_info=error)
    return error_answer(status, facts.code, facts.message, facts.hint, headers)


def retry_after(seconds: float) -> str:
    """Seconds as the header says them: whole, and at least one."""
    return str(max(1, math.ceil(seconds)))


def add_error_answers(app: FastAPI) -> None:
    """Have every error of an app answered in the one form."""

    async def known(_: Request, error: Exception) -> Response:
        return answer_for(error)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0] if error.errors() else {"loc": (), "msg": "Not understood"}
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"{place}: {first['msg']}" if place else str(first["msg"])
        return error_answer(422, "invalid", message, "See /schema for what each value may be")

    async def plain(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _STATUS_CODES.get(error.status_code, "refused")
        hint = _HINTS.get(error.status_code, "See /docs")
        headers = dict(error.headers) if error.headers else None
        return error_answer(error.status_code, code, str(error.detail), hint, headers)

    app.add_exception_handler(RiffusionError, known)
    app.add_exception_handler(OSError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(Exception, known)
