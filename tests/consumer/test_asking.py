"""Laws of the source that asks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza.codec import Codec
from correnteza.consumer.asking import RETRY_AFTER_MAX_S, Asking, Waiting, questions
from correnteza.errors import InputError, LogUnavailableError, ServiceError
from correnteza.events import SCHEMA as EVENTS
from correnteza.events import Events
from correnteza.log.memory import MemoryLog, MemoryStore
from correnteza.pace import Pace
from correnteza.records import Field, Schema, with_offsets
from correnteza.testing import SCHEMA as EVERY_KIND
from correnteza.testing import rows as rows_of_every_kind

Trainer = Any  # the fake one of conftest.py

SCHEMA = Schema((Field("age", "float", 0, 130), Field("job", "category")), target="income")


class Clock:
    """Time that passes only when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class World:
    """A raw log, the events of the consumer, and an asking source between them and a trainer."""

    def __init__(self, ask: Callable[[bytes], Any], request_rows: int = 100, rate: float = math.inf) -> None:
        store = MemoryStore()
        self.raw: MemoryLog = store.log("raw", SCHEMA.raw)
        self.events = store.log("events", EVENTS)
        self.clock = Clock()
        self.pace = Pace(rate, clock=self.clock)
        waiting = Waiting(Events("consumer", self.events), "records", self.clock)
        self.behind: list[int] = []
        self.asking = Asking(
            self.raw,
            SCHEMA,
            ask,
            self.pace,
            waiting,
            request_rows=request_rows,
            behind=self.behind.append,
            clock=self.clock,
        )

    def add(self, *ages: float | None, target: float | None = 5.0) -> None:
        rows = [{"id": f"r{age}", "age": age, "job": "cook", "income": target} for age in ages]
        self.raw.append(pa.RecordBatch.from_pylist(rows, schema=SCHEMA.raw))

    def told(self) -> list[str]:
        return [str(kind) for kind in self.events.read(None, 1000).batch["kind"].to_pylist()]


def test_the_target_is_never_sent(trainer: Trainer) -> None:
    world = World(trainer.ask)
    world.add(*range(50), target=98_765.0)
    rows = world.asking.read(None, 100).batch
    assert rows["target"].to_pylist() == [98_765.0] * 50
    assert len(trainer.seen) == 50
    for record in trainer.seen:
        assert set(record) <= {"id", "age", "job"}
    assert "98765" not in json.dumps(trainer.requests)


def test_what_is_asked_reads_back_as_the_record_without_its_target() -> None:
    """For every kind of field, missing values, awkward names and characters included."""
    raw = rows_of_every_kind(60)
    asked = questions(raw, EVERY_KIND)
    decoded = Codec(EVERY_KIND, partial=True).decode(b"[" + b",".join(asked) + b"]", "application/json")
    assert not decoded.problems
    place = raw.schema.get_field_index("y")
    assert decoded.batch.equals(raw.set_column(place, "y", pa.nulls(60, pa.float64())))
    assert b"null" not in b"".join(asked)
    assert b'"at":"2023-11-14T22:13:20.000000Z"' in asked[0]


def test_a_time_beyond_datetime_is_asked_all_the_same() -> None:
    schema = Schema((Field("at", "timestamp"), Field("x", "float")), target="y", timestamp="at")
    far = pa.array([700_000_000_000_000_000], pa.timestamp("us", tz="UTC"))
    raw = pa.RecordBatch.from_arrays([pa.array(["a"]), far, pa.array([1.0]), pa.array([2.0])], schema=schema.raw)
    assert json.loads(questions(raw, schema)[0]) == {"id": "a", "at": "24152-02-12T20:26:40.000000Z", "x": 1.0}


def test_answers_stand_beside_their_records(trainer: Trainer) -> None:
    world = World(trainer.ask)
    world.add(30, 40, None)
    rows = world.asking.read(None, 100).batch.to_pylist()
    assert [(r["offset"], r["record_id"], r["prediction"]) for r in rows] == [
        (1, "r30", 1060.0),
        (2, "r40", 1080.0),
        (3, "rNone", 1000.0),
    ]
    assert rows[0]["lower"] == 1055.0
    assert rows[0]["upper"] == 1065.0
    assert rows[0]["model_version"] == 3
    assert rows[0]["prediction_id"] == "r30"
    assert json.loads(rows[0]["input"]) == {"id": "r30", "age": 30.0, "job": "cook"}
    assert [json.loads(row["input"]) for row in rows] == trainer.requests[0]


