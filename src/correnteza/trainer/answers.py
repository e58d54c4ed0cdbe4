"""The log `predictions`: what was answered, written behind the answers' backs.

Invariants:
- An answer never waits for the log; rows are committed in groups, in the order of the answers.
- What cannot be stored is counted and told as an event, never dropped in silence.

What a crash can lose: answers given since the last commit began, and that is at most `GROUP_S` plus the time
of one commit ago. So on a disk that commits in 50 ms, nothing is lost that a client could have referred to
with an outcome more than 100 ms after it had the answer. While the database cannot be written at all (a full
disk, another process that holds it), answers wait in memory, up to `QUEUE_ROWS` rows, and a crash loses these.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from correnteza.errors import LogError, LogUnavailableError
from correnteza.events import Events
from correnteza.features import Floats
from correnteza.log.base import Log
from correnteza.records import TIMESTAMP
from correnteza.tracing import Tracer, Traces
from correnteza.trainer.questions import Records
from correnteza.trainer.texts import texts_of

PREDICTIONS = pa.schema(
    [
        pa.field("prediction_id", pa.string()),
        pa.field("at", TIMESTAMP),
        pa.field("model_version", pa.int64()),
        pa.field("prediction", pa.float64()),
        pa.field("lower", pa.float64()),
        pa.field("upper", pa.float64()),
        pa.field("record", pa.string()),
    ]
)
"""Columns of the log `predictions`: a row per predicted record; `record` is what was asked, as a JSON object."""

GROUP_S = 0.04
"""From the beginning of one commit to that of the next, at least; so no row waits longer for its commit to begin."""
GATHER_S = 0.01
"""From an answer to its commit, at least: storing a large answer would hold up the sending of the same one."""
GROUP_ROWS = 5_000
"""Rows in one commit, unless a single answer has more."""
RETRY_S = 0.2
QUEUE_ROWS = 200_000
"""Rows that may wait; further ones are answered and not stored."""
TOLD_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to one request.

    Args:
        ids: of the predictions.
        version: the model version that made all of them.
        predictions: in the target's unit, shape [rows].
        halves: what each interval reaches to either side, in the target's unit, shape [rows]; None when not known yet.
        records: what was asked.
        at_us: when, in microseconds of Unix time.
        trace: what the request belongs to, as a `traceparent`; empty where nothing is traced.
        derived: what was derived for each record; see `Question.derived`.
    """

    ids: Sequence[str]
    version: int
    predictions: Floats
    halves: Floats | None
    records: Records
    at_us: int
    trace: str = ""
    derived: Sequence[Any] = ()


