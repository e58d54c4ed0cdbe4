"""Putting records that come late back into the order of their event time, as far as a bound on lateness allows.

The watermark is the highest event time so far minus the lateness. A record waits until the watermark has reached its own
time; those that it has reached go on in the order of their times, and of their offsets where times are equal.

Invariants:
- What goes on, and in which order, is a function of the records alone, not of the batches that they came in.
- A record that waits has a time above the watermark, and none above the highest time. Of two records that waited, the
  earlier goes first.
- At most `reorder_rows` records wait: beyond that the watermark moves on to the time of the earliest.
- A time that is further than `future_us` from the highest one does not move the watermark. After `FAR_ROWS` of them in a
  row the stream is taken at its word: what waits goes on, and the order begins anew at the lowest of them.
- No clock is read here.

Times are Unix time in microseconds.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import config
from correnteza.features import Ints
from correnteza.records import OFFSET, as_batch

Mask = npt.NDArray[np.bool_]

NEVER = -(2**62)
"""A time before all others; for "there is none yet"."""
FARTHEST = 2**61
"""Times are cut to this, so that differences are exact. The year 9999 is far below it."""
FAR_ROWS = 100
"""So many far times in a row are no mistake of one sender."""
CHUNKS = 64
SECOND_US = 1_000_000

ORDER, APART = "#order", "#apart_us"
"""Columns that are added: what was out of the ordinary with a record (null: nothing), and how far off its time was."""
USUAL, LATE, AHEAD, ANEW, FULL, FLUSHED = range(6)
KINDS = pa.array([None, "late", "ahead", "anew", "full", "flushed"], pa.string())
"""Behind the watermark; far ahead; so often far that the order began anew; went early because too many waited; because
nothing came for a while."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides the order.

    Args:
        lateness_us: how late a record may be and still find its place; 0 leaves all records as they came.
        future_us: how far from the highest time a time is believed; at least `lateness_us`.
        reorder_rows: most records that wait.
    """

    lateness_us: int
    future_us: int
    reorder_rows: int

    @classmethod
    def of(cls, settings: config.Normalizer) -> Rule:
        """The rule that the section `[normalizer]` describes."""
        return cls(round(settings.lateness_s * SECOND_US), round(settings.future_s * SECOND_US), settings.reorder_rows)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the order stands.

    Args:
        offset: of the last record that was taken in.
        highest: the highest time so far.
        watermark: records up to this time have gone on.
        far_rows: far times in a row, up to the last record with a time.
        far_lowest: the lowest of them.
    """

    offset: int = 0
    highest: int = NEVER
    watermark: int = NEVER
    far_rows: int = 0
    far_lowest: int = NEVER


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """The records that wait.

    Args:
        table: has them, and others that have gone on.
        places: their rows in the table, shape [waiting].
        times: theirs, shape [waiting].
        offsets: theirs, shape [waiting].
    """

    table: pa.Table
    places: Ints
    times: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def none(cls, schema: pa.Schema) -> Waiting:
        """No records of a schema, which has the column `offset`."""
        nothing = np.empty(0, np.int64)
        return cls(schema.empty_table(), nothing, nothing, nothing)

    @property
    def first(self) -> int:
        """The lowest offset; 0 when none waits."""
        return int(self.offsets.min()) if len(self) else 0

    def tidy(self) -> Waiting:
        """The same, without most of what has gone on; each record is copied few times, however small the batches are."""
        if self.table.num_rows <= 2 * len(self) + 1024 and self.table.column(0).num_chunks <= CHUNKS:
            return self
        kept = self.table.take(pa.array(self.places)).combine_chunks()
        return replace(self, table=kept, places=np.arange(len(self)))


@dataclass(frozen=True, slots=True)
class Ordered:
    """What became of some records.

    Args:
        mark: where the order stands behind them.
        waiting: what waits then.
        rows: what goes on, with the columns `ORDER` and `APART`.
    """

    mark: Mark
    waiting: Waiting
    rows: pa.RecordBatch


def times_of(batch: pa.RecordBatch, timestamp: str) -> tuple[Ints, Mask]:
    """Event times, 0 where missing, and which records have one."""
    column = batch.column(timestamp)
    micros = pc.fill_null(column.cast(pa.int64()), 0).to_numpy()
    return np.clip(micros, -FARTHEST, FARTHEST), column.is_valid().to_numpy(zero_copy_only=False)


