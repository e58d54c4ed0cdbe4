"""Laws of late labels: each record's truth comes once, so many rows later, whatever the cuts, kills and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza import config
from correnteza.errors import CursorError
from correnteza.generator.delay import Delayed, delay_rows
from correnteza.generator.people import PeopleSource
from correnteza.generator.posts import OUTCOMES
from correnteza.generator.replay import ReplaySource
from correnteza.generator.stage import OUTCOMES as WRITTEN
from correnteza.generator.stage import GeneratorStage
from correnteza.records import Field, Schema
from correnteza.stage import Source

from .conftest import Running

PEOPLE = config.demo_schema().build()
SMALL = Schema((Field("x", "float"), Field("kind", "category")), target="y")
LINES = ["x,kind,y", "1,a,10", "2,b,20", "oops,a,30", "4,,", "5,c,fifty", "6,c,60", "7,a,70", "8,a,80"]
"""Rows 3 and 5 are rejected, row 4 has no target."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("late") / "a.csv"
    path.write_text("\n".join(LINES))
    return path


def of_file(path: Path, rows: int) -> Delayed:
    wanted = config.Generator(source="replay", path=path)
    return Delayed(ReplaySource(wanted, SMALL), lambda: ReplaySource(wanted, SMALL), SMALL, rows)


def of_people(limit: int, rows: int) -> Delayed:
    wanted = config.Generator(start_time="2026-01-01", limit=limit)
    return Delayed(PeopleSource(wanted, PEOPLE), lambda: PeopleSource(wanted, PEOPLE), PEOPLE, rows)


def run(make: Callable[[], Source], schema: Schema, limits: Iterator[int], restart: bool = True) -> dict[str, list[Any]]:
    """What a source and the stage make, read in parts; with a new source for each part, as after kills."""
    stage, source, after = GeneratorStage(schema), make(), None
    found: dict[str, list[Any]] = {"raw": [], "outcomes": [], "rejected": []}
    while True:
        source = make() if restart else source
        part = source.read(after, next(limits))
        if not part.batch.num_rows:
            return found
        for name, rows in stage.step(None, part.batch).outputs.items():
            found[name] += rows.to_pylist()
        after = part.next


def forever(values: list[int]) -> Iterator[int]:
    while True:
        yield from values


def test_the_stage_writes_the_columns_that_posts_write() -> None:
    assert WRITTEN.equals(OUTCOMES)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_each_truth_comes_once_and_the_records_have_none(file: Path, rows: int, limits: list[int]) -> None:
    plain = run(lambda: of_file(file, 0), SMALL, forever([100]))
    late = run(lambda: of_file(file, rows), SMALL, forever(limits))
    assert late["raw"] == [{**record, "y": None} for record in plain["raw"]]
    assert late["outcomes"] == [{"id": r["id"], "target": r["y"]} for r in plain["raw"] if r["y"] is not None]
    assert late["rejected"] == plain["rejected"]
    assert [r["field"] for r in plain["rejected"]] == ["x", "y"]


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_cuts_change_nothing(rows: int, limits: list[int]) -> None:
    def make() -> Source:
        return source

    source = of_people(50, rows)
    assert run(make, PEOPLE, forever(limits), restart=False) == run(make, PEOPLE, forever([1000]), restart=False)


def test_a_truth_comes_so_many_rows_after_its_record_and_the_last_ones_at_the_same_pace() -> None:
    source, after, sent = of_people(30, 10), None, []
    stage = GeneratorStage(PEOPLE)
    while (part := source.read(after, 4)).batch.num_rows:
        outputs = stage.step(None, part.batch).outputs
        sent.append(tuple(outputs[name].num_rows if name in outputs else 0 for name in ("raw", "outcomes")))
        after = part.next
    assert sent == [(4, 0), (4, 0), (4, 2), (4, 4), (4, 4), (4, 4), (4, 4), (2, 2), (0, 4), (0, 4), (0, 2)]
    assert after is not None
    assert source.read(after, 4).next == after


def test_a_limit_of_0_yields_nothing_and_keeps_the_position() -> None:
    source = of_people(30, 10)
    for after in (source.read(None, 7).next, source.read(source.read(None, 30).next, 5).next):
        part = source.read(after, 0)
        assert (part.batch.num_rows, part.next) == (0, after)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 9)), min_size=1, max_size=8))
def test_a_delay_that_changes_between_starts_loses_and_doubles_nothing(starts: list[tuple[int, int]]) -> None:
    plain = run(lambda: of_people(20, 0), PEOPLE, forever([100]))["raw"]
    stage, after = GeneratorStage(PEOPLE), None
    raw: list[dict[str, Any]] = []
    outcomes: list[dict[str, Any]] = []
    for rows, limit in [*starts, *[(3, 10)] * 10]:
        part = of_people(20, rows).read(after, limit)
        after = part.next
        if part.batch.num_rows:
            outputs = stage.step(None, part.batch).outputs
            raw += outputs["raw"].to_pylist() if "raw" in outputs else []
            outcomes += outputs["outcomes"].to_pylist() if "outcomes" in outputs else []
    assert [r["id"] for r in raw] == [r["id"] for r in plain]
    told = {r["id"]: r["income"] for r in raw if r["income"] is not None}
    assert not told.keys() & {o["id"] for o in outcomes}
    assert len(outcomes) + len(told) == 20
    assert told | {o["id"]: o["target"] for o in outcomes} == {r["id"]: r["income"] for r in plain}


@pytest.mark.parametrize("position", ["{", '{"head": 1}', "replay.1.a.csv"])
def test_a_foreign_position_is_refused(position: str) -> None:
    with pytest.raises(CursorError):
        of_people(5, 2).read(position, 1)


def test_a_file_that_lost_the_records_whose_truth_is_due_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(LINES))
    after = of_file(path, 6).read(None, 6).next
    path.write_text("\n".join(LINES[:2]))
    with pytest.raises(CursorError, match="was its file changed"):
        of_file(path, 2).read(after, 4)


def test_the_delay_in_rows_goes_by_the_rate_or_by_the_event_time() -> None:
    assert delay_rows(config.Generator()) == 0
    assert delay_rows(config.Generator(label_delay_s=2.5, records_per_second=10)) == 25
    assert delay_rows(config.Generator(label_delay_s=0.01, records_per_second=1)) == 1
    assert delay_rows(config.Generator(label_delay_s=3, records_per_second=0, interval_s=0.5)) == 6


Run = Callable[..., AbstractContextManager[Running]]


def test_a_running_generator_sends_records_first_and_their_truths_later(
    tmp_path: Path, wanted: Callable[..., config.Settings], run: Run
) -> None:
    people = {"source": "people", "limit": 40, "records_per_second": "inf", "interval_s": 1.0, "label_delay_s": 15}
    with run(wanted(tmp_path, schema=None, generator=people)) as generator:
        generator.until(lambda status: status["ended"])
        raw, outcomes = generator.rows(), generator.rows("outcomes")
    assert all(row["income"] is None for row in raw)
    assert [row["id"] for row in outcomes] == [row["id"] for row in raw]
    assert len(raw) == 40
    truth = PeopleSource(config.Generator(limit=40), PEOPLE).read(None, 40).batch["income"]
    assert pa.array([row["target"] for row in outcomes]).equals(truth)
