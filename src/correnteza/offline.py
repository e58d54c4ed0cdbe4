"""The whole loop over a stream that is there already, in this process, as fast as it goes.

    batches --> NormalizerStage --> normalized --> [Upstream] --> LearnerStage --> evaluations
                                                                     | between steps
                                                                  Learner --> TrainingProcess --> models, promotions

Invariants:
- Stages, runner, learner and training process are those of the running system; only logs are in memory
  and no HTTP stands between them, so what is found here holds there.
- Trainings come by rows and the reader waits for them, so the same records, settings and seed give the
  same evaluations and the same `model.onnx`, however the records are cut into batches.
- Nothing waits for rows: the learner's reading is what drives the normalizer.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from correnteza import events
from correnteza.config import Normalizer, Settings
from correnteza.events import Event, Events
from correnteza.features import CATEGORIES, SCALERS
from correnteza.log.base import LATEST, OwnedLog, Policy, Slice
from correnteza.log.memory import MemoryStore
from correnteza.memory import entries, snapshots
from correnteza.normalizer.stage import NormalizerStage
from correnteza.normalizer.watermark import USUAL, Mark, Rule, Waiting, advance, flush
from correnteza.records import as_batch, kept, with_offsets
from correnteza.stage import Runner
from correnteza.trainer import evaluation, prequential
from correnteza.trainer.importance import importances
from correnteza.trainer.learning import Learner
from correnteza.trainer.leftout import LeftOut
from correnteza.trainer.prequential import LearnerStage
from correnteza.trainer.process import TrainingProcess
from correnteza.trainer.registry import Registry, load_key
from correnteza.trainer.served import Served
from correnteza.trainer.state import State
from correnteza.trainer.upstream import Upstream

READ_ROWS = 100_000
REPLAYED = (entries.LOG, snapshots.LOG)
"""Logs that a memory is made anew from; nobody here is started again."""
ALONE: Mapping[str, Any] = {"checkpoints": False, "threads": os.cpu_count() or 1}
"""Nobody waits for answers, and nobody goes on from the versions."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a stream.

    Args:
        evaluations: all rows of the log `evaluations`.
        versions: all rows of the log `models`.
        promotions: all rows of the log `promotions`.
        events: all rows of the log `events`, the normalizer's before the learner's.
        report: on all evaluations.
        records: raw records read, refused ones included.
        rejected: raw records that the normalizer refused.
        seconds: from the first record to the end of the last training.
        peak_memory_bytes: largest resident memory of this process since it started, and of its children.
        importances: by how much the error of the last records rises when a column is shuffled, for the version that is in
            service at the end, the largest first; empty when they were not asked for, or there is none.
    """

    evaluations: pa.Table
    versions: pa.Table
    promotions: pa.Table
    events: pa.Table
    report: evaluation.Report
    records: int
    rejected: int
    seconds: float
    peak_memory_bytes: int
    importances: Mapping[str, float]

    @property
    def records_per_s(self) -> float:
        """Raw records per second, trainings included."""
        return self.records / self.seconds


def run(
    batches: Iterable[pa.RecordBatch],
    settings: Settings,
    on_rows: Callable[[int], None] | None = None,
    on_scored: Callable[[pa.RecordBatch], None] | None = None,
    importance_rows: int = 0,
) -> Result:
    """Normalize, predict, learn and train over some records, and tell how good the predictions were.

    Args:
        batches: records in `settings.schema_of_records.raw`, in the order of the stream.
        settings: of the pipeline; a trigger by seconds is replaced as `by_rows` says.
        on_rows: called after each step, and at the end, with the raw records done so far.
        on_scored: called before that when rows were scored, with these rows of `evaluations`.
        importance_rows: last records that importances are told from, at most; 0 for none.

    Raises:
        CorrentezaError: what would end a service of the running system.
    """
    began = time.perf_counter()
    training = TrainingProcess(nice=0, memory_mb=settings.trainer.train_memory_mb)
    training.prepare()
    import onnxruntime  # noqa: F401 - while the child imports what it needs
    from river import drift  # noqa: F401

    gc.freeze()  # what is there already stays: to look through it now and again would cost 4 % of the time
    try:
        with tempfile.TemporaryDirectory(prefix="correnteza-") as folder:
            loop = _Loop(batches, by_rows(settings), Path(folder), training, on_rows, on_scored)
            loop.drive()
    finally:
        gc.unfreeze()
        training.close()
    return loop.result(time.perf_counter() - began, importance_rows)


def by_rows(settings: Settings) -> Settings:
    """The settings with trainings by rows: a stream that is there already has no seconds.

    >>> trainer = by_rows(Settings()).trainer
    >>> trainer.retrain_every_s, trainer.retrain_every_rows
    (None, 'auto')
    """
    trainer = settings.trainer
    if trainer.retrain_every_s is None:
        return settings
    changed = trainer.model_copy(update={"retrain_every_s": None, "retrain_every_rows": "auto", **ALONE})
    return settings.model_copy(update={"trainer": changed})


class _Loop:
    """The parts, put together."""

    def __init__(
        self,
        batches: Iterable[pa.RecordBatch],
        settings: Settings,
        folder: Path,
        training: TrainingProcess,
        on_rows: Callable[[int], None] | None,
        on_scored: Callable[[pa.RecordBatch], None] | None,
    ) -> None:
        schema, own = settings.schema_of_model, settings.trainer
        self._on_rows = on_rows
        self._on_scored = on_scored
        self._store = MemoryStore()
        self._normalizer = _Normalizer(batches, settings)
        upstream = Upstream(self._normalizer, *self._normalizer.explaining(), schema)
        self._schema, self._upstream, self._kept_rows = schema, upstream, own.window_rows
        told = _Told("learner", self._store.log("events", events.SCHEMA))
        registry = Registry(folder / "models", self._store, load_key(folder), durable=False)  # it goes with this loop
        self._left_out = LeftOut(told, own.window_rows)
        self._learner = Learner(
            own, schema, self._store, registry, upstream, training, told, threading.Event(), coming=self._coming
        )
        self._runner: Runner[State] = Runner(
            _Unsaved(self._learner.stage),
            upstream,
            self._store,
            told,
            batch_rows=own.batch_rows,
            limit=self._learner.limit,
            between=self._between,
            wait_s=0.0,
        )
        self._evaluations = self._store.log(prequential.LOG, evaluation.EVALUATIONS)
        self._told_until: str | None = None

    def drive(self) -> None:
        """Run until there are no records left."""
        self._normalizer.at_end = self._runner.ask_to_stop
        self._learner.restore()
        self._runner.run()
        self._left_out.look(self._learner.window, self._learner.labelled_rows)

    def _coming(self, offset: int, labelled: int) -> pa.RecordBatch | None:
        """The next labelled rows; see `foresight`."""
        rows = self._normalizer.coming(offset, labelled)
        return None if rows is None else self._upstream.explained(rows)

    def _between(self, state: State) -> None:
        self._tell(state)  # first, because a training may follow that takes a while
        self._learner.between(state)

    def _tell(self, state: State) -> None:
        if self._on_scored is not None:
            part = self._evaluations.read(self._told_until, READ_ROWS)
            self._told_until = part.next
            if part.batch.num_rows:
                self._on_scored(part.batch)
        if self._on_rows is not None:
            self._on_rows(self._normalizer.records_until(state.offset))

    def result(self, seconds: float, importance_rows: int) -> Result:
        """What the logs hold now."""
        evaluations = _all(self._evaluations)
        made, logs = self._normalizer, self._store.logs()
        return Result(
            evaluations=evaluations,
            versions=_all(logs["models"]),
            promotions=_all(logs["promotions"]),
            events=pa.concat_tables([_all(made.log("events")), _all(logs["events"])]),
            report=evaluation.report(as_batch(evaluations, evaluations.schema)),
            records=made.records,
            rejected=made.log("rejected").bounds().rows,
            seconds=seconds,
            peak_memory_bytes=_peak_memory_bytes(),
            importances=self._importances(importance_rows) if importance_rows else {},
        )

    def _importances(self, most_rows: int) -> Mapping[str, float]:
        """Those of the version in service, told from the last labelled records."""
        most_rows = min(most_rows, self._kept_rows)
        rows = self._normalizer.log("normalized").read(LATEST, most_rows, back=most_rows).batch
        rows = rows.filter(rows.column(self._schema.target).is_valid())
        scorer = self._learner.stage.scorer
        if not rows.num_rows or not isinstance(scorer, Served):
            return {}
        targets = rows.column(self._schema.target).to_numpy()
        return importances(scorer.champion.predictor, *self._upstream.raw(rows), targets)


class _Unsaved:
    """The learner's stage without writing its state down, which takes time and of which nobody here goes on.

    Args:
        stage: the stage itself.
    """

    def __init__(self, stage: LearnerStage) -> None:
        self.name = stage.name
        self.outputs = stage.outputs
        self.initial = stage.initial
        self.load = stage.load
        self.step = stage.step

    def dump(self, state: State) -> bytes:  # noqa: ARG002 - the protocol's parameter
        """Nothing. See `Stage.dump`."""
        return b""


class _Normalizer:
    """The log `normalized` as a source: when it is read to its end, the stage makes more of it.

    Attributes:
        records: raw records taken so far.
        at_end: called when there are no more.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch], settings: Settings) -> None:
        schema = settings.schema_of_model
        self.records = 0
        self.at_end: Callable[[], None] = lambda: None
        self._target = schema.target
        self._stage = NormalizerStage(schema, settings.normalizer)
        self._state = self._stage.initial()
        self._store = MemoryStore()
        logs = {name: columns for name, columns in self._stage.outputs.items() if name not in REPLAYED}
        self._logs = {name: self._store.log(name, columns) for name, columns in logs.items()}
        self._logs["events"] = self._store.log("events", events.SCHEMA)
        self._told = _Told("normalizer")
        self._kept_rows = settings.trainer.window_rows
        self._batches = _in_order(
            _numbered(_cut(batches, settings.normalizer.batch_rows)), schema.timestamp, settings.normalizer
        )

    def log(self, name: str) -> OwnedLog:
        """One of its logs."""
        return self._logs[name]

    def explaining(self) -> tuple[OwnedLog, OwnedLog]:
        """The logs that tell what numbers and codes mean."""
        return self._store.log("scalers", SCALERS), self._store.log("categories", CATEGORIES)

    def records_until(self, offset: int) -> int:
        """Raw records up to a row of `normalized`; all of them when it is the last row."""
        return self.records - (self._logs["normalized"].bounds().next - 1 - offset)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """See `Source.read`."""
        part = self._logs["normalized"].read(after, limit, wait_s, back)
        while not part.batch.num_rows and self._advance(part.next):
            part = self._logs["normalized"].read(part.next, limit, wait_s)
        if not part.batch.num_rows:
            self.at_end()
        return part

    def coming(self, offset: int, labelled: int) -> pa.RecordBatch | None:
        """The next so many labelled rows behind one, made before they are read; None where they are not among `READ_ROWS`."""
        log, passed = self._logs["normalized"], self._logs["normalized"].cursor(offset)
        while True:
            rows = log.read(passed, READ_ROWS).batch
            known = kept(rows, rows.column(self._target).is_valid())
            if known.num_rows >= labelled:
                return known.slice(0, labelled)
            if rows.num_rows == READ_ROWS or not self._advance(passed):
                return None

    def _advance(self, passed: str) -> bool:
        """Take the next batch, and let go what the learner has passed; whether there was one."""
        batch = next(self._batches, None)
        if batch is None:
            return False
        step = self._stage.step(self._state, batch)
        for name, rows in step.outputs.items():
            if name in self._logs:
                self._logs[name].append(rows)
        if step.events:
            self._logs["events"].append(self._told.rows(step.events))
        self._state = step.state
        self.records += batch.num_rows
        self._logs["normalized"].register("trainer", passed, self._kept_rows)
        self._logs["normalized"].trim(Policy(rows=self._kept_rows), time.time())
        return True


