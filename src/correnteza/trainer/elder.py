"""The version that was in service when the definitions of features were changed: it answers until the new lineage is not worse.

    evaluations of the lineage before --\\
    evaluations of the new lineage -------> same records, both predicted before they were learned from: whose error is less?

Invariants:
- It answers with its own definitions. What it remembers is what the lineage before had read when it ended; that
  memory does not go on, and `/status` says how old it is.
- Both lineages are compared on the same records, the last ones that the old one had labels for.
- What is stored of its answers are the features of the new lineage, which is the one that learns from them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import lineages
from correnteza.config import Settings
from correnteza.definition import Feature
from correnteza.errors import NoModelError
from correnteza.events import Events
from correnteza.lineages import Lineage
from correnteza.log.base import OwnedLog, Slice
from correnteza.log.sql import SqlStore
from correnteza.memory import entries, snapshots
from correnteza.records import Schema
from correnteza.trainer import evaluation, prequential
from correnteza.trainer.champion import Follower
from correnteza.trainer.deriving import Deriving
from correnteza.trainer.following import Following, limits_of
from correnteza.trainer.predict import Serving
from correnteza.trainer.promotions import PROMOTIONS
from correnteza.trainer.questions import Question
from correnteza.trainer.registry import Registry, load_key

READ_ROWS = 20_000
MOST_MISSING = 0.1
"""Share of the old lineage's records that the new one need not have: the window of one that began anew is filled first."""


class Elder:
    """The version of the lineage before. For one thread, except that anybody may call what `serving` holds.

    Args:
        settings: of the pipeline.
        before: the lineage before.
        evaluations: the log of the new one.
        complete: adds its features to a question.
        told: where it is told who serves, and why.

    Attributes:
        serving: what requests are answered with; None when the new lineage has taken over, or there was no version.
        reason: for `/status`.
    """

    def __init__(
        self,
        settings: Settings,
        before: Lineage,
        evaluations: OwnedLog,
        complete: Callable[[Question], Question],
        told: Events,
    ) -> None:
        self._settings = settings
        self._before = before
        self._complete = complete
        self._told = told
        derived = tuple(Feature.from_dict(one) for one in before.definitions)
        schema = settings.schema_of_records.with_derived(derived)
        last, self.serving = self._opened(schema)
        self._errors = {} if last is None else errors_of(last)
        self._own = Errors(evaluations, self._errors)
        self.reason = "" if self.serving is None else f"version {self.serving.version} of lineage {self._before.number} answers"

    def _opened(self, schema: Schema) -> tuple[pa.RecordBatch | None, Serving | None]:
        """The last evaluations of the lineage before, and its version in service."""
        folder, rows = self._before.folder, self._settings.trainer.metric_rows
        if not (folder / "trainer.db").exists():
            return None, None
        store = SqlStore(folder / "trainer.db")
        try:
            registry = Registry(folder / "models", store, load_key(folder))
            follower = Follower(schema, registry, store.log("promotions", PROMOTIONS, bounded=False), self._told)
            follower.look()
            last = evaluation.last_rows(store.log(prequential.LOG, evaluation.EVALUATIONS), rows)
        finally:
            store.close()
        champion = follower.champion
        if champion is None:
            return last, None
        multiplier = evaluation.report(last).multiplier
        return last, Serving(champion.version, champion.predictor, multiplier, self._completing(schema))

    def _completing(self, schema: Schema) -> Callable[[Question], Question]:
        """Adds the features of the lineage before, and to what is stored those of the new one."""
        if not schema.derived:
            return lambda asked: self._both(asked, asked)
        deriving = Deriving(schema, self._memory(schema))
        return lambda asked: self._both(asked, deriving.complete(asked))

    def _memory(self, schema: Schema) -> Following:
        """What the lineage before remembered when it ended."""
        store = SqlStore(self._before.folder / "normalizer.db")
        try:
            log = store.log(entries.LOG, entries.log_schema(schema), bounded=False)
            kept = store.log(snapshots.LOG, snapshots.SCHEMA, bounded=False)
            memory = Following(schema, limits_of(self._settings), log, _Last(log, kept), self._told)
            memory.tick()
            return memory
        finally:
            store.close()

    def _both(self, asked: Question, completed: Question) -> Question:
        """What the old version is asked, with what the new lineage derives to be stored."""
        try:
            derived = self._complete(asked).derived
        except NoModelError:
            derived = ()
        return replace(completed, derived=derived)

    def look(self, ready: bool, pinned: bool) -> bool:
        """Whether the new lineage has taken over.

        Args:
            ready: whether it has a version.
            pinned: whether that was put into service by hand.
        """
        if self.serving is None:
            return self._step_down("the lineage before had no version")
        if ready and pinned:
            return self._step_down("a version was promoted by hand")
        if not ready or not self._own.level():
            return False
        old, new = self._own.compared()
        if old is None or new is None:
            return self._step_down("no record has an error of both lineages, so they cannot be compared")
        figures = f"MAE {new:.6g} against {old:.6g} on the same {self._own.common} records"
        if new <= old:
            return self._step_down(f"it is not worse: {figures}")
        if not self._own.told:
            self._own.told = True
            self.reason += f": the new lineage is worse, {figures}; promote one of its versions by hand to let it take over"
            self._told.emit("lineage_worse", self.reason, before=self._before.number)
        return False

    def _step_down(self, reason: str) -> bool:
        lineages.take_over(self._settings, reason)
        self._told.emit("lineage_took_over", f"the new lineage takes over from lineage {self._before.number}: {reason}")
        self.serving, self.reason = None, ""
        return True


