"""The label ledger: records as they arrive, and the truth that comes for them later, as one stream.

    normalized --\\
    outcomes   ---> [Ledger] --> LearnerStage --> labels, evaluations     (one commit, with the ledger's cursor)
    predictions -/       ^                          |
                         +--------------------------+ which outcomes were taken, and between which records

A batch has the columns of `normalized` and those of `labels.ADDED`. An arriving record has nulls in the latter. A row
for an outcome has its `label_offset`, and `offset` is that of the last record before it; so offsets never decrease, and
the last one of a batch says how far `normalized` was read. What becomes of outcomes is told in `labels`.

An id means the last record with it; where there is none, the last prediction. A prediction stands for what was asked:
its row has those features, expressed like the last record, and the answer that was given. A record's answer is the
stage's own, made when the record arrived. An outcome that comes after an answer but before the record of the
same id belongs to the answer. Ids that are used again name something new.

Invariants:
- The cursor together with the logs says all: a restarted ledger takes every further outcome as one that was never
  stopped. For this the stage must commit `labels.label_rows` of each batch together with the ledger's cursor.
- Which outcome falls between which records is decided once, when they are read, and is then known by the log `labels`.
- Every outcome is taken once, in the order of its log, and has an effect that is counted.
- Memory is bounded by the horizon, whatever comes. Arrivals are not looked at one by one.
- Horizons are counted in records, not in seconds: only `delay_s` depends on the clock.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from correnteza.errors import LogError, LogUnavailableError, OffsetRemovedError
from correnteza.events import Events
from correnteza.log.base import OwnedLog, Slice, traces_of
from correnteza.records import ID, MAGNITUDE_LIMIT, OFFSET, Schema
from correnteza.stage import Source
from correnteza.trainer.examples import Examples
from correnteza.trainer.labels import EXPIRED, LEARNED, Effect, Taken
from correnteza.trainer.past import Past
from correnteza.trainer.place import Place, labels_from, owned_rows, records_until
from correnteza.trainer.recent import Marks, Recent
from correnteza.trainer.upstream import Upstream

HORIZON_ROWS = 100_000
EARLY_ROWS = 10_000
"""Outcomes that may wait for their record or prediction at a time; the oldest of more are unknown."""
DELAYS = 1000
"""Joins that the delay's median and 95th percentile are taken from."""


@dataclass(frozen=True, slots=True)
class _Item:
    """What an id stands for: a row of `normalized` or one of `predictions`, its own target, when it was first seen."""

    of_offset: int | None
    prediction_offset: int | None
    target: float | None
    at_s: float | None


