"""The memory in the normalizer's store: made anew at a start, and no longer kept than that needs.

Invariant: the log `snapshots` holds the last snapshot, and `memory` all rows since; only what lies before goes.
"""

from __future__ import annotations

import time

import pyarrow as pa
from fastapi import APIRouter
from starlette.responses import Response

from correnteza.codec import ARROW, arrow_stream
from correnteza.log.base import OwnedLog, Policy, Store
from correnteza.memory import Limits, Memory, entries, snapshots
from correnteza.records import Schema

READ_ROWS = 50_000


class Remembered:
    """The logs that the memory is made anew from.

    Args:
        store: of the normalizer.
        schema: with definitions that remember.
        limits: bounds of the memory.
        hard_rows: rows before the last snapshot that are kept for readers at most; None waits for them.
    """

    def __init__(self, store: Store, schema: Schema, limits: Limits, hard_rows: int | None) -> None:
        self.entries: OwnedLog = store.log(entries.LOG, entries.log_schema(schema), bounded=False)
        self.snapshots: OwnedLog = store.log(snapshots.LOG, snapshots.SCHEMA, bounded=False)
        self._schema = schema
        self._limits = limits
        self._hard_rows = hard_rows
        self._trimmed = 0

    def recall(self) -> Memory:
        """The memory that was committed last."""
        memory = Memory(self._schema, self._limits)
        snapshot = self.snapshot()
        if snapshot.num_rows:
            memory.load(snapshot)
        position = self.entries.cursor(memory.offset)
        while True:
            part = self.entries.read(position, READ_ROWS)
            memory.replay(part.batch)
            position = part.next
            if not part.lag_rows:
                return memory

    def snapshot(self) -> pa.RecordBatch:
        """The rows of the last snapshot; none before the first."""
        return snapshots.last(self.snapshots)

    def trim(self, snapshot_offset: int) -> None:
        """Let go what lies before the last snapshot; to be called after its commit.

        Args:
            snapshot_offset: where the last snapshot was taken.
        """
        if snapshot_offset == self._trimmed:
            return
        rows = self.snapshot().num_rows
        self.snapshots.trim(Policy(rows=rows), time.time())
        since = self.entries.bounds().next - 1 - snapshot_offset
        hard = None if self._hard_rows is None else since + self._hard_rows
        self.entries.trim(Policy(rows=since, hard_rows=hard), time.time())
        self._trimmed = snapshot_offset

    def status(self) -> dict[str, int]:
        """For `/status`: rows that entered the memory, and how many of them a restart has to read again."""
        rows = self.entries.bounds().next - 1
        last = self.snapshots.bounds().next - 1
        kept = self.snapshots.read(self.snapshots.cursor(last - 1), 1).batch["memory_offset"][0].as_py() if last else 0
        return {"rows": rows, "rows_since_snapshot": rows - kept}

    def routes(self) -> APIRouter:
        """`GET /memory/snapshot`."""
        routes = APIRouter(tags=["logs"])

        @routes.get(
            "/memory/snapshot",
            summary="The last snapshot of the memory, as rows of the log snapshots",
            responses={
                200: {
                    "description": "`Next-Cursor` goes on from it in `GET /memory`, which has `Lag-Rows` rows behind it.",
                    "content": {ARROW: {}},
                }
            },
            response_class=Response,
        )
        def snapshot() -> Response:
            rows = self.snapshot()
            offset = rows["memory_offset"][0].as_py() if rows.num_rows else 0
            behind = self.entries.bounds().next - 1 - offset
            headers = {"Next-Cursor": self.entries.cursor(offset), "Lag-Rows": str(behind)}
            return Response(arrow_stream(rows), headers=headers, media_type=ARROW)

        return routes
