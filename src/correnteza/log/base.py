"""The contract of a log, and of the store that commits steps.

A log is an ordered, append-only sequence of rows. Each row has an offset: an integer from 1 that
never changes, is never used again, and grows from row to row. A *cursor* is an opaque text that
stands between two rows of one log; only the log that made it can read it.

Invariants that every adapter keeps, and that `tests/contracts` holds them to:
- `append` returns after its rows are as durable as the adapter's docstring promises.
- A reader that goes on from `Slice.next` sees every row once, in order, also over restarts.
- Rows leave a log only at its head, by retention, and never before a registered reader has
  passed them, unless the hard cap says so.
- `Store.commit` is all or nothing: outputs, state and position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from correnteza.tracing import NONE, Traces

LATEST = "latest"
"""A cursor for "only what is new", understood by every log."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What one read returned.

    Args:
        batch: the rows, with the column `offset` in front; may be empty.
        next: the cursor behind the last row; pass it as `after` to go on.
        lag_rows: rows that were in the log behind `next` when the read was made.
        traces: what the rows were written in, as far as it is known.
    """

    batch: pa.RecordBatch
    next: str
    lag_rows: int
    traces: Traces = NONE


def traces_of(*parts: Slice | None) -> Traces:
    """What the rows of several slices were written in."""
    return sum((part.traces for part in parts if part is not None), NONE)


@dataclass(frozen=True, slots=True)
class Appended:
    """Offsets of the first and last row of an append; `last` is below `first` when it had none."""

    first: int
    last: int

    @property
    def rows(self) -> int:
        """How many rows were appended."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Bounds:
    """The ends of a log.

    Args:
        first: offset of the first row that is still there (equal to `next` when there is none).
        next: offset that the next appended row will have.
        rows: how many rows are there.
    """

    first: int
    next: int
    rows: int


class Log(Protocol):
    """One log. Safe to use from several threads."""

    @property
    def name(self) -> str:
        """Name of the log, as in `raw`."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of its rows, without `offset`."""

    def append(self, batch: pa.RecordBatch) -> Appended:
        """Append a batch as one atomic write and return its offsets.

        Raises:
            LogError: the batch does not have this log's schema.
            LogUnavailableError: nothing was appended; trying again is safe.
        """

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """Return up to `limit` rows behind a cursor, oldest first.

        Args:
            after: cursor of an earlier slice; None for the first row still there; `LATEST`.
            limit: most rows to return, at least 1.
            wait_s: how long to wait for a first row when there is none, in seconds.
            back: start so many rows before the cursor (fewer when the log begins later).

        Raises:
            CursorError: the cursor is not of this log.
            OffsetRemovedError: the row behind the cursor was removed; carries the first one there.
            DamagedLogError: rows are missing or cannot be read; names the offset.
            LogUnavailableError: try again later.
        """

    def bounds(self) -> Bounds:
        """The ends of the log, now."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How far a registered reader is: rows up to `passed` may go, but for the last `keep_rows` of them."""

    passed: int
    keep_rows: int = 0


class OwnedLog(Log, Protocol):
    """A log in a store of this process: it can also be watched and be registered with."""

    def cursor(self, offset: int) -> str:
        """The cursor behind `offset`."""

    def register(self, reader: str, after: str | None, keep_rows: int = 0) -> None:
        """Record how far a downstream reader is, so that retention keeps what it still needs.

        Args:
            reader: name of the reader.
            after: its cursor; rows up to it may go. None when it has read nothing.
            keep_rows: rows before its cursor that it wants to be able to read again.
        """

    def unregister(self, reader: str) -> bool:
        """Wait for a reader no longer; whether it was registered. One that reads on is registered again by that."""

    def readers(self) -> dict[str, Reader]:
        """Who is registered, and how far each is."""

    def trim(self, policy: Policy, now: float) -> Trimmed:
        """Remove rows at the head that the policy lets go; `now` is Unix time in seconds."""

    def subscribe(self, notify: Callable[[], None]) -> Callable[[], None]:
        """Call `notify` (from any thread) after each append; returns how to stop it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How long rows stay.

    Args:
        rows: rows kept at the head of the log; None keeps all.
        age_s: seconds that a row is kept; None keeps it for ever.
        hard_rows: rows kept at most even when a registered reader has not read them; None waits for readers.
    """

    rows: int | None = None
    age_s: float | None = None
    hard_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What retention removed: `rows` in all, of which `unread` had not been passed by every registered reader."""

    rows: int = 0
    unread: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """What a stage goes on from after it has claimed its name in a store.

    Args:
        epoch: number of this claim; a commit under an older epoch is fenced off.
        position: cursor of the upstream log after the last committed step, or None.
        state: what the last committed step saved, or None.
    """

    epoch: int
    position: str | None
    state: bytes | None


class Store(Protocol):
    """The logs, states and positions of one service, in one place that commits them together."""

    def log(self, name: str, schema: pa.Schema, *, bounded: bool = True) -> OwnedLog:
        """Open a log, or create it.

        Args:
            name: its name, a plain word.
            schema: its columns, without `offset`.
            bounded: whether retention may shorten it.

        Raises:
            ConfigError: the log is there with other columns.
        """

    def logs(self) -> Mapping[str, OwnedLog]:
        """The logs that are open, by name."""

    def bounded(self) -> Iterable[OwnedLog]:
        """The open logs that retention may shorten."""

    def claim(self, stage: str) -> Claim:
        """Become the only process that may commit as `stage`, and learn where it stands."""

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        """Append outputs (by log name) and save state and position, in one transaction.

        Raises:
            FencedError: the stage was claimed again since; nothing was committed.
            LogUnavailableError: nothing was committed; trying again is safe.
        """

    def close(self) -> None:
        """Release files and connections."""
