"""Laws of mode `random`."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.config import Consumer, demo_schema
from correnteza.consumer.drawing import Draw, RandomRecords
from correnteza.errors import ConfigError, CursorError
from correnteza.records import Field, Schema

SCHEMA = demo_schema().build()


def read(records: RandomRecords, after: str | None, count: int) -> tuple[list[dict[str, Any]], str]:
    part = records.read(after, count)
    return part.batch.to_pylist(), part.next


@given(st.integers(0, 2**63 - 1), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_same_seed_same_records_wherever_it_is_cut(seed: int, counts: list[int]) -> None:
    draw = Draw.chosen(SCHEMA, Consumer())
    whole, end = read(RandomRecords(SCHEMA, draw, seed), None, sum(counts))
    parts: list[dict[str, Any]] = []
    after = None
    for count in counts:  # each time by a new object, as after a restart
        rows, after = read(RandomRecords(SCHEMA, draw, seed), after, count)
        parts += rows
    assert (parts, after) == (whole, end)
    assert [row["offset"] for row in whole] == list(range(1, sum(counts) + 1))


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(0, 10**6))
def test_a_float_stays_between_its_ends(low: float, span: float, index: int) -> None:
    schema = Schema((Field("x", "float"),), target="y")
    value = Draw.chosen(schema, Consumer(random_min=low, random_max=low + span)).value(1, index)
    assert isinstance(value, float)
    assert low <= value <= low + span


def test_an_integer_takes_every_whole_value_and_no_other() -> None:
    schema = Schema((Field("n", "integer"),), target="y")
    draw = Draw.chosen(schema, Consumer(random_min=2.5, random_max=6.5))
    values = [draw.value(7, index) for index in range(400)]
    assert set(values) == {3, 4, 5, 6}
    assert all(isinstance(value, int) for value in values)
    assert min(values.count(v) for v in (3, 4, 5, 6)) > 60  # of 100 expected


def test_values_are_uniform() -> None:
    draw = Draw.chosen(SCHEMA, Consumer(random_min=0, random_max=100))
    values = sorted(draw.value(3, index) for index in range(2000))
    worst = max(abs(value / 100 - (place + 0.5) / 2000) for place, value in enumerate(values))
    assert worst < 1.63 / math.sqrt(2000)  # Kolmogorov and Smirnov's bound at 1 %


def test_only_the_drawn_field_and_an_id_of_its_own_are_set() -> None:
    rows, _ = read(RandomRecords(SCHEMA, Draw.chosen(SCHEMA, Consumer()), seed=4), None, 50)
    for row in rows:
        assert {name for name, value in row.items() if value is not None} == {"offset", "id", "age"}
    assert len({row["id"] for row in rows}) == 50


def test_the_field_is_the_configured_one_else_age_else_the_first_number() -> None:
    other = Schema((Field("kind", "category"), Field("temp", "float"), Field("hum", "float")), target="cnt")
    assert Draw.chosen(SCHEMA, Consumer(random_field="weekly_hours")).field.name == "weekly_hours"
    assert Draw.chosen(SCHEMA, Consumer()).field.name == "age"
    assert Draw.chosen(other, Consumer()).field.name == "temp"


@pytest.mark.parametrize(
    ("minimum", "maximum", "ends"),
    [
        (None, None, (18, 80)),
        (20.0, 50.0, (20, 50)),
        (70.0, None, (70, 80)),
        (0.0, 1.0, (0, 1)),
        (100.0, 110.0, (100, 110)),
        (100.0, None, (100, 100)),
        (None, 10.0, (10, 10)),
    ],
)
def test_the_schema_s_bounds_hold(minimum: float | None, maximum: float | None, ends: tuple[float, float]) -> None:
    draw = Draw.chosen(Schema((Field("x", "float", minimum, maximum),), target="y"), Consumer())
    assert (draw.low, draw.high) == ends


@pytest.mark.parametrize(
    ("schema", "consumer", "names"),
    [
        (SCHEMA, Consumer(random_field="job"), "random_field = 'job'"),
        (SCHEMA, Consumer(random_field="nothing"), "random_field = 'nothing'"),
        (Schema((Field("kind", "category"),), target="y"), Consumer(), "consumer.modes"),
        (SCHEMA, Consumer(random_min=9, random_max=8), "random_min = 9"),
        (SCHEMA, Consumer(random_min=math.nan), "random_min = nan"),
        (Schema((Field("n", "integer"),), target="y"), Consumer(random_max=math.inf), "random_max = inf"),
        (Schema((Field("n", "integer"),), target="y"), Consumer(random_min=18.2, random_max=18.8), "18.2"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_start(schema: Schema, consumer: Consumer, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        Draw.chosen(schema, consumer)


@pytest.mark.parametrize("cursor", ["", "-1", "x", "1.5", "0x1"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(CursorError):
        RandomRecords(SCHEMA, Draw.chosen(SCHEMA, Consumer()), 1).read(cursor, 1)
