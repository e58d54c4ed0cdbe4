"""Logs over HTTP: `GET /records` and its sisters, in JSON, NDJSON, Arrow and as server-sent events.

Invariant: a reader that passes on the cursor of each answer sees every row once and in order.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from correnteza.codec import ARROW, JSON, NDJSON, arrow_stream, encode_rows, json_schema
from correnteza.log.base import LATEST, OwnedLog, Slice
from correnteza.records import empty, with_offsets
from correnteza.web.service import Service

MAX_LIMIT = 100_000
MAX_WAIT_S = 30.0
POLL_S = 0.25
"""How often a waiting request looks for rows that another process appended; appends of this one wake it."""
HEARTBEAT_S = 15.0

After = Annotated[
    str | None,
    Query(max_length=100, description="Cursor of the last answer; absent: from the start; `latest`: only what is new."),
]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Most rows.")]
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for a first row.")]
Back = Annotated[int, Query(ge=0, le=100_000_000, description="Start so many rows before the cursor.")]
Reader = Annotated[
    str | None, Query(pattern="^[a-z0-9_-]{1,64}$", description="Registers this reader: what it has not passed is kept.")
]
Keep = Annotated[int, Query(ge=0, le=100_000_000, description="Rows before its cursor that the reader may want again.")]

Passed = Annotated[
    str | None,
    Query(max_length=100, description="How far the reader needs nothing any more, if that is before `after`; empty: nowhere."),
]


def router(service: Service) -> APIRouter:
    """The routes of all logs of a service."""
    routes = APIRouter(tags=["logs"])
    for path, log in service.logs.items():
        _add_log(routes, service, path, log)
    _add_stream(routes, service)
    return routes


def _add_log(routes: APIRouter, service: Service, path: str, log: OwnedLog) -> None:
    with_offset = with_offsets(empty(log.schema), 1).schema
    item = json_schema(with_offset, log.name)
    body = {
        "type": "object",
        "properties": {"records": {"type": "array", "items": item}, "next": {"type": "string"}},
        "required": ["records", "next"],
    }
    content = {JSON: {"schema": body}, NDJSON: {}, ARROW: {}}

    @routes.get(
        f"/{path}",
        name=path,
        summary=f"Rows of the log {log.name}, oldest first",
        responses={
            200: {"content": content},
            410: {"description": "Removed by retention; `first_offset` is the first still there."},
        },
        response_class=Response,
    )
    async def rows(
        request: Request,
        after: After = None,
        limit: Limit = 1000,
        wait_s: Wait = 0.0,
        back: Back = 0,
        reader: Reader = None,
        keep_rows: Keep = 0,
        passed: Passed = None,
    ) -> Response:
        part = await to_thread.run_sync(log.read, after, limit, 0.0, back)  # refuses a bad cursor before it is registered
        if reader is not None and after != LATEST:
            await to_thread.run_sync(log.register, reader, after if passed is None else passed or None, keep_rows)
        if not part.batch.num_rows and wait_s:
            part = await _awaited(service, log, part.next, limit, wait_s)
        media = _preferred(request.headers.get("accept", ""))
        return await to_thread.run_sync(_answer, part, media)


async def _awaited(service: Service, log: OwnedLog, after: str, limit: int, wait_s: float) -> Slice:
    """As `Log.read`, without holding a thread while there is nothing to read."""
    async for _ in _appends(service, log, time.monotonic() + wait_s):
        part = await to_thread.run_sync(log.read, after, limit)
        if part.batch.num_rows:
            break
        after = part.next
    return part


async def _appends(service: Service, log: OwnedLog, deadline: float) -> AsyncIterator[None]:
    """Yields when the log may have grown, until the deadline or until the service stops."""
    loop = asyncio.get_running_loop()
    grown = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(grown.set)

    unsubscribe = log.subscribe(wake)
    try:
        yield
        while not service.stopping and (left := deadline - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(grown.wait(), min(left, POLL_S))
            grown.clear()
            yield
    finally:
        unsubscribe()


def _preferred(accept: str) -> str:
    return next((media for media in (ARROW, NDJSON) if media in accept), JSON)


def _answer(part: Slice, media: str) -> Response:
    headers = {"Next-Cursor": part.next, "Lag-Rows": str(part.lag_rows)}
    if media == ARROW:
        return Response(arrow_stream(part.batch), headers=headers, media_type=ARROW)
    rows = encode_rows(part.batch)
    if media == NDJSON:
        return Response(msgspec.json.Encoder().encode_lines(rows), headers=headers, media_type=NDJSON)
    return Response(msgspec.json.encode({"records": rows, "next": part.next}), headers=headers, media_type=JSON)


def _add_stream(routes: APIRouter, service: Service) -> None:
    log = service.logs["records"]
    content: dict[str, Any] = {"text/event-stream": {}}

    @routes.get(
        "/records/stream",
        summary="Rows of the main log as server-sent events",
        responses={200: {"content": content}},
        response_class=Response,
    )
    async def stream(request: Request, after: After = None) -> Response:
        position = request.headers.get("last-event-id", after)
        part = await to_thread.run_sync(log.read, position, 1000)
        return StreamingResponse(_messages(service, log, part), media_type="text/event-stream")


async def _messages(service: Service, log: OwnedLog, part: Slice) -> AsyncIterator[bytes]:
    while True:
        for row in encode_rows(part.batch):
            yield b"id: %b\ndata: %b\n\n" % (log.cursor(row["offset"]).encode(), msgspec.json.encode(row))
        if service.stopping:
            return
        part = await _awaited(service, log, part.next, 1000, HEARTBEAT_S)
        if not part.batch.num_rows:
            yield b": still here\n\n"