def advance(mark: Mark, waiting: Waiting, batch: pa.RecordBatch, timestamp: str, rule: Rule) -> Ordered:
    """Take the next records in, and let go what the watermark reaches.

    Args:
        mark: where the order stands before them.
        waiting: what waits then.
        batch: at least one record, with the column `offset` in front.
        timestamp: name of the event time.
        rule: what decides.

    >>> rows = {"offset": [1, 2, 3, 4], "at": [10, 30, 20, 45]}
    >>> batch = pa.RecordBatch.from_pydict(rows, pa.schema([("offset", pa.int64()), ("at", pa.timestamp("us"))]))
    >>> done = advance(Mark(), Waiting.none(batch.schema), batch, "at", Rule(15, 1000, 10))
    >>> done.rows["offset"].to_pylist(), done.waiting.offsets.tolist(), done.mark.watermark
    ([1, 3, 2], [4], 30)
    """
    if not rule.lateness_us:
        rows = noted(batch, np.zeros(batch.num_rows, np.int64), np.zeros(batch.num_rows, np.int64))
        return Ordered(replace(mark, offset=batch.column(OFFSET)[-1].as_py()), waiting, rows)
    times, dated = times_of(batch, timestamp)
    parts: list[pa.RecordBatch] = []
    begin = 0
    while begin < batch.num_rows:
        path = _path(mark, times[begin:], dated[begin:], rule)
        end = begin + len(path.after)
        done = _ordered(mark, waiting, batch.slice(begin, end - begin), times[begin:end], dated[begin:end], path, rule)
        parts.append(done.rows)
        if path.anew is not None:
            done = flush(done.mark, done.waiting, USUAL)
            parts.append(done.rows)
            done = replace(done, mark=Mark(done.mark.offset, path.anew, path.anew - rule.lateness_us))
        mark, waiting, begin = done.mark, done.waiting, end
    return Ordered(mark, waiting.tidy(), parts[0] if len(parts) == 1 else pa.concat_batches(parts))


def flush(mark: Mark, waiting: Waiting, kind: int = FLUSHED) -> Ordered:
    """Let go all that waits; what comes later with a time below the highest is late."""
    order = np.lexsort((waiting.offsets, waiting.times))
    rows = as_batch(waiting.table.take(pa.array(waiting.places[order])), waiting.table.schema)
    apart = waiting.times[order] - mark.watermark
    ended = replace(mark, watermark=max(mark.watermark, mark.highest))
    return Ordered(ended, Waiting.none(waiting.table.schema), noted(rows, np.full(len(order), kind), apart))


def recalled(waiting: Waiting, batch: pa.RecordBatch, timestamp: str, mark: Mark, first: int) -> Waiting:
    """What waited at a mark, of records that are read again; in their order, in several calls if need be.

    Args:
        waiting: what was found before.
        batch: records, with the column `offset` in front.
        timestamp: name of the event time.
        mark: the mark.
        first: the lowest offset that waited.
    """
    times, dated = times_of(batch, timestamp)
    offsets = batch.column(OFFSET).to_numpy()
    waits = dated & (offsets >= first) & (offsets <= mark.offset) & (times > mark.watermark) & (times <= mark.highest)
    kept = batch.filter(pa.array(waits))
    places = np.append(waiting.places, waiting.table.num_rows + np.arange(kept.num_rows))
    table = pa.concat_tables([waiting.table, pa.Table.from_batches([kept])])
    return Waiting(table, places, np.append(waiting.times, times[waits]), np.append(waiting.offsets, offsets[waits]))


def noted(batch: pa.RecordBatch, kinds: Ints, apart: Ints) -> pa.RecordBatch:
    """Records with the two columns that say what was out of the ordinary with them."""
    columns = [KINDS.take(pa.array(kinds)), pa.array(apart, pa.int64(), mask=kinds == USUAL)]
    return pa.RecordBatch.from_arrays([*batch.columns, *columns], names=[*batch.schema.names, ORDER, APART])


@dataclass(frozen=True, slots=True)
class _Path:
    """The highest time before and after each record, shape [records], and which times are far from it.

    Args:
        far_rows: far times in a row, at the end.
        far_lowest: the lowest of them.
        anew: the highest time from which the order begins anew behind the last record; None when it goes on.
    """

    before: Ints
    after: Ints
    far: Mask
    far_rows: int
    far_lowest: int
    anew: int | None = None


def _path(mark: Mark, times: Ints, dated: Mask, rule: Rule) -> _Path:
    """How the highest time goes, up to a record behind which the order begins anew."""
    start = mark.highest
    if start == NEVER and dated.any():
        start = int(times[np.argmax(dated)])
    highest = np.maximum.accumulate(np.append(start, np.where(dated, times, NEVER)))
    far = dated & (np.abs(times - highest[:-1]) > rule.future_us)
    if far.any():
        return _walk(mark, start, times, dated, rule)
    run = (0, NEVER) if dated.any() else (mark.far_rows, mark.far_lowest)
    return _Path(highest[:-1], highest[1:], far, *run)


