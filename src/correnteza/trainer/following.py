"""The normalizer's memory, followed by each process that answers: a snapshot, then the log `memory`, row for row.

    GET /memory/snapshot --\\
    GET /memory ------------> [Following] --> the derived columns of questions, as of now

Invariants:
- The memory here is what the normalizer's was at one row of its log, and only goes forward.
- Questions see it between two readings, never in the middle of one.
- What cannot be followed is told; questions are then answered from the memory as it was last, whose age grows.
  Before there is any memory, a question is refused: missing lags would be wrong ones in silence.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import pyarrow as pa

from correnteza import config
from correnteza.errors import CursorError, DamagedLogError, LogError, LogUnavailableError, NoModelError, OffsetRemovedError
from correnteza.events import Events
from correnteza.features import Floats
from correnteza.log.http import HttpLog
from correnteza.memory import Limits, Memory, entries, snapshots
from correnteza.memory.single import Value
from correnteza.records import Schema
from correnteza.stage import Source
from correnteza.trainer.board import Age

READ_ROWS = 2_000
"""Rows that are taken at once while questions wait: some milliseconds."""
CATCH_UP_ROWS = 50_000
"""Rows that are taken at once into a memory that is not asked yet."""
WAIT_S = 0.5
"""How long a reading waits for rows; also how old a memory that is level can look."""
PAUSE_S = 0.5
"""Before the next try, where the log cannot be read."""
STOP_S = 2.0


class Following:
    """Follows the memory in a thread. Questions may come from any thread.

    Args:
        schema: with the definitions; where none remembers, there is nothing to follow.
        limits: those of the normalizer's memory.
        log: the normalizer's log `memory`.
        snapshot: its last snapshot, as a source: rows of the log `snapshots`, and the cursor in `log` behind it.
        told: where it is told that the memory cannot be followed.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        schema: Schema,
        limits: Limits,
        log: Source,
        snapshot: Source,
        told: Events,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.remembers = any(one.remembers for one in schema.derived)
        self._schema = schema
        self._limits = limits
        self._log = log
        self._snapshot = snapshot
        self._told = told
        self._clock = clock
        self._memory: Memory | None = None if self.remembers else Memory(schema, limits)
        self._position: str | None = None  # None when the memory must be loaded anew
        self._read = (0, 0)  # offset, rows behind it
        self._level_at: float | None = None
        self._reason = "" if not self.remembers else "it has not been read yet"
        self._trouble = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        if self.remembers:
            self._thread.start()

    def stop(self) -> None:
        """End, after the reading under way."""
        self._stop.set()
        if self.remembers:
            self._thread.join(STOP_S)

    # Questions

    def not_ready(self) -> str | None:
        """Why no feature can be derived yet, or None."""
        if self._memory is not None:
            return None
        return f"no memory of the stream yet, which [[features]] need: {self._reason}"

    def age(self) -> Age | None:
        """How far the memory is; None where nothing is remembered."""
        return Age(*self._read, self._level_at, self._reason) if self.remembers else None

    def one(self, values: Mapping[str, Value], times_us: Mapping[str, int]) -> list[float]:
        """See `Memory.one`.

        Raises:
            NoModelError: there is no memory yet.
        """
        with self._lock:
            return self._held().one(values, times_us)

    def vector(self, records: pa.RecordBatch) -> Mapping[str, Floats]:
        """See `Memory.vector`.

        Raises:
            NoModelError: there is no memory yet.
        """
        with self._lock:
            return self._held().vector(records)

    def knows(self, by: str | None, key: str | int) -> bool:
        """Whether a key was seen, and has not been forgotten."""
        with self._lock:
            return self._held().knows(by, key)

    def _held(self) -> Memory:
        if self._memory is None:
            raise NoModelError(self.not_ready() or "")
        return self._memory

    # Following

    def tick(self, wait_s: float = 0.0) -> bool:
        """One reading; whether it could be done.

        Args:
            wait_s: how long to wait for rows.
        """
        try:
            if self._position is None:
                self._load()
            else:
                self._go_on(self._position, wait_s)
        except (OffsetRemovedError, CursorError, DamagedLogError) as error:
            self._position = None  # load it anew: what lies between was removed, or this is another log
            return self._failed(error)
        except (LogError, LogUnavailableError) as error:
            return self._failed(error)
        if self._trouble:
            self._told.emit("memory_followed", "the memory of the stream is followed again", offset=self._read[0])
        self._reason = self._trouble = ""
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self.tick(WAIT_S):
                self._stop.wait(PAUSE_S)

    def _go_on(self, position: str, wait_s: float) -> None:
        part = self._log.read(position, READ_ROWS, wait_s)
        with self._lock:
            memory = self._held()
            memory.replay(part.batch)
        self._took(memory, part.next, part.lag_rows)

    def _load(self) -> None:
        """Make the memory anew beside the one that is asked, and put it in its place when it is level."""
        memory = Memory(self._schema, self._limits)
        page = self._snapshot.read(None, 1)
        if page.batch.num_rows:
            memory.load(page.batch)
        position, lag_rows = page.next, 1
        while lag_rows and not self._stop.is_set():
            part = self._log.read(position, CATCH_UP_ROWS)
            memory.replay(part.batch)
            position, lag_rows = part.next, part.lag_rows
            if self._memory is None:
                self._reason = f"{memory.offset} of {memory.offset + lag_rows} rows are read"
        with self._lock:
            self._memory = memory
        self._took(memory, position, lag_rows)

    def _took(self, memory: Memory, position: str, lag_rows: int) -> None:
        self._position, self._read = position, (memory.offset, lag_rows)
        if not lag_rows:
            self._level_at = self._clock()

    def _failed(self, error: Exception) -> bool:
        self._reason = str(error)
        if self._reason != self._trouble:
            self._trouble = self._reason
            then = "there are no answers before it can" if self._memory is None else "answers go on with it as it was last"
            reason = f"the memory of the stream cannot be followed: {error}; {then}"
            self._told.emit("memory_not_followed", reason, offset=self._read[0])
        return False


def following(settings: config.Settings, told: Events) -> Following:
    """The memory of a pipeline, followed over HTTP; not started.

    Args:
        settings: of the pipeline.
        told: where events go.
    """
    schema, url = settings.schema_of_model, settings.services.url("normalizer")
    log = HttpLog(url, name=entries.LOG, schema=entries.log_schema(schema), path="memory")
    snapshot = HttpLog(url, name=snapshots.LOG, schema=snapshots.SCHEMA, path="memory/snapshot")
    return Following(schema, limits_of(settings), log, snapshot, told)


def limits_of(settings: config.Settings) -> Limits:
    """Bounds of the normalizer's memory, which a follower has to share."""
    return Limits(keys=settings.normalizer.memory_keys, rows=settings.normalizer.memory_rows)
