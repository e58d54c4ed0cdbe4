"""Errors as RFC 9457 `application/problem+json`.

Invariant: every answer with a status of 400 or more has this form, on every route of every service.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from correnteza.codec import ECHO, JSON, MAX_PROBLEMS
from correnteza.errors import (
    ConfigError,
    CorrentezaError,
    CursorError,
    DamagedLogError,
    InputError,
    LogUnavailableError,
    NoModelError,
    OffsetRemovedError,
    Problem,
    UnknownModelError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
SCHEMA = {
    "type": "object",
    "description": "RFC 9457 problem details",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"index": {"type": "integer"}, "field": {"type": "string"}, "reason": {"type": "string"}},
            },
        },
    },
    "required": ["title", "status", "detail"],
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request is refused; the body says why.", "content": {MEDIA_TYPE: {"schema": SCHEMA}}},
    "503": {"description": "Not ready, or overloaded; try again later.", "content": {MEDIA_TYPE: {"schema": SCHEMA}}},
}

_STATUS: tuple[tuple[type[CorrentezaError], int], ...] = (
    (CursorError, 400),
    (OffsetRemovedError, 410),
    (UnknownModelError, 404),
    (NoModelError, 503),
    (LogUnavailableError, 503),
    (ConfigError, 422),
)


def problem(status: int, detail: str, errors: Sequence[Problem] = (), **extra: Any) -> Response:
    """A problem+json answer.

    Args:
        status: HTTP status.
        detail: what is wrong with this request, in one sentence.
        errors: faults by record; at most the first hundred are listed, `error_count` has their number.
        extra: further members, such as `first_offset`.
    """
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **extra,
    }
    if errors:
        body["errors"] = [{"index": p.index, "field": p.field, "reason": p.reason} for p in errors[:MAX_PROBLEMS]]
        body["error_count"] = len(errors)
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


def of_error(error: CorrentezaError) -> Response:
    """The answer that an error of ours deserves."""
    if isinstance(error, InputError):
        return problem(error.status, str(error), error.problems)
    extra: dict[str, Any] = {}
    if isinstance(error, OffsetRemovedError):
        extra["first_offset"] = error.first
    if isinstance(error, DamagedLogError):
        extra["damaged_offset"] = error.offset
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return problem(status, str(error), **extra)


def answer_to(error: Exception, path: str) -> Response:
    """The answer to whatever went wrong on a route."""
    return of_error(error) if isinstance(error, CorrentezaError) else of_unexpected(error, path)


def of_unexpected(error: Exception, path: str) -> Response:
    """The answer where something went wrong that nobody foresaw; the log output says what."""
    structlog.get_logger().error("request_failed", path=path, error=repr(error))
    return problem(500, f"unexpected {type(error).__name__}; the service's log has the details")


def install(app: FastAPI) -> None:
    """Answer every exception of an application in this form."""

    @app.exception_handler(CorrentezaError)
    async def ours(_: Request, error: CorrentezaError) -> Response:
        return of_error(error)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        answer = _of_cause(error.__cause__) or problem(error.status_code, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> Response:
        media = request.headers.get("content-type", "")
        if any(fault["loc"] == ("body",) for fault in error.errors()) and not media.lower().startswith(JSON):
            return problem(415, f"Content-Type {media[:80]!r} is not read here; send {JSON}")
        faults = [fault_of(fault) for fault in error.errors()]
        return problem(422, "; ".join(f"{p.field}: {p.reason}" for p in faults[:5]), faults)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return problem(400, "the client went away before its body was complete")

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return of_unexpected(error, request.url.path)


def _of_cause(cause: BaseException | None) -> Response | None:
    """FastAPI says "There was an error parsing the body" of whatever goes wrong there; the cause says what."""
    if cause is None:
        return None
    if isinstance(cause, CorrentezaError):
        return of_error(cause)
    reason = "it is nested too deeply" if isinstance(cause, RecursionError) else str(cause) or type(cause).__name__
    return problem(400, f"the body cannot be read: {reason}")


def fault_of(fault: Mapping[str, Any]) -> Problem:
    """What is wrong with a parameter or a body, by pydantic."""
    place, reason = ".".join(str(part) for part in fault["loc"]), str(fault["msg"])
    cause = fault.get("ctx", {}).get("error")
    return Problem(0, place[:ECHO], f"{reason}: {cause}" if fault["type"] == "json_invalid" else reason)