def test_the_latency_is_that_of_the_request() -> None:
    def slow(body: bytes) -> list[dict[str, Any]]:
        world.clock.now += 0.25
        return [{"prediction": 1.0}] * len(json.loads(body))

    world = World(slow)
    world.add(1, 2)
    assert world.asking.read(None, 100).batch["latency_ms"].to_pylist() == pytest.approx([250.0, 250.0])
    assert list(world.asking.latencies_ms) == pytest.approx([250.0])


@pytest.mark.parametrize("limit", [100, 5])
def test_a_request_has_no_more_rows_than_set(trainer: Trainer, limit: int) -> None:
    world = World(trainer.ask, request_rows=7)
    world.add(*range(20))
    position = None
    while (part := world.asking.read(position, limit)).batch.num_rows:
        position = part.next
    assert {len(request) for request in trainer.requests} == {min(7, limit), 20 % min(7, limit)} - {0}
    assert [record["age"] for record in trainer.answered] == list(range(20))


@pytest.mark.parametrize("names_records", [True, False])
@pytest.mark.parametrize("bad", [{3.0}, {0.0, 6.0}, set(map(float, range(7))), {2.0, 3.0, 4.0, 5.0}])
def test_refused_records_keep_no_other_from_its_answer(trainer: Trainer, names_records: bool, bad: set[float]) -> None:
    """Whether or not the trainer says which record is at fault."""
    trainer.refuses = lambda record: "is not to my liking" if record["age"] in bad else None
    trainer.names_records = names_records
    world = World(trainer.ask)
    world.add(*range(7))
    rows = world.asking.read(None, 100).batch.to_pylist()
    assert [row["offset"] for row in rows] == list(range(1, 8))
    for age, row in enumerate(rows):
        assert (row["refused"] is not None) == (age in bad), row
        assert (row["prediction"] is None) == (age in bad), row
    if names_records:
        assert {row["refused"] for row in rows} - {None} == {"age: is not to my liking"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e101])
def test_what_json_cannot_carry_is_refused_here(trainer: Trainer, value: float) -> None:
    world = World(trainer.ask)
    world.add(20, value, 30)
    rows = world.asking.read(None, 100).batch.to_pylist()
    assert [record["age"] for record in trainer.seen] == [20, 30]
    assert [row["prediction"] for row in rows] == [1040.0, None, 1060.0]
    assert rows[1]["refused"].startswith("age: ")


def test_a_record_outside_the_schema_s_bounds_is_the_trainer_s_to_judge(trainer: Trainer) -> None:
    world = World(trainer.ask)
    world.add(999)
    assert world.asking.read(None, 100).batch["prediction"].to_pylist() == [2998.0]


@pytest.mark.parametrize("said", [None, math.nan, math.inf])
def test_an_answer_without_a_number_is_no_answer(said: float | None) -> None:
    world = World(lambda body: [{"prediction": said}, {"prediction": 2.0}])
    world.add(1, 2)
    rows = world.asking.read(None, 100).batch.to_pylist()
    assert [row["prediction"] for row in rows] == [None, 2.0]
    assert "without a number" in rows[0]["refused"]


def raising(error: Exception) -> Callable[[bytes], Any]:
    def ask(body: bytes) -> Any:
        raise error

    return ask


@pytest.mark.parametrize(
    "ask",
    [
        raising(LogUnavailableError("down")),
        raising(ServiceError("answered 500")),
        raising(InputError("no such route", status=404)),
        raising(InputError("not allowed", status=405)),
        lambda body: [],
        lambda body: [{"prediction": 1.0}] * 3,
        lambda body: {"prediction": 1.0},
        lambda body: [{"prediction": "high"}, {"prediction": 1.0}],
        lambda body: [{}, {}],
    ],
)
def test_a_trainer_at_fault_is_waited_for_and_no_record_is_blamed(ask: Callable[[bytes], Any]) -> None:
    world = World(ask)
    world.add(1, 2)
    for _ in range(3):
        with pytest.raises(LogUnavailableError):
            world.asking.read(None, 100)
    waiting = world.asking.waiting
    assert (waiting.waited, waiting.retries) == (1, 3)
    assert world.behind == [2, 2, 2]
    assert world.told() == ["waiting_began"]