class Ledger:
    """A source for the learner's runner. For one thread; `figures` may be looked at from any.

    Args:
        upstream: the normalizer's logs.
        outcomes: the generator's log `outcomes`.
        predictions: the trainer's log `predictions`.
        labels: the trainer's log `labels`, to which the stage's commits append.
        schema: of the records.
        told: where it is told that outcomes were lost.
        horizon_rows: for how many further records a record waits for its outcome, and an outcome for its record; and
            how many predictions are remembered.
        clock: Unix time in seconds, for `delay_s`.

    Attributes:
        figures: open records, their share, waiting outcomes, label delay, counts by effect; plain values.
    """

    def __init__(
        self,
        upstream: Upstream,
        outcomes: Source,
        predictions: OwnedLog,
        labels: OwnedLog,
        schema: Schema,
        told: Events,
        horizon_rows: int = HORIZON_ROWS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.figures: dict[str, Any] = {}
        self._upstream = upstream
        self._outcomes = outcomes
        self._predictions = predictions
        self._labels = labels
        self._schema = schema
        self._told = told
        self._horizon = horizon_rows
        self._clock = clock
        self._at: str | None = None  # the cursor that memory belongs to; None when it must be made anew
        self._past = Past(upstream, predictions, labels, schema)
        self._gap = False
        self._lag_rows = 0
        self._clear(Place())

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """Up to `limit` rows behind a cursor: records, then outcomes. See `Log.read`.

        Args:
            after: the cursor that was committed last, or None.
            limit: most rows.
            wait_s: how long to wait for a record when there is no outcome either.
            back: must be 0; `past` reads what was.

        Raises:
            CursorError: the cursor is not one of the ledger.
            LogError: the log `labels` does not end where the cursor says.
            OffsetRemovedError: records were removed by retention before they were read.
            LogUnavailableError: try again later.
        """
        if back:
            raise LogError(f"ledger: back = {back}: the ledger reads on only; use Ledger.past for what it has read before")
        self._go_to(after)
        limit = min(limit, max(2, self._horizon // 2))  # a backlog is no reason for a record to expire beside its outcome
        share = (limit + (self._place.offset + self._place.labels) % 2) // 2  # neither log waits for the other's end
        ready = self._ready()[:share]
        news = self._news(share - len(ready))
        labelled = len(ready) + (0 if news is None else news.batch.num_rows)
        arrivals = self._arrivals(limit - labelled, 0.0 if labelled else wait_s) if labelled < limit else None
        self._at = None  # whoever fails from here on leaves memory half changed
        batch = self._advance(ready, news, arrivals)
        self._at = self._place.text()
        return Slice(batch, self._at, self._lag_rows + (0 if news is None else news.lag_rows), traces_of(arrivals, news))

    def past(self, after: str | None, rows: int) -> Iterator[pa.RecordBatch]:
        """What was read up to a cursor, once more and in the same order.

        Args:
            after: a cursor that was committed.
            rows: with how many records before it to begin; outcomes that were taken before the first are left out.

        An outcome whose record or prediction its log no longer keeps is left out.
        """
        return self._past.rows(Place() if after is None else Place.of(after), rows)

    # Going on, and going back to a cursor

    def _go_to(self, after: str | None) -> None:
        """Have memory be that of a cursor."""
        if after is not None and after == self._at:
            return
        if after is None and self._gap:  # the reader goes on behind records that were removed
            self._gap, self._place.rows = False, None
            return
        place = Place() if after is None else Place.of(after)
        there = self._labels.bounds().next - 1
        if there != place.labels:
            raise LogError(
                f"ledger: the log labels has {there} rows where its cursor says {place.labels}; "
                "the stage must commit label_rows of each batch together with the cursor"
            )
        self._at = None
        self._clear(place)
        for records in records_until(self._upstream, place, 2 * self._horizon):
            self._remember(records)
        first = max(1, place.predictions - self._horizon + 1)
        for predictions in owned_rows(self._predictions, first, place.predictions):
            self._examples.predictions.add(predictions)
        for number, one in labels_from(self._labels, place.since, place.labels):
            self._keep(one, number)
        self._forget()
        self._look()
        self._at = after

    def _clear(self, place: Place) -> None:
        self._place = place
        self._seen = Recent(ID, 2 * self._horizon)
        self._examples = Examples(self._upstream, self._schema, self._horizon)
        self._marks = Marks(place.marks)
        self._waiting: dict[str, tuple[Taken, int]] = {}  # by id, with its place in `labels`; oldest first
        self._settled: dict[str, tuple[Taken, int]] = {}  # what was joined last, likewise
        self._closed: set[int] = set()
        self._delays_s: deque[float] = deque(maxlen=DELAYS)

    # Reading

    def _news(self, limit: int) -> Slice | None:
        """The next outcomes; no more than may wait while there are records that they may belong to."""
        if self._lag_rows:
            limit = min(limit, EARLY_ROWS - len(self._waiting))
        if limit <= 0:
            return None
        try:
            return self._outcomes.read(self._place.outcomes, limit)
        except OffsetRemovedError as error:
            self._told.emit("gap", f"outcomes were removed before they were read: {error}", first=error.first)
            return self._outcomes.read(None, limit)
        except LogUnavailableError:
            return None  # records do not wait for the service that has the outcomes; these come when it is back

    def _arrivals(self, limit: int, wait_s: float) -> Slice:
        try:
            return self._upstream.read(self._place.rows, limit, wait_s)
        except OffsetRemovedError:
            self._gap = True
            raise

    def _advance(self, ready: Sequence[str], news: Slice | None, arrivals: Slice | None) -> pa.RecordBatch:
        """Take what was read into memory, and make the rows of it."""
        if arrivals is not None:
            self._lag_rows, self._place.rows = arrivals.lag_rows, arrivals.next
            self._arrive(arrivals.batch)
        taken = self._settle(ready)
        if news is not None:
            self._place.outcomes = news.next
            taken += self._take(news.batch)
        batch = self._examples.rows(None if arrivals is None else arrivals.batch, taken)
        self._forget()
        self._look()
        return batch

    def _arrive(self, rows: pa.RecordBatch) -> None:
        if not rows.num_rows:
            return
        last = rows[OFFSET][-1].as_py()
        self._remember(rows)
        left = set(self._examples.records.between(self._place.offset - self._horizon, last - self._horizon).tolist())
        self._place.count(EXPIRED, len(left - self._closed))
        self._closed -= left
        self._place.offset = last
        self._marks.add(last, self._clock())
        self._forget()

    def _remember(self, rows: pa.RecordBatch) -> None:
        """Records by id, twice as far back as the horizon, so that a late outcome is told from an unknown one."""
        columns = rows.select([OFFSET, ID, self._schema.target])
        self._seen.add(columns.take(pa.array(np.arange(rows.num_rows))))  # a copy, which lets the other columns go
        self._examples.arrive(rows)

    # What becomes of outcomes

    def _take(self, news: pa.RecordBatch) -> list[Taken]:
        """New outcomes."""
        ids, targets = news[ID].to_pylist(), news["target"].to_pylist()
        found = self._find([one for one in ids if one])
        taken = []
        for offset, key, target in zip(news[OFFSET].to_pylist(), ids, targets, strict=True):
            taken.append(self._judged(offset, key, target, found))
            self._note(taken[-1])
        return taken

    def _settle(self, ready: Sequence[str]) -> list[Taken]:
        """Outcomes that have waited."""
        found = self._find(ready)
        taken = []
        for key in ready:
            early = self._waiting.pop(key)[0]
            one = self._judged(early.label_offset, key, early.target, found)
            taken.append(replace(one, effect="unknown") if one.effect == "early" else one)
            self._note(taken[-1])
        return taken

    def _ready(self) -> list[str]:
        """Ids of outcomes that need wait no longer: found, beyond the horizon, or too many."""
        if not self._waiting:
            return []
        found = self._find(list(self._waiting))
        too_many = 0 if self._lag_rows else len(self._waiting) - EARLY_ROWS
        floor = self._place.offset - self._horizon
        waiting = enumerate(self._waiting.items())
        return [key for i, (key, (one, _)) in waiting if i < too_many or one.read_offset <= floor or key in found]

    def _judged(self, offset: int, key: str | None, target: float | None, found: dict[str, _Item]) -> Taken:
        """What becomes of one outcome."""
        if not key or target is None or not math.isfinite(target) or abs(target) > MAGNITUDE_LIMIT:
            return Taken(offset, key, None, "invalid", self._place.offset)
        taken = Taken(offset, key, target, "early", self._place.offset)
        known = self._settled[key][0] if key in self._settled else None
        item = found.get(key)
        if item is not None:
            return self._judged_for(replace(taken, of_offset=item.of_offset, prediction_offset=item.prediction_offset), item)
        if known is not None:  # of a prediction that is forgotten
            return replace(taken, effect="duplicate" if known.target == target else "late")
        if key in self._waiting:
            waiting = self._waiting[key][0]
            same = waiting.target == target
            return replace(taken, effect="duplicate") if same else replace(taken, replaces=waiting.label_offset)
        return taken

    def _judged_for(self, taken: Taken, item: _Item) -> Taken:
        """What becomes of an outcome whose record or prediction is known."""
        if item.of_offset is not None and item.of_offset <= self._place.offset - self._horizon:
            return replace(taken, effect="late")
        if item.target is not None:
            return replace(taken, effect="duplicate" if item.target == taken.target else "contradictory")
        known = self._settled[taken.id][0] if taken.id in self._settled else None
        effect: Effect = "joined"
        if known is not None and known.item == taken.item:
            if known.target == taken.target:
                return replace(taken, effect="duplicate")
            effect = "corrected"
        delay_s = None if item.at_s is None else max(0.0, self._clock() - item.at_s)
        replaces = known.label_offset if known is not None and effect == "corrected" else None
        return replace(taken, effect=effect, delay_s=delay_s, replaces=replaces)

    def _find(self, ids: Sequence[str]) -> dict[str, _Item]:
        """What ids stand for; unknown ones are left out."""
        records = self._seen.find(ids, self._place.offset - 2 * self._horizon)
        found = {}
        if records:
            rows, _ = self._seen.take(list(records.values()))
            targets = rows[self._schema.target].to_pylist() if rows is not None else []
            for (key, offset), target in zip(records.items(), targets, strict=True):
                found[key] = _Item(offset, None, target, self._marks.at(offset))
        others = [key for key in ids if key not in found]
        return found | self._find_predictions(others) if others and self._place.offset else found

    def _find_predictions(self, ids: Sequence[str]) -> dict[str, _Item]:
        self._follow_predictions()
        offsets = self._examples.predictions.find(ids, self._place.predictions - self._horizon)
        rows, _ = self._examples.predictions.take(list(offsets.values()))
        if rows is None:
            return {}
        times_us = rows["at"].cast(pa.int64()).to_pylist()
        return {key: _Item(None, o, None, us / 1e6) for (key, o), us in zip(offsets.items(), times_us, strict=True)}

    def _follow_predictions(self) -> None:
        """Read on in `predictions`; only when an outcome asks for it, so few are read where few are asked for."""
        end = self._predictions.bounds().next - 1
        for part in owned_rows(self._predictions, max(self._place.predictions, end - self._horizon) + 1, end):
            self._examples.predictions.add(part)
            self._place.predictions = part[OFFSET][-1].as_py()

    def _note(self, one: Taken) -> None:
        self._place.labels += 1
        self._place.count(one.effect, 1)
        self._keep(one, self._place.labels)

    def _keep(self, one: Taken, number: int) -> None:
        """Remember what became of an outcome, the row `number` of `labels`."""
        if one.id is None:
            return
        if one.id in self._waiting and self._waiting[one.id][0].label_offset in (one.label_offset, one.replaces):
            del self._waiting[one.id]
        if one.effect == "early":
            self._waiting[one.id] = (one, number)
        elif one.effect in LEARNED:
            self._settled.pop(one.id, None)
            self._settled[one.id] = (one, number)
            if one.of_offset is not None and one.of_offset > self._place.offset - self._horizon:
                self._closed.add(one.of_offset)
        if one.effect == "joined" and one.delay_s is not None:
            self._delays_s.append(one.delay_s)

    def _forget(self) -> None:
        """Let go what lies behind the horizon."""
        place, floor = self._place, self._place.offset - self._horizon
        self._examples.records.forget(floor)
        self._seen.forget(floor - self._horizon)
        self._examples.predictions.forget(place.predictions - self._horizon)
        self._marks.forget(floor)
        while self._settled:
            key, (oldest, _) = next(iter(self._settled.items()))
            if oldest.read_offset > floor and len(self._settled) <= 2 * self._horizon:
                break
            del self._settled[key]
        oldest_numbers = [number for some in (self._settled, self._waiting) for _, number in islice(some.values(), 1)]
        place.since = min([*oldest_numbers, max(1, place.labels - DELAYS + 1)])
        place.marks = self._marks.plain()

    def _look(self) -> None:
        """Make the figures."""
        unlabelled = self._examples.records.rows_above(self._place.offset - self._horizon)
        still_open = unlabelled - len(self._closed)
        delays_s = np.array(self._delays_s)
        median_s, p95_s = np.quantile(delays_s, (0.5, 0.95)).tolist() if len(delays_s) else (None, None)
        self.figures = {
            "open": still_open,
            "open_share": still_open / unlabelled if unlabelled else None,
            "waiting": len(self._waiting),
            "delay_median_s": median_s,
            "delay_p95_s": p95_s,
            "effects": dict(self._place.counts),
        }
