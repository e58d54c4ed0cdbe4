"""Logs in one SQLite file, through ADBC: Arrow in, Arrow out.

Delivery: `append` and `commit` return after SQLite has committed with WAL and synchronous=FULL, so
rows survive a crash of any process, and a power cut where the disk honours fsync.

Invariants:
- Offsets of a log have no gaps; a read that finds one stops with DamagedLogError and its offset.
- Outputs, state and position of a step are one transaction.
- Every column is a real column: `offset` INTEGER PRIMARY KEY, numbers REAL or INTEGER, texts TEXT, bytes BLOB,
  times TEXT in UTC (ISO 8601 with a space, as SQLite's date functions read it).

Several processes may share a file; each write takes the lock of the whole file for its transaction.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import ConfigError, DamagedLogError, FencedError, LogError
from correnteza.log import cursors
from correnteza.log.base import Appended, Bounds, Claim, Policy, Reader, Slice, Trimmed
from correnteza.log.retention import new_first, unread_rows
from correnteza.log.sqlite import Connections, quoted
from correnteza.log.watch import Watch
from correnteza.records import OFFSET, as_batch, empty, with_offsets

TABLES = (
    "create table if not exists correnteza_logs(name text primary key, id text, first integer, next integer)",
    "create table if not exists correnteza_stages(name text primary key, epoch integer, position text, state blob)",
    "create table if not exists correnteza_readers"
    "(log text, reader text, offset integer, keep_rows integer, primary key(log, reader))",
    "create table if not exists correnteza_appends(log text, last_offset integer, at real, primary key(log, last_offset))",
)
"""Beside the logs: their ends, the stages' states, how far readers are, and when rows came (one mark a second)."""

_ZONE, _NOTHING = pa.scalar("Z", pa.string()), pa.scalar("", pa.string())
TRIM_ROWS = 20_000
"""Rows deleted in one transaction, so that writers wait for milliseconds and not for seconds."""
VACUUM_PAGES = 2_000
FREE_PAGES = 32
MARK_EVERY_S = 1.0


