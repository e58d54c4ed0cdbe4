"""Logs in memory, for tests, docs and offline runs.

Delivery: an append is durable as long as the process lives. Everything else is as in the contract.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Iterable, Mapping

import pyarrow as pa

from correnteza.errors import ConfigError, FencedError, LogError
from correnteza.log import cursors
from correnteza.log.base import Appended, Bounds, Claim, Policy, Reader, Slice, Trimmed
from correnteza.log.retention import new_first
from correnteza.log.watch import Watch
from correnteza.records import empty, with_offsets


class MemoryLog:
    """One log of a `MemoryStore`."""

    def __init__(self, name: str, schema: pa.Schema, lock: threading.RLock) -> None:
        self.name = name
        self.schema = schema
        self._id = cursors.new_id()
        self._lock = lock
        self._none = with_offsets(empty(schema), 1)
        self._batches: list[pa.RecordBatch] = []
        self._lasts: list[int] = []  # the last offset of each batch, for bisection
        self._times: list[float] = []  # when each batch was appended, Unix time
        self._first = 1
        self._next = 1
        self._readers: dict[str, Reader] = {}
        self._watch = Watch()
        self.subscribe = self._watch.subscribe

    def append(self, batch: pa.RecordBatch) -> Appended:
        """See `Log.append`."""
        with self._lock:
            appended = self.put(batch)
        self.notify()
        return appended

    def put(self, batch: pa.RecordBatch) -> Appended:
        """Append without waking readers; the caller holds the store's lock."""
        if not batch.schema.equals(self.schema):
            raise LogError(
                f"log {self.name}: a batch with columns {batch.schema.names} of other names or types than {self.schema.names}"
            )
        appended = Appended(self._next, self._next + batch.num_rows - 1)
        if batch.num_rows:
            self._batches.append(with_offsets(batch, appended.first))
            self._lasts.append(appended.last)
            self._times.append(time.time())
            self._next = appended.last + 1
        return appended

    def notify(self) -> None:
        """Wake waiting readers."""
        self._watch.notify()

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """See `Log.read`."""
        for _ in self._watch.until(wait_s):
            with self._lock:
                start = cursors.start(after, back, self._id, self.name, self.bounds())
                after, back = self.cursor(start - 1), 0
                if start < self._next:
                    break
        with self._lock:
            return self._slice(start, min(start + limit, self._next))

    def _slice(self, start: int, end: int) -> Slice:
        parts = []
        for i in range(bisect.bisect_left(self._lasts, start), len(self._batches)):
            first = self._lasts[i] - self._batches[i].num_rows + 1
            if first >= end:
                break
            parts.append(self._batches[i].slice(max(0, start - first), min(end, self._lasts[i] + 1) - max(start, first)))
        batch = pa.concat_batches(parts) if parts else self._none
        return Slice(batch, self.cursor(end - 1), self._next - end)

    def bounds(self) -> Bounds:
        """See `Log.bounds`."""
        with self._lock:
            return Bounds(self._first, self._next, self._next - self._first)

    def cursor(self, offset: int) -> str:
        """See `OwnedLog.cursor`."""
        return cursors.write(self._id, offset)

    def register(self, reader: str, after: str | None, keep_rows: int = 0) -> None:
        """See `OwnedLog.register`."""
        offset = 0 if after is None else cursors.read(after, self._id, self.name)
        with self._lock:
            self._readers[reader] = Reader(offset, keep_rows)

    def unregister(self, reader: str) -> bool:
        """See `OwnedLog.unregister`."""
        with self._lock:
            return self._readers.pop(reader, None) is not None

    def readers(self) -> dict[str, Reader]:
        """See `OwnedLog.readers`."""
        with self._lock:
            return dict(self._readers)

    def trim(self, policy: Policy, now: float) -> Trimmed:
        """See `OwnedLog.trim`."""
        with self._lock:
            aged = self._first
            if policy.age_s is not None:
                aged = max(
                    (last + 1 for last, at in zip(self._lasts, self._times, strict=True) if at < now - policy.age_s),
                    default=aged,
                )
            first, unread = new_first(self.bounds(), policy, aged, self._readers.values())
            removed = first - self._first
            self._first = first
            while self._lasts and self._lasts[0] < first:
                for column in (self._batches, self._lasts, self._times):
                    column.pop(0)
            return Trimmed(removed, unread)


class MemoryStore:
    """Logs, states and positions in memory; the contract of `Store`."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._logs: dict[str, MemoryLog] = {}
        self._unbounded: set[str] = set()
        self._stages: dict[str, Claim] = {}

    def log(self, name: str, schema: pa.Schema, *, bounded: bool = True) -> MemoryLog:
        """See `Store.log`."""
        with self._lock:
            log = self._logs.setdefault(name, MemoryLog(name, schema, self._lock))
            if not bounded:
                self._unbounded.add(name)
        if not log.schema.equals(schema):
            raise ConfigError(f"log {name}: is there with columns {log.schema.names}, not {schema.names}")
        return log

    def logs(self) -> Mapping[str, MemoryLog]:
        """See `Store.logs`."""
        return dict(self._logs)

    def bounded(self) -> Iterable[MemoryLog]:
        """See `Store.bounded`."""
        return [log for name, log in self.logs().items() if name not in self._unbounded]

    def claim(self, stage: str) -> Claim:
        """See `Store.claim`."""
        with self._lock:
            old = self._stages.get(stage, Claim(0, None, None))
            self._stages[stage] = Claim(old.epoch + 1, old.position, old.state)
            return self._stages[stage]

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        """See `Store.commit`."""
        with self._lock:
            current = self._stages.get(stage)
            if current is None or current.epoch != epoch:
                raise FencedError(f"stage {stage}: claim {epoch} is not the current one; another process runs it")
            for name, batch in outputs.items():
                if not batch.schema.equals(self._logs[name].schema):
                    raise LogError(f"log {name}: a batch with columns {batch.schema.names} of other names or types")
            appended = {name: self._logs[name].put(batch) for name, batch in outputs.items()}
            self._stages[stage] = Claim(epoch, position, state)
        for name in outputs:
            self._logs[name].notify()
        return appended

    def close(self) -> None:
        """See `Store.close`."""