class _Told(Events):
    """Keeps events and prints none: the result has them all."""

    def announce(self, event: Event) -> None:
        """Count it. See `Events.announce`."""
        self.counts[event.kind] += 1


def _cut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The batches in pieces of at most `rows` rows; empty ones are left out."""
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches with the column `offset`, as the log `raw` would have them."""
    first = 1
    for batch in batches:
        yield with_offsets(batch, first)
        first += batch.num_rows


def _in_order(batches: Iterator[pa.RecordBatch], timestamp: str | None, settings: Normalizer) -> Iterator[pa.RecordBatch]:
    """The records as `[normalizer] lateness_s` lets them go on; what waits at the end of the stream comes last."""
    rule, mark, waiting = Rule.of(settings), Mark(), None
    if timestamp is None or not rule.lateness_us:
        yield from batches
        return
    for batch in batches:
        done = advance(mark, Waiting.none(batch.schema) if waiting is None else waiting, batch, timestamp, rule)
        mark, waiting = done.mark, done.waiting
        yield from (rows for rows in (done.rows,) if rows.num_rows)
    if waiting is not None and len(waiting):
        yield flush(mark, waiting, USUAL).rows


def _all(log: OwnedLog) -> pa.Table:
    """All rows of a log, without their offsets."""
    parts = []
    part = log.read(None, READ_ROWS)
    while part.batch.num_rows:
        parts.append(part.batch.select(log.schema.names))
        part = log.read(part.next, READ_ROWS)
    return pa.Table.from_batches(parts, schema=log.schema)


def _peak_memory_bytes() -> int:
    """Of this process, and of the largest child that has ended."""
    try:
        import resource
    except ImportError:  # Windows, which tells of this process alone
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
