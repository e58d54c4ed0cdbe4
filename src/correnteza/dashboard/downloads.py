"""The last rows of a log as a file: CSV, Parquet or Arrow.

Invariant: a file holds at most `MOST_ROWS` rows, and is read from the same public logs as everything else.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from anyio import to_thread
from fastapi import APIRouter, Query
from starlette.responses import Response

from correnteza.client import Client
from correnteza.codec import ARROW
from correnteza.errors import InputError

MOST_ROWS = 10_000
LOGS = {
    "raw": ("generator", "records"),
    "refused": ("generator", "rejected"),
    "rejected": ("normalizer", "rejected"),
    "evaluations": ("trainer", "evaluations"),
    "predictions": ("trainer", "predictions"),
    "results": ("consumer", "records"),
    "labels": ("trainer", "labels"),
    "events": ("trainer", "events"),
}
"""What can be looked at and downloaded: service and path of each log."""


def _csv(table: pa.Table) -> bytes:
    from pyarrow import csv

    out = io.BytesIO()
    csv.write_csv(table, out)
    return out.getvalue()


def _parquet(table: pa.Table) -> bytes:
    from pyarrow import parquet

    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


def _arrow(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


FORMATS: Mapping[str, tuple[str, Callable[[pa.Table], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "parquet": ("application/vnd.apache.parquet", _parquet),
    "arrow": (ARROW, _arrow),
}
"""For each format its media type, and how it is written."""


def last_rows(client: Client, log: str, rows: int, part_of_id: str = "") -> pa.Table:
    """The last rows of a log, oldest first.

    Args:
        client: of the services.
        log: its key in `LOGS`.
        rows: how many are read.
        part_of_id: of these only those whose id contains it; empty for all.
    """
    service, path = LOGS[log]
    table = client.table(service, rows, path)
    ids = next((name for name in ("id", "prediction_id", "record_id") if name in table.schema.names), None)
    if not part_of_id or ids is None:
        return table
    return table.filter(pc.fill_null(pc.match_substring(table[ids], part_of_id), False))


def routes_of(client: Client) -> APIRouter:
    """The route of the downloads."""
    routes = APIRouter(tags=["dashboard"])

    @routes.get("/download/{log}.{form}", summary="The last rows of a log as CSV, Parquet or Arrow", response_class=Response)
    async def download(
        log: str,
        form: str,
        rows: Annotated[int, Query(ge=1, le=MOST_ROWS, description="How many rows are read, the last ones.")] = MOST_ROWS,
        part_of_id: Annotated[str, Query(alias="id", max_length=200, description="Only rows whose id contains this.")] = "",
    ) -> Response:
        for name, known in (("log", LOGS), ("format", FORMATS)):
            wanted = log if name == "log" else form
            if wanted not in known:
                raise InputError(f"{name} {wanted!r} is not known; expected one of {', '.join(known)}", status=404)
        media, write = FORMATS[form]
        body: Any = await to_thread.run_sync(lambda: write(last_rows(client, log, rows, part_of_id)))
        return Response(body, media_type=media, headers={"Content-Disposition": f'attachment; filename="{log}.{form}"'})

    return routes
