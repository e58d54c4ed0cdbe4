"""Logs over HTTP: `GET /records` and its sisters, in JSON, NDJSON, Arrow and as server-sent events.

Invariant: a reader that passes on the cursor of each answer sees every row once and in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any
from urllib.parse import parse_qsl

import msgspec
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi import Query as FromQuery
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from correnteza.codec import ARROW, JSON, NDJSON, arrow_stream, encode_rows
from correnteza.described import json_schema
from correnteza.errors import InputError
from correnteza.log.base import LATEST, OwnedLog, Slice
from correnteza.records import OFFSET, empty, with_offsets
from correnteza.web.plain import send_body
from correnteza.web.problems import fault_of
from correnteza.web.service import Service

MAX_LIMIT = 100_000
MAX_WAIT_S = 30.0
READER = "^[a-z0-9_-]{1,64}$"
"""What a reader may call itself."""
POLL_S = 0.25
"""How often a waiting request looks for rows that another process appended; appends of this one wake it."""
HEARTBEAT_S = 15.0
STREAM_ROWS = 1000

_ABOUT_AFTER = "Cursor of the last answer; absent: from the start; `latest`: only what is new."
After = Annotated[str | None, FromQuery(max_length=100, description=_ABOUT_AFTER)]


class Query(BaseModel):
    """What may be asked of a log; see the descriptions."""

    after: str | None = Field(None, max_length=100, description=_ABOUT_AFTER)
    limit: int = Field(1000, ge=1, le=MAX_LIMIT, description="Most rows.")
    wait_s: float = Field(0.0, ge=0, le=MAX_WAIT_S, description="Seconds to wait for a first row.")
    back: int = Field(0, ge=0, le=100_000_000, description="Start so many rows before the cursor.")
    reader: str | None = Field(None, pattern=READER, description="Registers this reader: what it has not passed is kept.")
    keep_rows: int = Field(0, ge=0, le=100_000_000, description="Rows before its cursor that the reader may want again.")
    passed: str | None = Field(
        None, max_length=100, description="How far the reader needs nothing any more, where that is before `after`."
    )


def endpoints(service: Service) -> list[LogRows]:
    """The plain endpoints of all logs of a service."""
    return [LogRows(f"/{path}", service, log) for path, log in service.logs.items()]


class LogRows:
    """`GET` of one log: a plain ASGI endpoint, because services read each other's logs after every single commit.

    Args:
        path: what its answers are counted under.
        service: whose log it is.
        log: the log.
    """

    def __init__(self, path: str, service: Service, log: OwnedLog) -> None:
        self.path = path
        self._service = service
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - there is no body
        """Handle one request; errors are answered by the layer around this one."""
        query = _query(scope["query_string"])
        media = _preferred(next((value for name, value in scope["headers"] if name == b"accept"), b""))
        if query.wait_s:
            part, body = await self._patiently(query, media)
        else:
            part, body = await to_thread.run_sync(self._read, query, media)
        headers = ((b"next-cursor", part.next.encode()), (b"lag-rows", b"%d" % part.lag_rows), *part.traces.headers())
        await send_body(send, 200, media, body, headers)

    async def _patiently(self, query: Query, media: str) -> tuple[Slice, bytes]:
        """As `_read`, without holding a thread while there is nothing to read."""
        growth = Growth(self._service, self._log)  # before the first read, so that nothing comes unnoticed between the two
        try:
            part, body = await to_thread.run_sync(self._read, query, media)
            if part.batch.num_rows:
                return part, body
            part = await _awaited(growth, self._log, part, query.limit, query.wait_s)
        finally:
            growth.stop()
        return await to_thread.run_sync(self._answer, part, media)

    def _read(self, query: Query, media: str) -> tuple[Slice, bytes]:
        part = self._log.read(query.after, query.limit, 0.0, query.back)  # refuses a bad cursor before it is registered
        if query.reader is not None and query.after != LATEST:
            behind = query.after if query.passed is None else query.passed or None
            self._log.register(query.reader, behind, query.keep_rows)
        return self._answer(part, media)

    def _answer(self, part: Slice, media: str) -> tuple[Slice, bytes]:
        """A part with what its rows were written in, and its encoding."""
        if self._service.tracer is not None and part.batch.num_rows:
            first, last = part.batch[OFFSET][0].as_py(), part.batch[OFFSET][-1].as_py()
            part = replace(part, traces=self._service.tracer.rows(self._log.name, first, last))
        return part, _encoded(part, media)

    def openapi(self) -> dict[str, Any]:
        """The operation, as the OpenAPI document has it."""
        item = json_schema(with_offsets(empty(self._log.schema), 1).schema, self._log.name)
        body = {
            "type": "object",
            "properties": {"records": {"type": "array", "items": item}, "next": {"type": "string"}},
            "required": ["records", "next"],
        }
        removed = {"description": "Removed by retention; `first_offset` is the first still there."}
        return {
            "tags": ["logs"],
            "operationId": self.path[1:],
            "summary": f"Rows of the log {self._log.name}, oldest first",
            "parameters": [_parameter(name, about) for name, about in Query.model_json_schema()["properties"].items()],
            "responses": {
                "200": {"description": "The rows.", "content": {JSON: {"schema": body}, NDJSON: {}, ARROW: {}}},
                "410": removed,
            },
        }


def _parameter(name: str, about: dict[str, Any]) -> dict[str, Any]:
    schema = {key: value for key, value in about.items() if key != "title"}
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.pop("description")}


def _query(text: bytes) -> Query:
    """The query of a request.

    Raises:
        InputError: names what cannot be.
    """
    try:
        return Query.model_validate(dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)))
    except ValidationError as error:
        faults = [fault_of({**fault, "loc": ("query", *fault["loc"])}) for fault in error.errors()]
        raise InputError("; ".join(f"{p.field}: {p.reason}" for p in faults), faults) from None


class Growth:
    """Tells, in the event loop that it was made in, when a log may have grown since the last time it told.

    Args:
        service: whose end also ends the waiting.
        log: which to watch; `stop` ends that.
    """

    def __init__(self, service: Service, log: OwnedLog) -> None:
        loop, self._event = asyncio.get_running_loop(), asyncio.Event()
        self._service = service

        def wake() -> None:
            loop.call_soon_threadsafe(self._event.set)

        self.stop = log.subscribe(wake)

    async def grown(self, deadline: float) -> bool:
        """Wait until it may have; False at the deadline (of `time.monotonic`), and when the service stops."""
        left_s = deadline - time.monotonic()
        if left_s <= 0 or self._service.stopping:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(min(left_s, POLL_S)):
                await self._event.wait()
        self._event.clear()
        return True


async def _awaited(growth: Growth, log: OwnedLog, part: Slice, limit: int, wait_s: float) -> Slice:
    """The rows behind a part, or the part itself, once there are any; what there is when the time is over."""
    deadline = time.monotonic() + wait_s
    while not part.batch.num_rows and await growth.grown(deadline):
        part = await to_thread.run_sync(log.read, part.next, limit)
    return part


def _preferred(accept: bytes) -> str:
    return next((media for media in (ARROW, NDJSON) if media.encode() in accept), JSON)


def _encoded(part: Slice, media: str) -> bytes:
    if media == ARROW:
        return arrow_stream(part.batch)
    rows = encode_rows(part.batch)
    if media == NDJSON:
        return msgspec.json.Encoder().encode_lines(rows)
    return msgspec.json.encode({"records": rows, "next": part.next})


def router(service: Service) -> APIRouter:
    """The route of server-sent events."""
    routes, log = APIRouter(tags=["logs"]), service.logs["records"]
    content: dict[str, Any] = {"text/event-stream": {}}

    @routes.get(
        "/records/stream",
        summary="Rows of the main log as server-sent events",
        responses={200: {"content": content}},
        response_class=Response,
    )
    async def stream(request: Request, after: After = None) -> Response:
        position = request.headers.get("last-event-id", after)
        part = await to_thread.run_sync(log.read, position, STREAM_ROWS)
        return StreamingResponse(_messages(service, log, part), media_type="text/event-stream")

    return routes


async def _messages(service: Service, log: OwnedLog, part: Slice) -> AsyncIterator[bytes]:
    growth = Growth(service, log)
    try:
        while True:
            for row in encode_rows(part.batch):
                yield b"id: %b\ndata: %b\n\n" % (log.cursor(row["offset"]).encode(), msgspec.json.encode(row))
            if service.stopping:
                return
            part = await to_thread.run_sync(log.read, part.next, STREAM_ROWS)
            part = await _awaited(growth, log, part, STREAM_ROWS, HEARTBEAT_S)
            if not part.batch.num_rows:
                yield b": still here\n\n"
    finally:
        growth.stop()
