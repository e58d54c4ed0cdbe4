"""A source that asks: it reads records, has the trainer predict them, and returns them with the answers.

Invariants:
- The target never leaves this process: what is asked is built from the schema's fields alone.
- A record counts as read only with its answer or its refusal, so nothing is lost while the trainer is
  away: the runner reads again from the same cursor. Asking is therefore at-least-once; what is filed
  (`stage.py`) is exactly-once.
- One record that the trainer refuses keeps no other from its answer.
- What JSON cannot carry (NaN, infinities, numbers beyond the limits) is refused here and never sent.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.consumer.stage import ASKED
from correnteza.errors import CorrentezaError, InputError, LogUnavailableError, Problem, ServiceError
from correnteza.events import Events
from correnteza.log.base import Slice
from correnteza.metrics import Histogram
from correnteza.pace import Pace
from correnteza.records import ID, OFFSET, Field, Schema, empty, with_offsets
from correnteza.stage import Source
from correnteza.tracing import NONE, Tracer, Traces
from correnteza.validation import problems

Ask = Callable[[bytes], Any]
"""Takes a JSON array of records and returns the trainer's answers in its order, as `Client.predict` does."""

REFUSALS = frozenset({400, 413, 422})
"""HTTP statuses that blame what was sent; any other fault is the trainer's and is waited out."""
RETRY_AFTER_MAX_S = 30.0
"""A longer Retry-After is cut to this, so that a trainer that is back early is not missed for long."""
LATENCIES = 1000
"""Requests in the latency percentiles."""
_START = ""
"""Stands for `None` in the `next` of a slice that has moved nowhere."""


class Waiting:
    """Whether answers keep this consumer waiting, since when and why.

    Args:
        events: told once when a wait begins and once when it ends.
        mode: named in these events.
        clock: monotonic time in seconds.
    """

    def __init__(self, events: Events, mode: str, clock: Callable[[], float]) -> None:
        self.waited = 0
        self.retries = 0
        self.reason: str | None = None
        self._events = events
        self._mode = mode
        self._clock = clock
        self._since = 0.0
        self._not_before = -math.inf

    @property
    def seconds(self) -> float | None:
        """How long the wait has lasted, in seconds; None when there is none."""
        return None if self.reason is None else self._clock() - self._since

    def check(self) -> None:
        """Raise LogUnavailableError as long as the trainer has asked not to be tried again."""
        if self.reason is not None and self._clock() < self._not_before:
            raise LogUnavailableError(self.reason)

    def failed(self, error: CorrentezaError) -> None:
        """Take down one failed try."""
        if self.reason is None:
            self._since = self._clock()
            self.waited += 1
            self._events.emit("waiting_began", str(error), mode=self._mode)
        self.reason = str(error)
        self.retries += 1
        pause_s = error.retry_after_s if isinstance(error, LogUnavailableError) else None
        self._not_before = self._clock() + min(pause_s or 0.0, RETRY_AFTER_MAX_S)

    def over(self) -> None:
        """Take down a try that went well."""
        seconds, reason = self.seconds, self.reason
        if seconds is not None:
            self.reason = None
            self._events.emit("waiting_ended", f"answered again after: {reason}", mode=self._mode, waited_s=round(seconds, 3))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the trainer says of one record, as in its JSON."""

    prediction: float | None
    lower: float | None = None
    upper: float | None = None
    model_version: int | None = None
    id: str | None = None


class Asking:
    """Joins the trainer's answers to records (see `stage.Source`); its batches have `offset` and the columns of `ASKED`.

    Args:
        source: where the records come from, with the columns of `Schema.raw`.
        schema: the schema of the records.
        ask: how to ask for several records at once.
        pace: one unit of it is one request.
        waiting: told of every failed and successful try.
        request_rows: most records in one request.
        behind: told how many records wait for an answer, before each request; by then nobody else knows.
        clock: monotonic time in seconds, for the latency.
        tracer: makes a span of each question; None where nothing is traced.
    """

    def __init__(
        self,
        source: Source,
        schema: Schema,
        ask: Ask,
        pace: Pace,
        waiting: Waiting,
        *,
        request_rows: int,
        behind: Callable[[int], None],
        clock: Callable[[], float] = time.perf_counter,
        tracer: Tracer | None = None,
    ) -> None:
        self.pace = pace
        self._tracer = tracer
        self.waiting = waiting
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)
        self.latency_s = Histogram()
        self.model_version: int | None = None
        self._source = source
        self._schema = schema
        self._unbounded = replace(schema, fields=tuple(Field(f.name, f.kind) for f in schema.fields))
        self._ask = ask
        self._request_rows = request_rows
        self._behind = behind
        self._clock = clock

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """As `Log.read`; waits up to `wait_s` for a record and up to `wait_s` for the pace.

        Raises:
            LogUnavailableError: the source or the trainer cannot answer; no record was passed over.
        """
        self.waiting.check()
        try:
            return self._read(after, min(limit, self._request_rows), wait_s, back)
        except (LogUnavailableError, ServiceError) as error:
            self.waiting.failed(error)
            raise LogUnavailableError(str(error)) from error

    def _read(self, after: str | None, limit: int, wait_s: float, back: int) -> Slice:
        part = self._source.read(after or None, limit, wait_s, back)
        rows = part.batch.num_rows
        if rows:
            self._behind(part.lag_rows + rows)
        if rows and not self.pace.take(1, wait_s):
            return Slice(with_offsets(empty(ASKED), 1), after or _START, part.lag_rows + rows)
        answered, traces = self._traced(part) if rows else (with_offsets(empty(ASKED), 1), NONE)
        self.waiting.over()
        return Slice(answered, part.next, part.lag_rows, traces)

    def _traced(self, part: Slice) -> tuple[pa.RecordBatch, Traces]:
        """The answers, and what they were asked in."""
        if self._tracer is None:
            return self._answered(part.batch), NONE
        with self._tracer.begin("ask", part.traces, {"rows": part.batch.num_rows}, "client") as span:
            return self._answered(part.batch), Traces.of([span.context])

    def _answered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows with the columns of `ASKED`."""
        texts = questions(batch, self._schema)
        refused = self._unsendable(batch)
        answers: dict[int, tuple[Answer, float]] = {}
        open_parts = [[i for i in range(batch.num_rows) if i not in refused]]
        while open_parts:
            part = open_parts.pop()
            if not part:
                continue
            try:
                got, latency_ms = self._request([texts[i] for i in part])
            except InputError as error:
                open_parts.extend(_without_refused(part, error, refused))
                continue
            answers.update((i, (answer, latency_ms)) for i, answer in zip(part, got, strict=True))
        rows = [_row(texts[i], answers.get(i), refused.get(i)) for i in range(batch.num_rows)]
        own = {OFFSET: batch[OFFSET], "record_id": batch[ID], "target": batch[self._schema.target]}
        return _with(pa.RecordBatch.from_pylist(rows, schema=ASKED), own)

    def _unsendable(self, batch: pa.RecordBatch) -> dict[int, str]:
        """Rows that JSON cannot carry, or whose target is no number to compare with, and why."""
        return _reasons(problems(batch, self._unbounded))

    def _request(self, texts: Sequence[bytes]) -> tuple[list[Answer], float]:
        """The answers to some records, and how long they took in milliseconds.

        Raises:
            InputError: the trainer refuses these records.
            LogUnavailableError: it cannot answer now.
            ServiceError: it answers something else.
        """
        began = self._clock()
        try:
            body = self._ask(b"[" + b",".join(texts) + b"]")
        except InputError as error:
            if error.status not in REFUSALS:
                raise ServiceError(str(error)) from error
            raise
        latency_ms = (self._clock() - began) * 1000.0
        try:
            answers = msgspec.convert(body, list[Answer])
        except msgspec.ValidationError as error:
            raise ServiceError(f"trainer: its answer is not a list of predictions: {error}; is it of this version?") from None
        if len(answers) != len(texts):
            raise ServiceError(f"trainer: {len(answers)} answers to {len(texts)} records; expected one for each")
        self.latencies_ms.append(latency_ms)
        self.latency_s.note(latency_ms / 1000.0)
        self.model_version = answers[-1].model_version
        return answers, latency_ms