class SqlLog:
    """One log of a `SqlStore`."""

    def __init__(self, store: SqlStore, name: str, schema: pa.Schema, log_id: str) -> None:
        self.name = name
        self.schema = schema
        self.watch = Watch()
        self.subscribe = self.watch.subscribe
        self._store = store
        self._id = log_id
        self._marked = 0.0
        self._nothing = with_offsets(empty(schema), 1)
        self._select = f"select * from {quoted(name)} where {OFFSET} >= ? order by {OFFSET} limit ?"  # noqa: S608 - quoted
        places = ", ".join("?" * (1 + len(schema)))
        self._insert = f"insert into {quoted(name)} values ({places})"  # noqa: S608 - quoted
        self._times = [place for place, field in enumerate(schema) if pa.types.is_timestamp(field.type)]
        self._columns = [OFFSET, *schema.names]

    def append(self, batch: pa.RecordBatch) -> Appended:
        """See `Log.append`."""
        with self._store.connections.write() as connection:
            appended = self.put(connection, batch)
        self.watch.notify()
        return appended

    def put(self, connection: Any, batch: pa.RecordBatch) -> Appended:
        """Append within the transaction of `connection`, without waking readers."""
        self.check(batch)
        advance = "update correnteza_logs set next = next + ? where name = ? returning next"
        (following,) = connection.one(advance, batch.num_rows, self.name)
        appended = Appended(following - batch.num_rows, following - 1)
        if not batch.num_rows:
            return appended
        connection.run_each(self._insert, self._storable(batch, appended.first))
        now = time.time()
        if now - self._marked >= MARK_EVERY_S:
            connection.run("insert into correnteza_appends values (?, ?, ?)", self.name, appended.last, now)
            self._marked = now
        return appended

    def check(self, batch: pa.RecordBatch) -> None:
        """Refuse a batch with other columns than this log."""
        if not batch.schema.equals(self.schema):
            raise LogError(f"log {self.name}: a batch with {batch.schema!s} of other names or types than {self.schema!s}")

    def _storable(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
        """The rows as the table has them, counting from `first`."""
        columns = batch.columns
        for place in self._times:
            # A cast of times with a zone asks the zone's rules for each; UTC has none, and this takes a tenth of the time.
            plain = columns[place].view(pa.timestamp("us")).cast(pa.string())
            columns[place] = pc.binary_join_element_wise(plain, _ZONE, _NOTHING)
        offsets = pa.array(np.arange(first, first + batch.num_rows))
        return pa.RecordBatch.from_arrays([offsets, *columns], names=self._columns)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """See `Log.read`."""
        for _ in self.watch.until(wait_s):
            part = self._read(after, limit, back)
            after, back = (part.next, 0) if not part.batch.num_rows else (after, back)
            if part.batch.num_rows:
                break
        return part

    def _read(self, after: str | None, limit: int, back: int) -> Slice:
        with self._store.connections.read() as connection:
            bounds = self._bounds(connection)
            start = cursors.start(after, back, self._id, self.name, bounds)
            rows = min(limit, bounds.next - start)
            table = connection.table(self._select, start, rows) if rows else None
        batch = self._nothing if table is None else self._checked(table, start, rows)
        end = start + batch.num_rows
        return Slice(batch, self.cursor(end - 1), bounds.next - end)

    def _checked(self, table: pa.Table, start: int, rows: int) -> pa.RecordBatch:
        """The rows as a batch, after a look that none is missing."""
        offsets = table[OFFSET].to_pylist() if table.num_rows != rows else ()
        if table.num_rows != rows:
            held = set(offsets)
            lost = next(offset for offset in range(start, start + rows) if offset not in held)
            raise DamagedLogError(
                f"log {self.name}: the row at offset {lost} is missing; restore {self._store.path} from a copy", lost
            )
        if table[OFFSET][0].as_py() != start or table[OFFSET][-1].as_py() != start + rows - 1:
            raise DamagedLogError(
                f"log {self.name}: rows around offset {start} are not contiguous; restore {self._store.path}", start
            )
        try:
            return as_batch(table, self._nothing.schema)
        except (pa.ArrowInvalid, KeyError) as error:
            reason = f"log {self.name}: rows from offset {start} do not fit its columns ({error}); restore {self._store.path}"
            raise DamagedLogError(reason, start) from None

    def bounds(self) -> Bounds:
        """See `Log.bounds`."""
        with self._store.connections.read() as connection:
            return self._bounds(connection)

    def _bounds(self, connection: Any) -> Bounds:
        first, following = connection.one("select first, next from correnteza_logs where name = ?", self.name)
        return Bounds(first, following, following - first)

    def cursor(self, offset: int) -> str:
        """See `OwnedLog.cursor`."""
        return cursors.write(self._id, offset)

    def register(self, reader: str, after: str | None, keep_rows: int = 0) -> None:
        """See `OwnedLog.register`. Positions are written down when a reader is new, and before each trim."""
        offset = 0 if after is None else cursors.read(after, self._id, self.name)
        self._store.note_reader(self.name, reader, offset, keep_rows)

    def unregister(self, reader: str) -> bool:
        """See `OwnedLog.unregister`."""
        return self._store.forget_reader(self.name, reader)

    def readers(self) -> dict[str, Reader]:
        """See `OwnedLog.readers`."""
        with self._store.connections.read() as connection:
            written = self._written(connection)
        return written | self._store.readers_of(self.name)

    def trim(self, policy: Policy, now: float) -> Trimmed:
        """See `OwnedLog.trim`."""
        self._store.save_readers()
        removed = unread = 0
        while True:
            with self._store.connections.read() as snapshot:  # most passes find nothing to do and disturb no writer
                if self._wanted(snapshot, policy, now)[0] == self._bounds(snapshot).first:
                    break
            with self._store.connections.write() as connection:
                bounds = self._bounds(connection)
                wanted, readers = self._wanted(connection, policy, now)
                first = min(wanted, bounds.first + TRIM_ROWS)
                unread += unread_rows(bounds, first, readers)
                removed += first - bounds.first
                self._remove(connection, first)
        if removed:
            self._store.give_back_space()
        return Trimmed(removed, unread)

    def _written(self, connection: Any) -> dict[str, Reader]:
        """Its readers, as the file has them."""
        rows = connection.all("select reader, offset, keep_rows from correnteza_readers where log = ?", self.name)
        return {reader: Reader(offset, keep_rows) for reader, offset, keep_rows in rows}

    def _wanted(self, connection: Any, policy: Policy, now: float) -> tuple[int, list[Reader]]:
        """Where the log may begin, and how far its readers are."""
        bounds = self._bounds(connection)
        readers = [*self._written(connection).values()]
        first, _ = new_first(bounds, policy, self._aged(connection, bounds.first, policy, now), readers)
        return first, readers

    def _aged(self, connection: Any, first: int, policy: Policy, now: float) -> int:
        if policy.age_s is None:
            return first
        query = "select coalesce(max(last_offset) + 1, ?) from correnteza_appends where log = ? and at < ?"
        (aged,) = connection.one(query, first, self.name, now - policy.age_s)
        return int(aged)

    def _remove(self, connection: Any, first: int) -> None:
        connection.run(f"delete from {quoted(self.name)} where {OFFSET} < ?", first)  # noqa: S608 - quoted
        connection.run("delete from correnteza_appends where log = ? and last_offset < ?", self.name, first - 1)
        connection.run("update correnteza_logs set first = ? where name = ?", first, self.name)


class SqlStore:
    """All logs, states and positions of one service, in one SQLite file.

    Args:
        path: the file; it and its folder are created.

    Raises:
        LogError: the file cannot be opened or is no SQLite database.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.connections = Connections(path, TABLES)
        self._logs: dict[str, SqlLog] = {}
        self._unbounded: set[str] = set()
        self._advanced: dict[str, tuple[int, str | None, bytes]] = {}  # what this process has written last of each stage
        self._readers: dict[tuple[str, str], Reader] = {}
        self._saved: dict[tuple[str, str], Reader] = {}
        self._lock = threading.Lock()

    def log(self, name: str, schema: pa.Schema, *, bounded: bool = True) -> SqlLog:
        """See `Store.log`."""
        with self._lock:
            if name not in self._logs:
                self._logs[name] = SqlLog(self, name, schema, self._open(name, schema))
            if not bounded:
                self._unbounded.add(name)
        log = self._logs[name]
        if not log.schema.equals(schema):
            raise ConfigError(f"log {name}: is open with columns {log.schema.names}, not {schema.names}")
        return log

    def _open(self, name: str, schema: pa.Schema) -> str:
        """Create the table of a log, or check that it has these columns; returns the log's id."""
        with self.connections.write() as connection:
            known = connection.all("select id from correnteza_logs where name = ?", name)
            if known:
                self._check_columns(connection, name, schema)
                return str(known[0][0])
            columns = ", ".join(f"{quoted(f.name)} {_sql_type(f.type)}" for f in schema)
            connection.run(f"create table {quoted(name)} ({OFFSET} integer primary key, {columns})")
            log_id = cursors.new_id()
            connection.run("insert into correnteza_logs values (?, ?, 1, 1)", name, log_id)
            return log_id

    def _check_columns(self, connection: Any, name: str, schema: pa.Schema) -> None:
        there = [(row[1], row[2].upper()) for row in connection.all(f"pragma table_info({quoted(name)})")]
        wanted = [(OFFSET, "INTEGER"), *((f.name, _sql_type(f.type).upper()) for f in schema)]
        if there != wanted:
            odd = sorted({column for column, _ in set(there) ^ set(wanted)})
            raise ConfigError(
                f"{self.path}: table {name} has other columns than the schema asks for ({', '.join(odd)} differ); "
                "was [schema] changed? use another pipeline.name or pipeline.data_dir"
            )

    def logs(self) -> Mapping[str, SqlLog]:
        """See `Store.logs`."""
        return dict(self._logs)

    def bounded(self) -> Iterable[SqlLog]:
        """See `Store.bounded`."""
        return [log for name, log in self.logs().items() if name not in self._unbounded]

    def claim(self, stage: str) -> Claim:
        """See `Store.claim`."""
        with self.connections.write() as connection:
            connection.run(
                "insert into correnteza_stages values (?, 1, null, null) on conflict(name) do update set epoch = epoch + 1",
                stage,
            )
            epoch, position, state = connection.one(
                "select epoch, position, state from correnteza_stages where name = ?", stage
            )
        return Claim(epoch, position, state)

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        """See `Store.commit`."""
        with self.connections.write() as connection:
            self._advance(connection, stage, epoch, position, state)
            appended = {name: self._logs[name].put(connection, batch) for name, batch in outputs.items()}
        self._advanced[stage] = (epoch, position, state)
        for name in outputs:
            self._logs[name].watch.notify()
        return appended

    def _advance(self, connection: Any, stage: str, epoch: int, position: str | None, state: bytes) -> None:
        """Write down how far a stage is, if its claim still holds; a row that stays the same is only looked at."""
        if self._advanced.get(stage) == (epoch, position, state):
            holds = connection.all("select 1 from correnteza_stages where name = ? and epoch = ?", stage, epoch)
        else:
            advance = "update correnteza_stages set position = ?, state = ? where name = ? and epoch = ? returning epoch"
            holds = connection.all(advance, position, state, stage, epoch)
        if not holds:
            raise FencedError(f"{self.path}: stage {stage}: claim {epoch} is not the current one; another process runs it")

    def note_reader(self, log: str, reader: str, offset: int, keep_rows: int) -> None:
        """Remember how far a reader is; a new one is written down at once."""
        key = (log, reader)
        self._readers[key] = Reader(offset, keep_rows)
        if key not in self._saved:
            self.save_readers()

    def readers_of(self, log: str) -> dict[str, Reader]:
        """The readers of a log that this process has heard of."""
        return {reader: how for (of, reader), how in dict(self._readers).items() if of == log}

    def forget_reader(self, log: str, reader: str) -> bool:
        """Strike a reader of a log out; whether it was there."""
        with self._lock, self.connections.write() as connection:
            struck = connection.all("delete from correnteza_readers where log = ? and reader = ? returning log", log, reader)
            self._saved.pop((log, reader), None)
            return self._readers.pop((log, reader), None) is not None or bool(struck)

    def save_readers(self) -> None:
        """Write down how far readers are. Older positions in the file only keep more rows than needed."""
        with self._lock:
            changed = {key: value for key, value in self._readers.items() if self._saved.get(key) != value}
            if not changed:
                return
            with self.connections.write() as connection:
                for (log, reader), how in changed.items():
                    values = log, reader, how.passed, how.keep_rows
                    connection.run("insert or replace into correnteza_readers values (?, ?, ?, ?)", *values)
            self._saved.update(changed)

    def give_back_space(self) -> None:
        """Shrink the file, some pages at a time, to half as many free pages as used ones.

        What is left is written to again by the next rows; a stream in balance moves no page at all.
        """
        while True:
            pages, free = self.connections.pages()
            spare = free - max(FREE_PAGES, (pages - free) // 2)
            if spare <= 0:
                return
            self.connections.vacuum(min(spare, VACUUM_PAGES))

    def close(self) -> None:
        """See `Store.close`."""
        self.connections.close()


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_binary(kind):
        return "blob"
    return "real" if pa.types.is_floating(kind) else "text"
