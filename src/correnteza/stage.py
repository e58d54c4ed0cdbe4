"""The shape of every stage, and the one runner that drives them all.

Invariants:
- A stage is pure: `step` opens no socket, file or database and reads no clock.
- A step's outputs, the state after it and the position behind its batch are committed together or
  not at all (`Store.commit`), so a process killed at any instant goes on as if nothing had happened.
- What a stage makes of a stream does not depend on how the stream was cut into batches.
- Retries, back-off, shutdown, figures and fencing exist here and nowhere else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa

from correnteza.errors import FencedError, LogUnavailableError, OffsetRemovedError
from correnteza.events import Event, Events
from correnteza.flow import INPUT, Flow
from correnteza.log.base import Slice, Store
from correnteza.tracing import Span, Tracer

S = TypeVar("S")

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
GROUP_S = 0.01
"""A good `group_s`: records that trickle in are taken together, in a hundred steps a second and not a thousand."""
WAIT_S = 1.0
"""How long one read waits for rows; also the longest that stopping takes."""


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """What a stage made of a batch.

    Args:
        outputs: rows to append, by name of the log.
        state: the state after the batch.
        events: what happened out of the ordinary.
    """

    outputs: Mapping[str, pa.RecordBatch]
    state: S
    events: tuple[Event, ...] = ()


class Stage(Protocol[S]):
    """A pure step over batches, with a state that can be written down."""

    @property
    def name(self) -> str:
        """Name under which position and state are kept."""

    def initial(self) -> S:
        """The state before the first row."""

    def dump(self, state: S) -> bytes:
        """The state as bytes; equal states give equal bytes."""

    def load(self, blob: bytes) -> S:
        """The state that `dump` wrote."""

    def step(self, state: S, batch: pa.RecordBatch) -> Step[S]:
        """Process one batch.

        Args:
            state: the state before it; must not be changed.
            batch: at least one row, with the column `offset` in front.
        """


class Source(Protocol):
    """Where a stage reads: any `Log`, or something that only reads like one."""

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """As `Log.read`."""


@dataclass(slots=True)
class Figures:
    """What a runner has done since it started, as plain values.

    Args:
        rows: rows read and committed.
        batches: steps committed.
        lag_rows: rows upstream behind the position, at the last read.
        commit_s: seconds spent in commits.
        step_s: seconds spent in steps.
        retries: times that upstream or the store could not answer.
        state: `starting`, `running`, `waiting` (upstream or store do not answer), `stopped` or `failed`.
        reason: why it waits or failed.
        flow: what has gone through.
    """

    rows: int = 0
    batches: int = 0
    lag_rows: int = 0
    commit_s: float = 0.0
    step_s: float = 0.0
    retries: int = 0
    state: str = "starting"
    reason: str = ""
    flow: Flow = field(default_factory=Flow)
    _behind_since: float | None = None
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=600))

    def lag_s(self, now: float | None = None) -> float:
        """Seconds since the position was last level with the head of the upstream log."""
        since = self._behind_since
        return 0.0 if since is None else max(0.0, (now or time.monotonic()) - since)

    def rows_per_s(self, seconds: float = 10.0) -> float:
        """Committed rows per second over the last `seconds`."""
        now = time.monotonic()
        recent = [rows for at, rows in list(self._recent) if now - at <= seconds]
        return sum(recent) / seconds

    def plain(self) -> dict[str, Any]:
        """All figures as plain values, rounded, for `/status`."""
        return {
            "state": self.state,
            "reason": self.reason,
            "rows": self.rows,
            "batches": self.batches,
            "lag_rows": self.lag_rows,
            "lag_s": round(self.lag_s(), 3),
            "rows_per_s": round(self.rows_per_s(), 1),
            "step_s": round(self.step_s, 3),
            "commit_s": round(self.commit_s, 3),
            "retries": self.retries,
        }

    def note_read(self, lag_rows: int, rows: int) -> None:
        """Take down what a read found."""
        self.lag_rows = lag_rows
        if not lag_rows and not rows:
            self._behind_since = None
        elif self._behind_since is None or not lag_rows:
            self._behind_since = time.monotonic()

    def note_commit(self, rows: int, step_s: float, commit_s: float) -> None:
        """Take down a committed step."""
        self.rows += rows
        self.batches += 1
        self.step_s += step_s
        self.commit_s += commit_s
        self._recent.append((time.monotonic(), rows))
        if not self.lag_rows:
            self._behind_since = None


class Runner(Generic[S]):
    """Reads, steps and commits until it is told to stop.

    Args:
        stage: the stage to run.
        source: where its batches come from.
        store: where its outputs, state and position are committed.
        events: where events go; those of a step are stored in the step's own transaction.
        batch_rows: most rows in one batch.
        limit: most rows of the next batch, given the state; for stages that must stop at a row.
        between: called in the runner's thread after each commit and each empty read.
        wait_s: how long one read waits for rows.
        group_s: from one step to the next, at least, when nothing more was there to read; what comes after a silence
            is taken at once.
        tracer: makes a span of each step, which is the current one for `between`, too; None traces nothing.
    """

    def __init__(
        self,
        stage: Stage[S],
        source: Source,
        store: Store,
        events: Events,
        *,
        batch_rows: int,
        limit: Callable[[S], int] | None = None,
        between: Callable[[S], None] | None = None,
        wait_s: float = WAIT_S,
        group_s: float = 0.0,
        tracer: Tracer | None = None,
    ) -> None:
        self.stage = stage
        self.figures = Figures()
        self._source = source
        self._store = store
        self._events = events
        self._batch_rows = batch_rows
        self._limit = limit
        self._between = between
        self._wait_s = wait_s
        self._group_s = group_s
        self._tracer = tracer
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, on_failure: Callable[[BaseException], None]) -> None:
        """Run in a thread of its own; `on_failure` is called there with what ended it early."""

        def guarded() -> None:
            try:
                self.run()
            except BaseException as error:
                on_failure(error)

        self._thread = threading.Thread(target=guarded, name=f"stage-{self.stage.name}", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Let the step under way finish, then end; does not wait."""
        self._stop.set()

    def stop(self, timeout_s: float = 8.0) -> None:
        """Ask to stop, and wait for it."""
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def run(self) -> None:
        """Drive the stage until `stop`.

        Raises:
            FencedError: another process has taken over this stage.
            CorrentezaError: anything else that a retry cannot mend.
        """
        try:
            self._drive()
        except BaseException as error:
            self.figures.state, self.figures.reason = "failed", str(error)
            if not isinstance(error, FencedError):
                self._events.emit("stage_failed", str(error), stage=self.stage.name, error=type(error).__name__)
            raise
        self.figures.state = "stopped"

    def _drive(self) -> None:
        claim = self._patiently(lambda: self._store.claim(self.stage.name))
        if claim is None:
            return
        state = self.stage.initial() if claim.state is None else self.stage.load(claim.state)
        position = claim.position
        while not self._stop.is_set():
            after = position
            limit = self._batch_rows if self._limit is None else max(1, min(self._batch_rows, self._limit(state)))
            part = self._patiently(lambda: self._read(after, limit))  # noqa: B023 - called at once
            if part is None:
                return
            began = time.monotonic()
            self.figures.note_read(part.lag_rows, part.batch.num_rows)
            if self._tracer is None or not part.batch.num_rows:
                state = self._go_on(claim.epoch, state, part)
            else:
                with self._tracer.begin(f"step {self.stage.name}", part.traces, {"rows": part.batch.num_rows}) as span:
                    state = self._go_on(claim.epoch, state, part, span)
            position = part.next
            if self._group_s and part.batch.num_rows and not part.lag_rows:
                self._stop.wait(max(0.0, began + self._group_s - time.monotonic()))

    def _read(self, after: str | None, limit: int) -> Slice:
        try:
            return self._source.read(after, limit, self._wait_s)
        except OffsetRemovedError as error:
            self._events.emit("gap", str(error), stage=self.stage.name, first=error.first)
            return self._source.read(None, limit, self._wait_s)

    def _go_on(self, epoch: int, state: S, part: Slice, span: Span | None = None) -> S:
        if part.batch.num_rows:
            state = self._advance(epoch, state, part, span)
        if self._between is not None:
            self._between(state)
        return state

    def _advance(self, epoch: int, state: S, part: Slice, span: Span | None) -> S:
        began = time.perf_counter()
        step = self.stage.step(state, part.batch)
        stepped = time.perf_counter()
        outputs = dict(step.outputs)
        if step.events:
            outputs["events"] = self._events.rows(step.events)
        blob = self.stage.dump(step.state)
        began_commit = time.perf_counter()
        plain = partial(self._store.commit, self.stage.name, epoch, part.next, blob, outputs)
        traced = span is not None and self._tracer is not None
        commit = partial(self._tracer.committed, span.context, outputs, plain) if traced else plain  # type: ignore[union-attr]
        self._patiently(commit, see_through=True)  # also while stopping: the retry ends by itself
        commit_s = time.perf_counter() - began_commit
        self.figures.note_commit(part.batch.num_rows, stepped - began, commit_s)
        self.figures.flow.note({INPUT: part.batch}, outputs, stepped - began, commit_s)
        for event in step.events:
            self._events.announce(event)
        if span is not None:
            span.end()  # what happens between two steps is no part of it
        return step.state

    def _patiently(self, call: Callable[[], T], see_through: bool = False) -> T | None:
        """The call's answer; tried again with growing pauses while the log cannot answer; None when stopped."""
        pause_s = BACKOFF_FIRST_S
        while True:
            try:
                answer = call()
            except LogUnavailableError as error:
                self.figures.state, self.figures.reason = "waiting", str(error)
                self.figures.retries += 1
                if self._stop.wait(pause_s):
                    if see_through:
                        raise
                    return None
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)
            else:
                self.figures.state, self.figures.reason = "running", ""
                return answer


T = TypeVar("T")