def questions(batch: pa.RecordBatch, schema: Schema) -> list[bytes]:
    """What is asked for each row, as JSON: its id and its fields without the missing ones and without the target.

    >>> s = Schema((Field("age", "float"), Field("job", "category")), target="income")
    >>> questions(pa.RecordBatch.from_pylist([{"id": "a", "age": 41.5, "income": 9.0}], schema=s.raw), s)
    [b'{"id":"a","age":41.5}']
    """
    asked = _with_texts_for_times(batch.select([ID, *(f.name for f in schema.fields)]))
    return [msgspec.json.encode({n: v for n, v in row.items() if v is not None}) for row in asked.to_pylist()]


def _with_texts_for_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Timestamps as ISO 8601, by Arrow, which unlike `datetime` can write any that it can hold."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            texts = pc.replace_substring(batch.column(place).cast(pa.string()), " ", "T")
            batch = batch.set_column(place, field.name, texts)
    return batch


def _without_refused(part: Sequence[int], error: InputError, refused: dict[int, str]) -> list[list[int]]:
    """Note which rows of a refused request are at fault; return what to ask for instead.

    Where the answer names no row, the request is halved until a single row is at fault.
    """
    named = {part[index]: reason for index, reason in _reasons(error.problems).items() if 0 <= index < len(part)}
    if not named and len(part) > 1:
        middle = len(part) // 2
        return [list(part[:middle]), list(part[middle:])]
    refused.update(named or {part[0]: str(error)})
    return [[i for i in part if i not in refused]]


def _reasons(found: Iterable[Problem]) -> dict[int, str]:
    """All that is wrong with each record, by its index."""
    reasons: dict[int, str] = {}
    for p in found:
        reason = f"{p.field}: {p.reason}" if p.field else p.reason
        reasons[p.index] = f"{reasons[p.index]}; {reason}" if p.index in reasons else reason
    return reasons


def _row(text: bytes, answer: tuple[Answer, float] | None, refused: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"input": text.decode(), "refused": refused}
    if answer is None:
        return row
    said, latency_ms = answer
    if said.prediction is None or not math.isfinite(said.prediction):
        return {**row, "refused": "the trainer answered without a number"}
    return row | {
        "prediction": said.prediction,
        "lower": said.lower,
        "upper": said.upper,
        "model_version": said.model_version,
        "prediction_id": said.id,
        "latency_ms": latency_ms,
    }


def _with(rows: pa.RecordBatch, own: Mapping[str, pa.Array]) -> pa.RecordBatch:
    columns = {**{name: rows[name] for name in rows.schema.names}, **own}
    names = [OFFSET, *ASKED.names]
    return pa.RecordBatch.from_arrays([columns[name] for name in names], names=names)