class Errors:
    """The new lineage's errors on the records that the old one was judged on.

    Args:
        log: the new lineage's `evaluations`.
        old: absolute errors of the old one by raw offset.
    """

    def __init__(self, log: OwnedLog, old: dict[int, float]) -> None:
        self.told = False
        self._log = log
        self._old = old
        self._last = max(old, default=0)
        self._new: dict[int, float] = {}
        self._position: str | None = log.cursor(log.bounds().first - 1)
        self._reached = 0

    @property
    def common(self) -> int:
        """Records with an error of both."""
        return len(self._new)

    def level(self) -> bool:
        """Read on; whether the new lineage has passed all those records."""
        while True:
            part = self._log.read(self._position, READ_ROWS)
            self._position = part.next
            if part.batch.num_rows:
                self._reached = max(self._reached, pc.max(part.batch["raw_offset"]).as_py() or 0)
                self._new |= {at: error for at, error in errors_of(part.batch).items() if at in self._old}
            if not part.lag_rows:
                break
        complete = len(self._new) >= (1 - MOST_MISSING) * len(self._old)
        return self._reached >= self._last and (complete or self._reached >= self._last + len(self._old))

    def compared(self) -> tuple[float | None, float | None]:
        """Mean absolute errors of the old and the new lineage on the records that have both."""
        if not self._new:
            return None, None
        return float(np.mean([self._old[at] for at in self._new])), float(np.mean(list(self._new.values())))


def errors_of(rows: pa.RecordBatch) -> dict[int, float]:
    """Absolute errors of records by raw offset, from rows of `evaluations`; the last one of each."""
    known = pc.and_(rows["target"].is_valid(), pc.and_(rows["prediction"].is_valid(), rows["normalized_offset"].is_valid()))
    rows = rows.filter(known)
    errors = pc.abs(pc.subtract(rows["prediction"], rows["target"]))
    return dict(zip(rows["raw_offset"].to_pylist(), errors.to_pylist(), strict=True))


class _Last:
    """The last snapshot of a store, as `GET /memory/snapshot` answers."""

    def __init__(self, log: OwnedLog, kept: OwnedLog) -> None:
        self._log = log
        self._kept = kept

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002 - as `Log.read`
        rows = snapshots.last(self._kept)
        offset = rows["memory_offset"][0].as_py() if rows.num_rows else 0
        return Slice(rows, self._log.cursor(offset), self._log.bounds().next - 1 - offset)