class Ids:
    """Ids for predictions whose record has none: unique among all processes and restarts."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def fill(self, given: Sequence[str | None]) -> list[str]:
        """The given ids, with a new one for each that is None."""
        if given.count(None) == len(given):
            return [f"{self._prefix}-{number}" for number in itertools.islice(self._numbers, len(given))]
        return [f"{self._prefix}-{next(self._numbers)}" if one is None else one for one in given]


class Answers:
    """Takes answers from any thread and stores them from one of its own.

    Args:
        log: the log `predictions`.
        events: where it is told what could not be stored.
        queue_rows: most rows that may wait.
        tracer: makes a span of each commit; None where nothing is traced.
    """

    def __init__(self, log: Log, events: Events, queue_rows: int = QUEUE_ROWS, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self.served_rows = 0
        self.dropped_rows = 0
        self._log = log
        self._events = events
        self._queue_rows = queue_rows
        self._queue: deque[Answered] = deque()
        self._waiting_rows = 0
        self._told_rows = 0
        self._told_at = 0.0
        self._lock = threading.Lock()
        self._something = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Begin to store."""
        self._thread.start()

    def stop(self) -> None:
        """Store what waits, then end."""
        self._stop.set()
        self._something.set()
        self._thread.join(5.0)
        if self._waiting_rows:
            reason = f"{self._waiting_rows} answered predictions could not be stored before the service ended"
            self._events.emit("predictions_not_stored", reason, rows=self._waiting_rows)

    def put(self, answered: Answered) -> None:
        """Take one answer; does not wait."""
        rows = len(answered.ids)
        with self._lock:
            self.served_rows += rows
            if self._waiting_rows + rows > self._queue_rows:
                self.dropped_rows += rows
            else:
                self._waiting_rows += rows
                self._queue.append(answered)
        if not self._something.is_set():
            self._something.set()

    def _run(self) -> None:
        next_at = 0.0
        while not (self._stop.is_set() and not self._queue):
            self._something.wait(TOLD_EVERY_S)
            self._stop.wait(max(GATHER_S, next_at - time.monotonic()))
            self._something.clear()
            began = time.monotonic()
            stored = self._store_all()
            next_at = began + GROUP_S if stored else time.monotonic() + RETRY_S
            self._tell_dropped()
            if self._stop.is_set() and not stored:
                return

    def _store_all(self) -> bool:
        """Store what waits, group by group; whether the log took it all."""
        while group := self._group():
            batch = rows_of(group)
            try:
                self._append(batch, group)
            except LogUnavailableError:
                self._something.set()
                return False
            except LogError as error:
                self._events.emit("predictions_not_stored", str(error), rows=batch.num_rows)
            with self._lock:
                self._waiting_rows -= batch.num_rows
                for _ in group:
                    self._queue.popleft()
        return True

    def _append(self, batch: pa.RecordBatch, group: Sequence[Answered]) -> None:
        if self._tracer is None:
            self._log.append(batch)
            return
        causes = Traces.of(answered.trace for answered in group)
        with self._tracer.begin("store predictions", causes, {"rows": batch.num_rows}):
            self._log.append(batch)

    def _group(self) -> list[Answered]:
        """The first answers of the queue, which stay there until they are stored."""
        group, rows = [], 0
        with self._lock:
            for answered in self._queue:
                group.append(answered)
                rows += len(answered.ids)
                if rows >= GROUP_ROWS:
                    break
        return group

    def _tell_dropped(self) -> None:
        now = time.monotonic()
        fresh = self.dropped_rows - self._told_rows
        if fresh and (now - self._told_at >= TOLD_EVERY_S or self._stop.is_set()):
            self._told_rows, self._told_at = self._told_rows + fresh, now
            reason = f"{fresh} answered predictions were not stored: {self._queue_rows} rows waited for the database already"
            self._events.emit("predictions_not_stored", reason, rows=fresh)


def rows_of(group: Sequence[Answered]) -> pa.RecordBatch:
    """Answers as rows of `PREDICTIONS`."""
    counts = [len(answered.ids) for answered in group]
    predictions = np.concatenate([answered.predictions for answered in group])
    halves = np.concatenate([np.full(n, np.nan) if a.halves is None else a.halves for a, n in zip(group, counts, strict=True)])
    return pa.RecordBatch.from_arrays(
        [
            pa.array([i for answered in group for i in answered.ids], pa.string()),
            pa.array(np.repeat([answered.at_us for answered in group], counts)).cast(TIMESTAMP),
            pa.array(np.repeat([answered.version for answered in group], counts)),
            pa.array(predictions),
            pa.array(predictions - halves, from_pandas=True),
            pa.array(predictions + halves, from_pandas=True),
            _records(group),
        ],
        schema=PREDICTIONS,
    )


def _records(group: Sequence[Answered]) -> pa.Array:
    """What was asked, as texts; single records are taken together."""
    parts = [texts_of([])]
    for (columnar, _), some in itertools.groupby(group, _form):
        if columnar:
            parts.extend(texts_of(answered.records, answered.derived) for answered in some)
        else:
            answers = list(some)
            derived = [one for answered in answers for one in answered.derived]
            parts.append(texts_of([record for answered in answers for record in answered.records], derived))
    return pa.concat_arrays(parts)


def _form(answered: Answered) -> tuple[bool, bool]:
    """Whether records are columns, and whether something was derived for them."""
    return isinstance(answered.records, pa.RecordBatch), bool(answered.derived)
