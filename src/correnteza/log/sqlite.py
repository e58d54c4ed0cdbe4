"""Connections to one SQLite file through ADBC, and the translation of its errors.

Invariants:
- One write transaction at a time per process; SQLite's own lock orders those of several processes.
- Every connection runs with journal_mode=WAL and synchronous=FULL; it is checked, not assumed.
- A reader sees one snapshot for as long as it holds its connection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import adbc_driver_manager as adbc
import adbc_driver_sqlite.dbapi as sqlite
import pyarrow as pa

from correnteza.errors import DamagedLogError, LogError, LogUnavailableError

BUSY_MS = 5_000
"""How long a statement waits for another process's transaction before it is LogUnavailableError."""
INFER_ROWS = 1_000_000
"""ADBC infers a column's type from so many first rows; more than any read returns, so from all of them."""
SYNCHRONOUS_FULL = 2
REMEMBERED = 256
"""Parameters that are kept as Arrow, because most statements of a commit come again with the same ones."""
SHORT = 100
"""Texts and blobs of so many characters or bytes are kept among them."""
PREPARED = 100
"""Statements that a connection keeps prepared; to prepare one takes longer than to run it for a row."""


def quoted(name: str) -> str:
    """A table or column name, safe in a statement."""
    return '"' + name.replace('"', '""') + '"'


_TYPES: dict[type, pa.DataType] = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}


def _bound(values: Sequence[Any]) -> pa.RecordBatch | None:
    """Parameters as a batch of one row. ADBC would find the types itself, at four times the cost of a statement."""
    if not values:
        return None
    lasting = all(len(value) <= SHORT for value in values if isinstance(value, str | bytes))
    return _remembered(*values) if lasting else _row(*values)


def _row(*values: Any) -> pa.RecordBatch:
    arrays = [pa.array([value], _TYPES.get(type(value), pa.null())) for value in values]
    return pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in range(len(arrays))])


_remembered = lru_cache(REMEMBERED, typed=True)(_row)


class Connection:
    """One ADBC connection in autocommit mode; transactions are begun and ended by statements.

    Statements stay prepared, the last `PREPARED` of them; so values go in as parameters.
    """

    def __init__(self, path: Path) -> None:
        self._raw = sqlite.connect(f"file:{path}", autocommit=True)
        self._prepared: dict[str, Any] = {}

    def run(self, statement: str, *values: Any) -> None:
        """Run a statement for its effect."""
        self.run_each(statement, _bound(values))

    def run_each(self, statement: str, rows: pa.RecordBatch | None) -> None:
        """Run a statement for its effect, once with each of the rows as its parameters; once without any for None."""
        self._cursor(statement).executemany(statement, rows)

    def all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        columns = self.table(statement, *values).columns
        return list(zip(*(column.to_pylist() for column in columns), strict=True))

    def one(self, statement: str, *values: Any) -> tuple[Any, ...]:
        """The only row of a query."""
        return self.all(statement, *values)[0]

    def table(self, statement: str, *values: Any) -> pa.Table:
        """The rows of a query, as Arrow."""
        cursor = self._cursor(statement)
        cursor.execute(statement, _bound(values))
        return cursor.fetch_arrow_table()

    def _cursor(self, statement: str) -> Any:
        """The cursor that has prepared this statement, or will when it is executed."""
        cursor = self._prepared.pop(statement, None)
        if cursor is None:
            if len(self._prepared) >= PREPARED:
                self._prepared.pop(next(iter(self._prepared))).close()
            cursor = self._raw.cursor()
            cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(INFER_ROWS)})
        self._prepared[statement] = cursor
        return cursor

    def close(self) -> None:
        """Close the connection."""
        for cursor in self._prepared.values():
            cursor.close()
        self._raw.close()


class Connections:
    """The writer and the readers of one file.

    Args:
        path: the file; created when it is not there.
        tables: `create table if not exists` statements to begin with.

    Raises:
        LogError: the file cannot be opened.
        DamagedLogError: the file is no SQLite database.
    """

    def __init__(self, path: Path, tables: Sequence[str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False
        with self._translated():
            self._writer = self._connect()
            for statement in tables:
                self._writer.run(statement)

    def _connect(self) -> Connection:
        connection = Connection(self._path)
        try:
            self._set_up(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_up(self, connection: Connection) -> None:
        connection.run(f"pragma busy_timeout = {BUSY_MS}")
        connection.run("pragma auto_vacuum = incremental")
        connection.run("pragma synchronous = full")
        mode, level = connection.one("pragma journal_mode = wal")[0], connection.one("pragma synchronous")[0]
        if (mode, level) != ("wal", SYNCHRONOUS_FULL):
            raise LogError(
                f"{self._path}: SQLite runs with journal_mode {mode} and synchronous {level}; expected wal and 2 (full)"
            )

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end of the block, or rolled back by an exception."""
        with self._lock, self._translated():
            self._check_open()
            self._writer.run("begin immediate")
            try:
                yield self._writer
                self._writer.run("commit")
            except BaseException:
                with suppress(adbc.Error):
                    self._writer.run("rollback")
                raise

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A snapshot for reading."""
        with self._translated():
            self._check_open()
            connection = self._borrow()
            try:
                connection.run("begin")
                yield connection
            finally:
                with suppress(adbc.Error):
                    connection.run("rollback")
                self._idle.append(connection)

    def _borrow(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailableError(f"{self._path}: is closed")

    def vacuum(self, pages: int) -> None:
        """Give up to `pages` free pages back to the file system."""
        with self._lock, self._translated():
            self._check_open()
            self._writer.run(f"pragma incremental_vacuum({pages})")

    def pages(self) -> tuple[int, int]:
        """Pages of the file, and how many of them are free."""
        with self.read() as connection:
            return int(connection.one("pragma page_count")[0]), int(connection.one("pragma freelist_count")[0])

    def close(self) -> None:
        """Close all connections that are not in use."""
        with self._lock, self._translated():
            self._closed = True
            for connection in (self._writer, *self._idle):
                connection.close()
            self._idle.clear()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's errors as ours, with the file's name in them."""
        try:
            yield
        except adbc.Error as error:
            raise _translation(self._path, error) from error


def _translation(path: Path, error: adbc.Error) -> LogError:
    text = str(error)
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return DamagedLogError(f"{path}: SQLite finds it damaged ({text}); restore it from a copy")
    if any(word in text for word in ("locked", "busy", "full", "I/O error", "interrupted")):
        return LogUnavailableError(f"{path}: {text}")
    return LogError(f"{path}: {text}")
