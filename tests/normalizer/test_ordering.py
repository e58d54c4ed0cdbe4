"""Laws of the source that puts the raw log in order: cuts, kills, idle times, retention and changed settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from correnteza import config
from correnteza.errors import CursorError, LogError, LogUnavailableError, OffsetRemovedError
from correnteza.log.base import Policy, Slice
from correnteza.log.memory import MemoryStore
from correnteza.normalizer import watermark
from correnteza.normalizer.ordering import InOrder
from correnteza.normalizer.watermark import ORDER, Rule
from correnteza.records import OFFSET

from . import unordered
from .unordered import SCHEMA, Row, records, reference

US = 1_000_000
ON = config.Normalizer(lateness_s=30, future_s=200, idle_s=5)


class Raw:
    """The raw log with a clock; it keeps what its reader still needs."""

    def __init__(self, times: Sequence[int | None] = ()) -> None:
        self.log = MemoryStore().log("raw", SCHEMA.raw)
        self.log.register("normalizer", None)
        self.now = 0.0
        self.needed: str | None = None
        self.away = False
        self.add(times)

    def add(self, times: Sequence[int | None]) -> None:
        self.log.append(records([None if t is None else t * US for t in times]).select(SCHEMA.raw.names))

    def needs_behind(self, cursor: str | None) -> None:
        self.needed = cursor

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        if self.away:
            raise LogUnavailableError("away")
        part = self.log.read(after, limit, 0.0, back)
        self.log.register("normalizer", after if self.needed is None else self.needed or None)
        return part

    def in_order(self, settings: config.Normalizer = ON) -> InOrder:
        return InOrder(self, SCHEMA, settings, lambda: self.now)


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    return list(zip(batch[OFFSET].to_pylist(), batch[ORDER].to_pylist(), strict=True))


def drained(raw: Raw, after: str | None = None, limit: int = 1000, settings: config.Normalizer = ON) -> tuple[list[Row], str]:
    """All that goes on now, and the cursor behind it."""
    source, out = raw.in_order(settings), []
    while True:
        part = source.read(after, limit)
        after = part.next
        out += rows_of(part.batch)
        if not part.batch.num_rows and not part.lag_rows:
            return out, after


seconds = st.one_of(st.none(), st.integers(-40, 40), st.sampled_from([-9000, 9000]))
streams = st.lists(seconds, min_size=1, max_size=60).map(
    lambda moved: [None if m is None else 3 * i + m for i, m in enumerate(moved)]
)
# What happens: read so many rows at most, be killed (with or without a commit of the last read), records come, silence.
events = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(1, 9)),
        st.tuples(st.just("lost"), st.integers(1, 9)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("come"), st.integers(1, 20)),
        st.tuples(st.just("idle"), st.just(0)),
        st.tuples(st.just("trim"), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(streams, events, st.sampled_from([2, 4, 1000]))
@example([0, 30, 15, 20, 10, 90, 80], [("come", 7), ("read", 2), ("kill", 0), ("read", 2), ("idle", 0), ("read", 1)], 1000)
def test_whatever_happens_the_order_is_that_of_the_log_and_of_the_committed_silences(
    times: list[int | None], happened: list[tuple[str, int]], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watermark, "FAR_ROWS", 4)
        patch.setattr(unordered, "FAR_ROWS", 4)
        settings = ON.model_copy(update={"reorder_rows": most})
        raw, came = Raw(), 0
        source, out = raw.in_order(settings), []
        after: str | None = None
        committed: str | None = None
        flushes: list[int] = []
        for what, count in [*happened, ("come", len(times)), *[("read", 7)] * 40]:
            if what == "come":
                raw.add(times[came : came + count])
                came = min(len(times), came + count)
            elif what == "read":
                part = source.read(after, count)
                assert part.batch.num_rows <= count
                after = part.next
                if part.batch.num_rows or count % 2:  # somebody may have something to commit with no rows
                    committed = after
                out += rows_of(part.batch)
                if "flushed" in part.batch[ORDER].to_pylist():
                    flushes.append(json.loads(after)["until"])
            elif what in ("lost", "kill"):
                if what == "lost":
                    source.read(after, count)
                source, after = raw.in_order(settings), committed
            elif what == "trim":
                raw.log.trim(Policy(rows=1), 0.0)
            else:
                raw.now += 6
        expected, _ = reference([None if t is None else t * US for t in times], Rule.of(settings), sorted(set(flushes)))
        assert out == expected


def test_off_it_is_the_raw_log_itself() -> None:
    raw = Raw([50, 10, 30])
    source, plain = raw.in_order(config.Normalizer()), raw.log.read(None, 2)
    part = source.read(None, 2)
    assert (part.batch.equals(plain.batch), part.next, part.lag_rows) == (True, plain.next, 1)
    assert source.read(part.next, 2).batch[OFFSET].to_pylist() == [3]
    assert raw.needed is None


def test_what_waits_is_let_go_after_a_silence_and_not_when_upstream_is_away() -> None:
    raw = Raw([100, 90, 95])
    source = raw.in_order()
    part = source.read(None, 10)
    assert (part.batch.num_rows, part.lag_rows, source.figures["held_rows"]) == (0, 0, 3)
    raw.away, raw.now = True, 100.0
    with pytest.raises(LogUnavailableError):
        source.read(part.next, 10)
    raw.away = False
    assert source.read(part.next, 10).batch.num_rows == 0
    raw.now += 5
    assert rows_of(source.read(part.next, 10).batch) == [(2, "flushed"), (3, "flushed"), (1, "flushed")]
    assert source.figures == {"held_rows": 0, "watermark": "1970-01-01T00:01:40+00:00"}


def test_rows_that_wait_are_not_removed_upstream_and_the_others_are() -> None:
    raw = Raw([100, *range(60, 100), 101])
    settings = ON.model_copy(update={"lateness_s": 40.0})
    source, after = raw.in_order(settings), None
    for _ in range(30):
        after = source.read(after, 5).next
        raw.log.trim(Policy(rows=1), 0.0)
    assert raw.log.bounds().first == 1  # the record of second 100 came first, and waits
    raw.add([200, 201])
    for _ in range(30):
        after = source.read(after, 5).next
        raw.log.trim(Policy(rows=1), 0.0)
    assert raw.log.bounds().first == 43
    assert source.figures["held_rows"] == 2


def test_a_loss_is_told_and_nothing_comes_twice_behind_it() -> None:
    raw = Raw([0, 30, 15, 20, 10, 90, 80, 130])
    source = raw.in_order()
    part = source.read(None, 2)
    assert rows_of(part.batch) == [(1, None), (5, None)]
    raw.add([140, 180])
    raw.log.trim(Policy(rows=2, hard_rows=2), 0.0)
    again = raw.in_order()
    with pytest.raises(OffsetRemovedError):
        again.read(part.next, 10)
    rest = again.read(None, 10)
    assert rows_of(rest.batch) == [(9, None)]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(1, [1, 2, 3, 4, 5, 6, 7, 8, 9]), (2, [1, 5, 3, 4, 2, 6, 7, 8, 9]), (5, [1, 5, 3, 4, 2, 7, 6, 8, 9])],
)
def test_switched_off_it_lets_go_what_waited_and_goes_on_in_the_order_of_arrival(sent: int, expected: list[int]) -> None:
    raw = Raw([0, 30, 15, 20, 10, 90, 80])
    on = raw.in_order().read(None, sent)
    raw.add([70, 75])
    off = config.Normalizer()
    rest, after = drained_plain(raw, on.next, off)
    found = [number for number, _ in rows_of(on.batch)] + rest
    assert found == expected
    assert raw.log.read(after, 1).batch.num_rows == 0  # a cursor of the raw log again
    on_again = raw.in_order().read(after, 5)
    assert on_again.batch.num_rows == 0


def drained_plain(raw: Raw, after: str, settings: config.Normalizer) -> tuple[list[int], str]:
    out: list[int] = []
    while True:
        part = raw.in_order(settings).read(after, 2)  # killed after each step
        if not part.batch.num_rows:
            return out, part.next
        out += part.batch[OFFSET].to_pylist()
        after = part.next


def test_another_lateness_begins_with_nothing_held_back() -> None:
    raw = Raw([0, 30, 15, 20, 10, 90, 80])
    after = raw.in_order().read(None, 2).next
    out, _ = drained(raw, after, settings=ON.model_copy(update={"lateness_s": 50.0}))
    assert out == [(3, None), (4, None), (2, None), (6, "flushed"), (7, "late")]


def test_a_cursor_of_something_else_is_refused() -> None:
    with pytest.raises(CursorError, match="not one of theirs"):
        Raw([1]).in_order().read('{"rows": 3}', 1)
    with pytest.raises(LogError, match="back = 3"):
        Raw([1]).in_order().read(None, 1, back=3)


def test_the_cursor_is_short() -> None:
    raw = Raw(np.random.default_rng(1).integers(0, 10**6, 500).tolist())
    assert len(raw.in_order().read(None, 3).next) < 400
