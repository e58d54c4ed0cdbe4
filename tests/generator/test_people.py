"""Laws of the synthetic people."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza import config
from correnteza.errors import ConfigError, CursorError
from correnteza.generator.people import BLOCK_ROWS, PeopleSource, monthly_income
from correnteza.records import Field, Schema
from correnteza.validation import problems

SCHEMA = config.demo_schema().build()


def people(**settings: Any) -> PeopleSource:
    return PeopleSource(config.Generator(**{"start_time": "2026-01-01", **settings}), SCHEMA)


def rows(source: PeopleSource, first: int, count: int) -> pa.RecordBatch:
    """Rows `first` to `first + count - 1`."""
    return source.read(f"people.{first - 1}.0", count).batch


def number(batch: pa.RecordBatch, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(batch.column(name).to_numpy(), np.float64)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 2 * BLOCK_ROWS), min_size=1, max_size=12))
def test_batch_cuts_have_no_part_in_the_rows(sizes: list[int]) -> None:
    source, parts, after = people(), [], None
    for size in sizes:
        part = source.read(after, size)
        assert part.batch.num_rows == size
        parts.append(part.batch)
        after = part.next
    assert pa.concat_batches(parts).equals(people().read(None, sum(sizes)).batch)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 3 * BLOCK_ROWS), st.integers(1, 50))
def test_a_new_process_goes_on_where_the_old_one_stopped(before: int, count: int) -> None:
    old = people()
    undisturbed = old.read(None, before + count).batch.slice(before)
    assert people().read(old.read(None, before).next, count).batch.equals(undisturbed)


def test_a_limit_of_no_rows_gives_a_cursor_that_reads_from_the_start() -> None:
    part = people().read(None, 0)
    assert part.batch.num_rows == 0
    assert people().read(part.next, 3).batch.equals(people().read(None, 3).batch)


def test_the_same_seed_makes_the_same_people_and_another_makes_others() -> None:
    one, same, other = (rows(people(seed=seed), 1, 100) for seed in (7, 7, 8))
    assert one.equals(same)
    for name in ("name", "city", "job", "age", "income"):
        assert not one.column(name).equals(other.column(name)), name


def test_the_locale_decides_on_the_texts_alone() -> None:
    here, there = rows(people(locale="pt_BR"), 1, 200), rows(people(locale="de_DE"), 1, 200)
    assert here.column("age").equals(there.column("age"))
    assert not set(here.column("city").to_pylist()) & set(there.column("city").to_pylist())


def test_rows_fit_the_schema_and_are_all_valid() -> None:
    batch = rows(people(noise=0.5), 1, 5000)
    assert batch.select(SCHEMA.raw.names).schema.equals(SCHEMA.raw)
    assert batch.column("offset").to_pylist() == list(range(1, 5001))
    assert problems(batch, SCHEMA) == []
    assert all(column.null_count == 0 for column in batch.columns)


def test_ids_are_unique_and_stable_also_beyond_eight_digits() -> None:
    assert rows(people(), 1, 2).column("id").to_pylist() == ["p00000001", "p00000002"]
    assert rows(people(seed=5), 99_999_999, 2).column("id").to_pylist() == ["p99999999", "p100000000"]


def test_without_noise_the_income_is_the_documented_formula() -> None:
    source = people(noise=0.0)
    batch = rows(source, 1, 5000)
    pay = np.array([source.pay[job] for job in batch.column("job").to_pylist()])
    age, education, experience, hours = (
        number(batch, name) for name in ("age", "education_years", "experience_years", "weekly_hours")
    )
    assert number(batch, "income") == pytest.approx(monthly_income(age, education, experience, hours, pay), abs=0.006)


def test_the_formula_is_the_one_in_words() -> None:
    one = monthly_income(np.array([45.0]), np.array([11.0]), np.array([0.0]), np.array([40.0]), np.array([1.0]))[0]
    assert one == pytest.approx(1750.0)
    for place, value, factor in [
        (1, 12.0, 1.08),
        (2, 5.0, 1 + 0.35 * np.log(2)),
        (3, 20.0, 0.5),
        (0, 10.0, 0.75),
        (4, 2.0, 2.0),
    ]:
        arguments = [45.0, 11.0, 0.0, 40.0, 1.0]
        arguments[place] = value
        assert monthly_income(*(np.array([a]) for a in arguments))[0] == pytest.approx(one * factor)


def test_a_year_of_experience_earns_less_the_more_there_are() -> None:
    years = np.arange(0.0, 40.0)
    same = np.full(40, 40.0)
    gains = np.diff(monthly_income(same, same / 4, years, same, same / 40))
    assert (gains > 0).all()
    assert (np.diff(gains) < 0).all()


def test_the_noise_is_a_share_of_the_income() -> None:
    ratio = number(rows(people(noise=0.1), 1, 20_000), "income") / number(rows(people(noise=0.0), 1, 20_000), "income")
    assert ratio.mean() == pytest.approx(1.0, abs=0.005)
    assert ratio.std() == pytest.approx(0.1, rel=0.05)


def test_incomes_look_like_those_of_a_household_survey() -> None:
    incomes = number(rows(people(), 1, 20_000), "income")
    assert 3000 < incomes.mean() < 3600
    assert np.median(incomes) < incomes.mean()
    assert incomes.min() > 0


@pytest.mark.parametrize("kind", ["abrupt", "gradual", "recurring"])
def test_planted_drift_multiplies_the_income_from_its_row_on(kind: Any) -> None:
    drift = config.Drift(kind=kind, at=2001, rows=500, factor=1.5)
    plain, drifted = (number(rows(people(drift=d), 1, 4000), "income") for d in ((), (drift,)))
    assert (plain[:2000] == drifted[:2000]).all()
    expected = {"abrupt": 1.5, "gradual": 1.5, "recurring": 1.0}[kind]
    assert drifted[2500:3000] / plain[2500:3000] == pytest.approx(np.full(500, expected), rel=1e-3)
    assert drifted[2500:3000].mean() == pytest.approx(expected * plain[2500:3000].mean(), rel=1e-3)
    assert (drifted[2000:2500] != plain[2000:2500]).sum() >= (499 if kind == "gradual" else 500)


def test_event_times_begin_at_the_start_and_are_an_interval_apart() -> None:
    times = rows(people(start_time="2026-01-31T12:00:00+02:00", interval_s=0.25), 1, 4001).column("event_time").to_pylist()
    begin = datetime(2026, 1, 31, 10, tzinfo=UTC)
    assert times[:2] == [begin, begin + timedelta(seconds=0.25)]
    assert times[4000] == begin + timedelta(seconds=1000)


def test_event_times_end_with_the_calendar() -> None:
    times = rows(people(interval_s=1e15), 1, 3).column("event_time").to_pylist()
    assert [time.year for time in times] == [2026, 9999, 9999]


def test_the_time_of_the_first_start_is_kept_over_restarts() -> None:
    settings = config.Generator()
    first = PeopleSource(settings, SCHEMA, now_us=lambda: 1_000_000).read(None, 2)
    again = PeopleSource(settings, SCHEMA, now_us=lambda: 999_000_000).read(first.next, 1)
    assert again.batch.column("event_time").to_pylist() == [datetime(1970, 1, 1, 0, 0, 1, 20_000, UTC)]


def test_it_ends_after_the_limit() -> None:
    source = people(limit=1500)
    part = source.read(None, 1400)
    last = source.read(part.next, 1400)
    assert (part.batch.num_rows, last.batch.num_rows) == (1400, 100)
    assert source.read(last.next, 10).batch.num_rows == 0
    assert people(limit=0).read(None, 10).batch.num_rows == 0


def test_it_can_begin_some_rows_back() -> None:
    assert people().read("people.1005.0", 3, back=10).batch.equals(rows(people(), 996, 3))
    assert people().read("people.5.0", 3, back=10).batch.equals(rows(people(), 1, 3))


@pytest.mark.parametrize("cursor", ["", "7", "replay.7.hour.csv", "people.-1.0", "people.1", "latest"])
def test_a_position_of_something_else_is_refused(cursor: str) -> None:
    with pytest.raises(CursorError, match=r"source people: position .* is not one of its own"):
        people().read(cursor, 1)


@pytest.mark.parametrize("locale", ["xx_YY", "brazil", "pt_BR "])
def test_an_unknown_locale_is_a_config_error(locale: str) -> None:
    with pytest.raises(ConfigError, match=r"generator\.locale = "):
        people(locale=locale)


@pytest.mark.parametrize("text", ["soon", "2026-13-01", ""])
def test_an_unreadable_start_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"generator\.start_time = "):
        people(start_time=text)


def test_another_schema_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"generator\.source = 'people': \[schema\] is not the demo's"):
        PeopleSource(config.Generator(), Schema((Field("x", "float"),), target="y"))


def test_bounds_of_the_demos_fields_may_be_other_ones() -> None:
    fields = tuple(Field(f.name, f.kind) for f in SCHEMA.fields)
    source = PeopleSource(config.Generator(start_time="2026-01-01"), Schema(fields, SCHEMA.target, SCHEMA.timestamp))
    assert source.read(None, 10).batch.equals(people().read(None, 10).batch)