def _walk(mark: Mark, highest: int, times: Ints, dated: Mask, rule: Rule) -> _Path:
    """The same, record by record, where some time is far."""
    before, after, far = [], [], []
    rows, lowest, anew = mark.far_rows, mark.far_lowest, None
    for time, known in zip(times.tolist(), dated.tolist(), strict=True):
        before.append(highest)
        far.append(known and abs(time - highest) > rule.future_us)
        if far[-1]:
            rows, lowest = rows + 1, min(lowest, time) if rows else time
        elif known:
            rows, lowest, highest = 0, NEVER, max(highest, time)
        after.append(highest)
        if rows == FAR_ROWS:
            anew = lowest
            break
    return _Path(np.array(before), np.array(after), np.array(far), rows, lowest, anew)


def _ordered(mark: Mark, waiting: Waiting, batch: pa.RecordBatch, times: Ints, dated: Mask, path: _Path, rule: Rule) -> Ordered:
    """Order records none of which begins anew but the last."""
    rows, reached = len(times), path.after - rule.lateness_us
    near = dated & ~(path.far & (times > path.before))
    watermark = np.maximum(reached, mark.watermark)
    waits, gone = _release(waiting, times, near, watermark, mark.watermark)
    if _most(len(waiting), waits, gone) > rule.reorder_rows:
        full = _pushed_out(waiting.times, times, near, rule.reorder_rows)
        watermark = np.maximum(watermark, full)
        waits, gone = _release(waiting, times, near, watermark, mark.watermark)
    level = np.append(mark.watermark, watermark[:-1])
    kinds = np.where(dated & (times < level), LATE, np.where(dated & ~near, AHEAD, USUAL))
    if path.anew is not None:
        kinds[-1] = ANEW
    apart = np.where(kinds == LATE, level, path.before)
    # All records, those that waited first: when each goes (after which record), and what is noted of it.
    when = np.append(gone[: len(waiting)], np.arange(rows))
    when[len(waiting) + np.flatnonzero(waits)] = gone[len(waiting) :]
    all_times = np.append(waiting.times, times)
    kinds, apart = np.append(np.zeros(len(waiting), np.int64), kinds), np.append(waiting.times, apart)
    due = np.append(reached, FARTHEST)[when]  # what waits on has time
    early = (all_times > due) & np.append(np.ones(len(waiting), bool), waits & (times > level))
    kinds[early], apart[early] = FULL, due[early]
    return _parted(waiting, batch, when, all_times, kinds, np.abs(all_times - apart), watermark, path)


def _release(waiting: Waiting, times: Ints, near: Mask, watermark: Ints, level: int) -> tuple[Mask, Ints]:
    """Which records are in time, and after which record each that waits or is in time goes; the count if it stays."""
    waits = near & (times >= np.append(level, watermark[:-1]))
    all_times = np.append(waiting.times, times[waits])
    gone = np.searchsorted(watermark, all_times)
    gone[len(waiting) :] = np.maximum(gone[len(waiting) :], np.flatnonzero(waits))
    return waits, gone


def _most(before: int, waits: Mask, gone: Ints) -> int:
    """How many records wait at most, after any record."""
    left = np.bincount(gone, minlength=len(waits) + 1)[: len(waits)]
    return int((before + np.cumsum(waits) - np.cumsum(left)).max(initial=0))


def _pushed_out(held: Ints, times: Ints, near: Mask, most: int) -> Ints:
    """The highest time that, after each record, must go so that at most `most` wait, shape [records].

    Late records are counted too; being below the watermark they change nothing.
    """
    heap: list[int] = held.tolist()
    heapq.heapify(heap)
    out = NEVER
    while len(heap) > most:
        out = heapq.heappop(heap)
    found = np.full(len(times), NEVER)
    room = most - len(heap)
    for row, time in zip(np.flatnonzero(near).tolist(), times[near].tolist(), strict=True):
        if room:
            heapq.heappush(heap, time)
            room -= 1
        else:
            found[row] = heapq.heappushpop(heap, time)
    found[:1] = np.maximum(found[:1], out)
    result: Ints = np.maximum.accumulate(found)
    return result


def _parted(
    waiting: Waiting,
    batch: pa.RecordBatch,
    when: Ints,
    times: Ints,
    kinds: Ints,
    apart: Ints,
    watermark: Ints,
    path: _Path,
) -> Ordered:
    """Part the records that go from those that stay."""
    table = pa.concat_tables([waiting.table, pa.Table.from_batches([batch])])
    places = np.append(waiting.places, waiting.table.num_rows + np.arange(batch.num_rows))
    offsets = np.append(waiting.offsets, batch.column(OFFSET).to_numpy())
    goes = np.flatnonzero(when < batch.num_rows)
    order = goes[np.lexsort((offsets[goes], times[goes], when[goes]))]
    stays = np.flatnonzero(when == batch.num_rows)
    rows = as_batch(table.take(pa.array(places[order])), table.schema)
    after = Mark(int(offsets[-1]), int(path.after[-1]), int(watermark[-1]), path.far_rows, path.far_lowest)
    left = Waiting(table, places[stays], times[stays], offsets[stays])
    return Ordered(after, left, noted(rows, kinds[order], apart[order]))
