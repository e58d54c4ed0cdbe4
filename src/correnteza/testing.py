"""The laws that every log, store and stage obeys, as checks: for the project's own tests and for plugins.

`LOG_LAWS`, `STORE_LAWS` list them; each is called with a function that makes a fresh subject, and raises
AssertionError where the law does not hold. `check_stage` holds a stage to being independent of batch cuts.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pyarrow as pa

from correnteza.errors import ConfigError, CorrentezaError, CursorError, FencedError, LogError, OffsetRemovedError
from correnteza.log.base import LATEST, Log, OwnedLog, Policy, Slice, Store
from correnteza.records import OFFSET, Field, Schema
from correnteza.stage import Stage

SCHEMA = Schema(
    (
        Field("at", "timestamp"),
        Field("x", "float"),
        Field("n", "integer"),
        Field("kind", "category"),
        Field("select from", "text"),
    ),
    target="y",
    timestamp="at",
)
"""A schema with every kind of field and an awkward name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A log under test.

    Args:
        log: the log, through the adapter under test.
        owned: the same log where it is kept, for retention.
    """

    log: Log
    owned: OwnedLog


def rows(count: int, start: int = 0) -> pa.RecordBatch:
    """Valid rows of `SCHEMA`, all different, with missing values among them."""
    return pa.RecordBatch.from_pylist([_row(i) for i in range(start, start + count)], schema=SCHEMA.raw)


def _row(i: int) -> dict[str, Any]:
    present = i % 7 != 3
    return {
        "id": f"id-{i}",
        "at": datetime.fromtimestamp(1_700_000_000 + i + (i % 10) / 1e6, UTC),
        "x": i * 0.1 - 5e99 * (i % 11 == 5) if present else None,
        "n": (-1) ** i * (2**53 - i) if present else None,
        "kind": f"k{i % 5}" if present else None,
        "select from": ("çãé 漢字 🌊 '\";--\n" * (i % 3)) or None,
        "y": float(i) if i % 4 else None,
    }


def wait_for(holds: Callable[[], Any], what: str = "a condition", seconds: float = 300.0) -> Any:
    """Wait until a condition holds, and return what it gave.

    Raises:
        AssertionError: it does not within `seconds`; names `what`.
    """
    pause = threading.Event()
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        pause.wait(0.02)
    return found


def read_all(log: Log, limit: int = 1000, after: str | None = None) -> list[dict[str, Any]]:
    """Every row behind a cursor."""
    found: list[dict[str, Any]] = []
    while True:
        part = log.read(after, limit)
        found += part.batch.to_pylist()
        after = part.next
        if not part.lag_rows:
            return found


def _raises(kind: type[CorrentezaError], call: Callable[[], Any]) -> Any:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected and not raised")


def offsets_begin_at_1_and_have_no_gaps(make: Callable[[], Subject]) -> None:
    """Appends are numbered 1, 2, 3, ... and say so."""
    log = make().log
    first, second = log.append(rows(3)), log.append(rows(2, 3))
    assert (first.first, first.last, second.first, second.last) == (1, 3, 4, 5)
    assert [row[OFFSET] for row in read_all(log)] == [1, 2, 3, 4, 5]


def rows_come_back_as_they_were(make: Callable[[], Subject]) -> None:
    """Every type, missing values and every character survive."""
    log = make().log
    log.append(rows(50))
    part = log.read(None, 100)
    assert part.batch.drop_columns([OFFSET]).equals(rows(50)), part.batch.to_pylist()[:8]


def any_paging_sees_every_row_once(make: Callable[[], Subject]) -> None:
    """Whatever the limits, following the cursors gives all rows in order."""
    log = make().log
    for start in range(0, 60, 12):
        log.append(rows(12, start))
    chance = random.Random(7)
    for _ in range(10):
        seen: list[int] = []
        position = None
        while len(seen) < 60:
            part = log.read(position, chance.randint(1, 25))
            assert part.batch.num_rows, f"the log ended after {len(seen)} of 60 rows"
            assert part.lag_rows == 60 - len(seen) - part.batch.num_rows
            seen += part.batch.column(OFFSET).to_pylist()
            position = part.next
        assert seen == list(range(1, 61))


def latest_means_only_what_is_new(make: Callable[[], Subject]) -> None:
    """The cursor `latest` stands at the end."""
    log = make().log
    log.append(rows(5))
    part = log.read(LATEST, 10)
    assert part.batch.num_rows == 0
    log.append(rows(2, 5))
    assert log.read(part.next, 10).batch.column(OFFSET).to_pylist() == [6, 7]


def an_empty_log_has_a_cursor(make: Callable[[], Subject]) -> None:
    """Reading before the first append gives a cursor that goes on from the first row."""
    log = make().log
    part = log.read(None, 10)
    assert (part.batch.num_rows, part.lag_rows) == (0, 0)
    assert part.batch.schema.names == [OFFSET, *SCHEMA.raw.names]
    log.append(rows(1))
    assert log.read(part.next, 10).batch.num_rows == 1


def waiting_ends_with_an_append(make: Callable[[], Subject]) -> None:
    """A read that waits returns soon after rows come, long before its time is over."""
    log = make().log
    answers: list[Slice] = []
    reader = threading.Thread(target=lambda: answers.append(log.read(None, 10, wait_s=20.0)))
    began = time.monotonic()
    reader.start()
    log.append(rows(1))
    reader.join(20.0)
    assert answers, "the read did not return"
    assert answers[0].batch.num_rows == 1
    assert time.monotonic() - began < 10.0


def waiting_in_vain_returns_nothing(make: Callable[[], Subject]) -> None:
    """A read that waits for nothing returns no rows and the same place."""
    log = make().log
    log.append(rows(2))
    end = log.read(None, 10).next
    began = time.monotonic()
    part = log.read(end, 10, wait_s=0.2)
    assert part.batch.num_rows == 0
    assert time.monotonic() - began >= 0.15
    assert part.next == end


def back_reads_rows_before_the_cursor(make: Callable[[], Subject]) -> None:
    """`back` goes so many rows back, and no further than the first."""
    log = make().log
    log.append(rows(10))
    position = log.read(None, 6).next
    assert log.read(position, 100, back=2).batch.column(OFFSET).to_pylist() == [5, 6, 7, 8, 9, 10]
    assert log.read(position, 3, back=99).batch.column(OFFSET).to_pylist() == [1, 2, 3]


def foreign_cursors_are_refused(make: Callable[[], Subject]) -> None:
    """A cursor that this log did not make is an error, not a place."""
    subject = make()
    subject.log.append(rows(3))
    own = subject.owned.cursor(3)
    behind = subject.owned.cursor(999)
    other = ("0" * 12 if own[0] != "0" else "1" * 12) + own[12:]
    for cursor in ("", "x", "3", "-1", "null", "9" * 99, other, behind, own + "0"):
        _raises(CursorError, lambda cursor=cursor: subject.log.read(cursor, 1))  # type: ignore[misc]


def other_columns_are_refused(make: Callable[[], Subject]) -> None:
    """A batch of another shape is refused and nothing is stored."""
    log = make().log
    odd = pa.RecordBatch.from_pydict({"id": ["a"], "z": [1.0]})
    _raises(LogError, lambda: log.append(odd))
    assert log.bounds().rows == 0


def many_writers_lose_nothing(make: Callable[[], Subject]) -> None:
    """Concurrent appends each get offsets of their own, together and in order."""
    log = make().log
    writers = [threading.Thread(target=lambda n=n: [log.append(rows(3, 100 * n + 3 * i)) for i in range(5)]) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = read_all(log)
    assert [row[OFFSET] for row in found] == list(range(1, 61))
    assert len({row["id"] for row in found}) == 60
    for place in range(0, 60, 3):  # an append stays in one piece
        numbers = [int(row["id"].split("-")[1]) for row in found[place : place + 3]]
        assert numbers == list(range(numbers[0], numbers[0] + 3))


def retention_removes_the_oldest_rows(make: Callable[[], Subject]) -> None:
    """The oldest rows go, offsets stay, and an old cursor gets the first offset that is still there."""
    subject = make()
    subject.log.append(rows(10))
    old = subject.log.read(None, 2).next
    trimmed = subject.owned.trim(Policy(rows=4), time.time())
    assert (trimmed.rows, trimmed.unread) == (6, 0)
    assert subject.log.bounds().first == 7
    error = _raises(OffsetRemovedError, lambda: subject.log.read(old, 1))
    assert error.first == 7
    assert [row[OFFSET] for row in read_all(subject.log)] == [7, 8, 9, 10]
    assert subject.log.append(rows(1)).first == 11


def retention_waits_for_registered_readers(make: Callable[[], Subject]) -> None:
    """What a reader has not passed, or wants to keep, stays; the hard cap alone is stronger, and counts."""
    subject = make()
    subject.log.append(rows(20))
    subject.owned.register("slow", subject.owned.cursor(12), keep_rows=4)
    assert subject.owned.trim(Policy(rows=1), time.time()).rows == 8
    assert subject.log.bounds().first == 9
    trimmed = subject.owned.trim(Policy(rows=1, hard_rows=5), time.time())
    assert (trimmed.rows, trimmed.unread) == (7, 3)
    assert subject.log.bounds().first == 16


def readers_that_are_struck_out_are_waited_for_no_longer(make: Callable[[], Subject]) -> None:
    """Whether they were written down before or not; and each says how far it is until then."""
    subject = make()
    subject.log.append(rows(20))
    subject.owned.register("slow", subject.owned.cursor(12), keep_rows=4)
    subject.owned.register("new", None)
    assert {name: (it.passed, it.keep_rows) for name, it in subject.owned.readers().items()} == {"slow": (12, 4), "new": (0, 0)}
    assert subject.owned.trim(Policy(rows=1), time.time()).rows == 0
    assert [subject.owned.unregister(name) for name in ("new", "new", "nobody")] == [True, False, False]
    assert subject.owned.trim(Policy(rows=1), time.time()).rows == 8
    assert subject.owned.unregister("slow")
    assert subject.owned.readers() == {}
    assert subject.owned.trim(Policy(rows=1), time.time()).rows == 11


def retention_by_age_spares_the_young(make: Callable[[], Subject]) -> None:
    """Rows older than the age go; in an hour they will be, now they are not."""
    subject = make()
    subject.log.append(rows(5))
    assert subject.owned.trim(Policy(age_s=60.0), time.time()).rows == 0
    assert subject.owned.trim(Policy(age_s=60.0), time.time() + 3600).rows == 5
    assert subject.log.append(rows(1)).first == 6


LOG_LAWS: Sequence[Callable[[Callable[[], Subject]], None]] = (
    offsets_begin_at_1_and_have_no_gaps,
    rows_come_back_as_they_were,
    any_paging_sees_every_row_once,
    latest_means_only_what_is_new,
    an_empty_log_has_a_cursor,
    waiting_ends_with_an_append,
    waiting_in_vain_returns_nothing,
    back_reads_rows_before_the_cursor,
    foreign_cursors_are_refused,
    other_columns_are_refused,
    many_writers_lose_nothing,
    retention_removes_the_oldest_rows,
    retention_waits_for_registered_readers,
    readers_that_are_struck_out_are_waited_for_no_longer,
    retention_by_age_spares_the_young,
)


def a_commit_is_whole(make: Callable[[], Store]) -> None:
    """Outputs, state and position are there together."""
    store = make()
    one, two = store.log("one", SCHEMA.raw), store.log("two", SCHEMA.raw)
    claim = store.claim("s")
    assert (claim.position, claim.state) == (None, None)
    appended = store.commit("s", claim.epoch, "p1", b"\x00\xffstate", {"one": rows(2), "two": rows(3)})
    assert (appended["one"].rows, appended["two"].rows) == (2, 3)
    assert (one.bounds().rows, two.bounds().rows) == (2, 3)
    again = store.claim("s")
    assert (again.position, again.state) == ("p1", b"\x00\xffstate")


def a_failed_commit_leaves_nothing(make: Callable[[], Store]) -> None:
    """When one output cannot be stored, none is, and state and position stay."""
    store = make()
    one = store.log("one", SCHEMA.raw)
    store.log("two", SCHEMA.raw)
    claim = store.claim("s")
    store.commit("s", claim.epoch, "p1", b"1", {"one": rows(1)})
    odd = pa.RecordBatch.from_pydict({"z": [1.0]})
    _raises(LogError, lambda: store.commit("s", claim.epoch, "p2", b"2", {"one": rows(1), "two": odd}))
    assert one.bounds().rows == 1
    assert store.claim("s").position == "p1"


def an_old_claim_is_fenced_off(make: Callable[[], Store]) -> None:
    """After a second claim the first holder can commit nothing."""
    store = make()
    one = store.log("one", SCHEMA.raw)
    first = store.claim("s")
    second = store.claim("s")
    assert second.epoch > first.epoch
    _raises(FencedError, lambda: store.commit("s", first.epoch, "p", b"", {"one": rows(1)}))
    assert one.bounds().rows == 0
    store.commit("s", second.epoch, "p", b"", {"one": rows(1)})
    assert one.bounds().rows == 1


def stages_do_not_disturb_each_other(make: Callable[[], Store]) -> None:
    """Two stages of one store have positions and claims of their own."""
    store = make()
    store.log("one", SCHEMA.raw)
    a, b = store.claim("a"), store.claim("b")
    store.commit("a", a.epoch, "pa", b"a", {"one": rows(1)})
    store.commit("b", b.epoch, "pb", b"b", {})
    assert (store.claim("a").position, store.claim("b").position) == ("pa", "pb")


def a_log_keeps_its_columns(make: Callable[[], Store]) -> None:
    """Opening a log again with other columns is refused."""
    store = make()
    store.log("one", SCHEMA.raw)
    _raises(ConfigError, lambda: store.log("one", pa.schema([pa.field("z", pa.float64())])))


STORE_LAWS: Sequence[Callable[[Callable[[], Store]], None]] = (
    a_commit_is_whole,
    a_failed_commit_leaves_nothing,
    an_old_claim_is_fenced_off,
    stages_do_not_disturb_each_other,
    a_log_keeps_its_columns,
)


def run_stage(
    stage: Stage[Any], batch: pa.RecordBatch, cuts: Sequence[int], restart: bool = True
) -> tuple[dict[str, list[Any]], bytes]:
    """What a stage makes of rows that come in parts.

    Args:
        stage: the stage, from its initial state.
        batch: all rows, with the column `offset` in front.
        cuts: where the parts begin, as row numbers.
        restart: whether the state goes through `dump` and `load` between parts, as after a kill.

    Returns:
        All outputs by log, as plain rows, and the final state as bytes.
    """
    state = stage.initial()
    found: dict[str, list[Any]] = {}
    edges = sorted({0, *cuts, batch.num_rows})
    for start, end in pairwise(edges):
        step = stage.step(stage.load(stage.dump(state)) if restart else state, batch.slice(start, end - start))
        state = step.state
        for name, output in step.outputs.items():
            found.setdefault(name, []).extend(output.to_pylist())
    return {name: output for name, output in found.items() if output}, stage.dump(state)


def check_stage(stage: Stage[Any], batch: pa.RecordBatch, cuts: Sequence[int]) -> None:
    """Hold a stage to the law that cuts and restarts change neither outputs nor state, bit for bit."""
    whole, end = run_stage(stage, batch, [], restart=False)
    parts, end_of_parts = run_stage(stage, batch, cuts)
    assert parts == whole or repr(parts) == repr(whole), f"outputs differ when cut at {list(cuts)}"
    assert end == end_of_parts, f"the state differs when cut at {list(cuts)}"