def test_a_wait_is_told_once_at_each_end(trainer: Trainer) -> None:
    trainer.away = lambda request: request in (2, 3, 4, 6)
    world = World(trainer.ask, request_rows=1)
    world.add(1, 2, 3)
    position, answered = None, []
    for _ in range(7):
        try:
            part = world.asking.read(position, 1)
        except LogUnavailableError:
            world.clock.now += 1.0
            continue
        answered += part.batch["record_id"].to_pylist()
        position = part.next
    assert answered == ["r1", "r2", "r3"]
    assert world.told() == ["waiting_began", "waiting_ended", "waiting_began", "waiting_ended"]
    assert "waited_s" in world.events.read(None, 9).batch["detail"].to_pylist()[1]
    waiting = world.asking.waiting
    assert (waiting.waited, waiting.retries, waiting.seconds, waiting.reason) == (2, 4, None, None)


def test_a_wait_for_the_generator_ends_with_an_empty_answer(trainer: Trainer) -> None:
    world = World(trainer.ask)
    up, down = world.raw.read, raising(LogUnavailableError("generator down"))
    world.raw.read = lambda *a: down(b"")  # type: ignore[method-assign]
    with pytest.raises(LogUnavailableError, match="generator down"):
        world.asking.read(None, 100)
    assert world.asking.waiting.reason == "generator down"
    world.raw.read = up  # type: ignore[method-assign]
    world.asking.read(None, 100)
    assert world.asking.waiting.reason is None


@pytest.mark.parametrize(("asked_s", "kept_s"), [(5.0, 5.0), (3600.0, RETRY_AFTER_MAX_S)])
def test_retry_after_is_honoured(asked_s: float, kept_s: float) -> None:
    calls: list[bytes] = []

    def ask(body: bytes) -> Any:
        calls.append(body)
        if len(calls) == 1:
            raise LogUnavailableError("no model yet", asked_s)
        return [{"prediction": 1.0}]

    world = World(ask)
    world.add(1)
    for passed_s, expected_calls in ((0.0, 1), (0.0, 1), (kept_s * 0.9, 1)):
        world.clock.now += passed_s
        with pytest.raises(LogUnavailableError, match="no model yet"):
            world.asking.read(None, 100)
        assert len(calls) == expected_calls
    world.clock.now += kept_s * 0.2
    assert world.asking.read(None, 100).batch.num_rows == 1


def test_a_paused_consumer_asks_nothing_and_stays_where_it_is(trainer: Trainer) -> None:
    world = World(trainer.ask, rate=0.0)
    world.add(*range(150))
    part = world.asking.read(None, 100)
    assert (part.batch.num_rows, part.lag_rows, trainer.requests) == (0, 150, [])
    world.pace.rate = math.inf
    part = world.asking.read(part.next, 100)
    assert part.batch["offset"].to_pylist() == list(range(1, 101))
    world.pace.rate = 0.0
    again = world.asking.read(part.next, 100)
    assert (again.next, again.lag_rows) == (part.next, 50)


def test_the_pace_counts_requests(trainer: Trainer) -> None:
    world = World(trainer.ask, request_rows=10, rate=4.0)
    world.add(*range(1000))
    position, reads = None, 0
    while world.clock.now < 110.0:  # ten seconds
        position = world.asking.read(position, 10, wait_s=0.0).next
        world.clock.now += 0.05
        reads += 1
    assert len(trainer.requests) == pytest.approx(40, abs=1)
    assert reads > 190


def test_a_column_of_nulls_is_asked_as_an_empty_record(trainer: Trainer) -> None:
    """A record whose fields are all missing is still asked for and answered."""
    world = World(trainer.ask)
    world.raw.append(pa.RecordBatch.from_pylist([{"income": 1.0}], schema=SCHEMA.raw))
    assert world.asking.read(None, 1).batch["prediction"].to_pylist() == [1000.0]
    assert trainer.requests == [[{}]]


def test_offsets_are_the_raw_log_s(trainer: Trainer) -> None:
    world = World(trainer.ask)
    world.add(*range(30))
    position = world.raw.cursor(12)
    part = world.asking.read(position, 5)
    assert part.batch["offset"].to_pylist() == [13, 14, 15, 16, 17]
    assert part.next == world.raw.cursor(17)
    assert part.lag_rows == 13


def test_times_and_missing_values() -> None:
    schema = Schema((Field("at", "timestamp"), Field("x", "integer")), target="y", timestamp="at")
    row = {"id": "a", "at": datetime(2026, 1, 31, 12, tzinfo=UTC), "x": 2**53, "y": np.pi}
    batch = with_offsets(pa.RecordBatch.from_pylist([row, {}], schema=schema.raw), 1)
    assert [json.loads(text) for text in questions(batch, schema)] == [
        {"id": "a", "at": "2026-01-31T12:00:00.000000Z", "x": 2**53},
        {},
    ]
