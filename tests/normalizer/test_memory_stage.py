"""Laws of the normalizer's step with features that remember."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.normalizer.test_normalizer_service import served
from tests.tools import PATIENCE_S

from correnteza import config, events
from correnteza.codec import ARROW
from correnteza.definition import Feature
from correnteza.errors import ConfigError, DamagedLogError, LogUnavailableError
from correnteza.events import Events
from correnteza.features import Scalers
from correnteza.log.base import Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.memory import Limits, Memory, waiting
from correnteza.normalizer import service as normalizer
from correnteza.normalizer.deriving import OUTCOME, OUTCOME_TYPE, Deriving
from correnteza.normalizer.reading import OUTCOMES, RecordsAndOutcomes
from correnteza.normalizer.remembering import Remembered
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import Field, Schema
from correnteza.testing import read_all, wait_for

START = datetime(2026, 1, 1, tzinfo=UTC)
RAW = Schema((Field("at", "timestamp"), Field("x", "float", minimum=0), Field("shop", "category")), target="y", timestamp="at")
FEATURES = (
    Feature("last", ("y",), "lag", rows=1),
    Feature("last_of_shop", ("y",), "lag", rows=1, by="shop"),
    Feature("mean_5s", ("y",), "mean", seconds=5.0, by="shop"),
    Feature("rise", ("x",), "delta", rows=2),
    Feature("spread", ("x",), "std", rows=4, by="shop"),
    Feature("second", ("at",), "since", by="shop"),
    Feature("hour", ("at",), "hour_cyclic"),
    Feature("share", ("x", "x"), "ratio"),
)
SCHEMA = RAW.with_derived(FEATURES)
LIMITS = Limits(keys=2, rows=6, block_rows=5, snapshot_rows=10)
BATCH = pa.schema([pa.field("offset", pa.int64()), *RAW.raw, pa.field(OUTCOME, OUTCOME_TYPE)])


def stage_with(limits: Limits, recall: Any = None) -> NormalizerStage:
    stage = NormalizerStage(SCHEMA, config.Normalizer(block_rows=6), recall)
    stage.deriving = Deriving(SCHEMA, limits, recall)
    return stage


records = st.fixed_dictionaries(
    {
        "x": st.sampled_from([None, 0.0, 0.1, 2.5, 1e9, -1.0]),
        "shop": st.sampled_from(["a", "b", "c", None]),
        "y": st.sampled_from([None, None, 1.0, 2.5, -7.0]),
        "step_s": st.integers(0, 3),
    }
)
outcomes = st.fixed_dictionaries({"of": st.integers(-8, 3), "y": st.sampled_from([3.0, 4.5])})
streams = st.lists(st.one_of(records, records, outcomes), max_size=40)
cuts = st.lists(st.integers(0, 40), max_size=6)


def rows_of(stream: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    """Records and outcomes; an outcome is for a record so many before or, early, so many after it."""
    rows: list[dict[str, Any]] = []
    at, offset = START, 0
    for one in stream:
        if "of" in one:
            rows.append({"offset": offset, OUTCOME: {"id": f"r{offset + one['of']}", "target": one["y"]}})
            continue
        offset += 1
        at += timedelta(seconds=one["step_s"])
        rows.append({"offset": offset, "id": f"r{offset}", "at": at, **{name: one[name] for name in ("x", "shop", "y")}})
    return pa.RecordBatch.from_pylist(rows, schema=BATCH)


def run(
    stage: NormalizerStage, batch: pa.RecordBatch, places: Sequence[int], twice: bool = False
) -> tuple[dict[str, list[Any]], bytes]:
    state, found = stage.initial(), dict[str, list[Any]]()
    for begin, end in pairwise(sorted({0, *(p for p in places if p < batch.num_rows), batch.num_rows})):
        part = batch.slice(begin, end - begin)
        if twice:
            stage.step(state, part)  # what a commit that failed leaves behind
        step = stage.step(stage.load(stage.dump(state)), part)
        state = step.state
        for name, rows in step.outputs.items():
            assert rows.schema == stage.outputs[name]
            found.setdefault(name, []).extend(rows.to_pylist())
    return {name: rows for name, rows in found.items() if rows}, stage.dump(state)


def restored(row: dict[str, Any], name: str, scalers: Scalers) -> float | None:
    """A value of a row of `normalized` in its own unit."""
    scaler, place = scalers.versions[row["scaler_version"]], SCHEMA.numeric.index(name)
    return None if row[name] is None else row[name] * scaler.scale[place] + scaler.mean[place]


@settings(deadline=None, max_examples=120)
@given(streams, cuts, st.booleans())
def test_neither_cuts_nor_repeated_steps_change_a_row(stream: list[dict[str, Any]], places: list[int], twice: bool) -> None:
    batch = rows_of(stream)
    assert run(stage_with(LIMITS), batch, places, twice) == run(stage_with(LIMITS), batch, [])


@settings(deadline=None, max_examples=60)
@given(streams, cuts)
def test_a_stage_that_is_started_again_makes_the_same_rows(stream: list[dict[str, Any]], places: list[int]) -> None:
    batch, store = rows_of(stream), MemoryStore()
    expected, _ = run(stage_with(LIMITS), batch, [])
    kept = Remembered(store, SCHEMA, LIMITS, None)
    logs = {name: store.log(name, schema) for name, schema in stage_with(LIMITS).outputs.items()}
    state = stage_with(LIMITS).dump(stage_with(LIMITS).initial())
    snapshot_rows: list[dict[str, Any]] = []
    for begin, end in pairwise(sorted({0, *(p for p in places if p < batch.num_rows), batch.num_rows})):
        stage = stage_with(LIMITS, kept.recall)  # a new process
        step = stage.step(stage.load(state), batch.slice(begin, end - begin))
        for name, rows in step.outputs.items():
            logs[name].append(rows)
        snapshot_rows += step.outputs["snapshots"].to_pylist() if "snapshots" in step.outputs else []
        state = stage.dump(step.state)
        kept.trim(stage.deriving.snapshot_offset)
    for name in ("normalized", "rejected", "scalers", "categories"):
        plain = [{k: v for k, v in row.items() if k != "offset"} for row in read_all(logs[name])]
        assert plain == expected.get(name, []), name
    assert snapshot_rows == expected.get("snapshots", [])
    assert kept.entries.bounds().next - 1 == len(expected.get("memory", []))


@pytest.mark.parametrize("delay_rows", [0, 1, 7, 50])
def test_a_target_that_would_tell_all_tells_nothing_through_a_lag(delay_rows: int) -> None:
    """Each record has a target of its own, so whoever sees it in a feature has looked ahead."""
    stage, seen, scalers = stage_with(Limits()), list[dict[str, Any]](), Scalers(SCHEMA.numeric)
    state = stage.initial()
    for part in interleaved(300, delay_rows):
        step = stage.step(state, part)
        state = step.state
        if "scalers" in step.outputs:
            scalers.add(step.outputs["scalers"])
        seen += step.outputs["normalized"].to_pylist() if "normalized" in step.outputs else []
    assert [row["raw_offset"] for row in seen] == list(range(1, 301))
    for name, records_back in (("last", 1), ("last_of_shop", 3)):
        for row in seen:
            told = row["raw_offset"] - max(1, delay_rows)  # the last record whose target is known
            if row[name] is None:
                assert told < records_back
                continue
            of = round((restored(row, name, scalers) or 0.0) / 1000.0)
            assert told - records_back < of <= told, (row["raw_offset"], name)


def interleaved(count: int, delay_rows: int) -> list[pa.RecordBatch]:
    """Records n with the target 1000 n, told behind the record `delay_rows` later; 0: with the record."""
    rows: list[dict[str, Any]] = []
    for i in range(1, count + 1):
        # The outcome of an earlier record is there before the next one is made.
        if delay_rows and i > delay_rows:
            rows.append({"offset": i - 1, OUTCOME: {"id": f"r{i - delay_rows}", "target": 1000.0 * (i - delay_rows)}})
        at, y = START + timedelta(seconds=i), None if delay_rows else 1000.0 * i
        rows.append({"offset": i, "id": f"r{i}", "at": at, "x": 1.0, "shop": f"s{i % 3}", "y": y})
    batch = pa.RecordBatch.from_pylist(rows, schema=BATCH)
    return [batch.slice(begin, 37) for begin in range(0, batch.num_rows, 37)]


def test_records_and_outcomes_are_read_once_and_outcomes_not_ahead_of_records() -> None:
    store = MemoryStore()
    raw, told = store.log("raw", RAW.raw), store.log("outcomes", OUTCOMES)
    source = RecordsAndOutcomes(raw, told, Events("normalizer", store.log("events", events.SCHEMA)))
    raw.append(pa.RecordBatch.from_pylist([{"id": f"r{i}", "x": 1.0} for i in range(1, 101)], schema=RAW.raw))
    told.append(pa.RecordBatch.from_pylist([{"id": f"r{i}", "target": float(i)} for i in range(1, 91)], schema=OUTCOMES))
    position, ids, labels = None, list[str](), list[str]()
    while True:
        part = source.read(position, 16)
        position = part.next
        rows = part.batch.to_pylist()
        if not rows:
            break
        ids += [row["id"] for row in rows if row.get(OUTCOME) is None]
        labels += [row[OUTCOME]["id"] for row in rows if row.get(OUTCOME) is not None]
        if len(ids) < 100:
            assert set(labels) <= set(ids)
        assert [row["offset"] for row in rows] == sorted(row["offset"] for row in rows)
    assert ids == [f"r{i}" for i in range(1, 101)]
    assert labels == [f"r{i}" for i in range(1, 91)]


def test_records_do_not_wait_for_the_log_of_outcomes() -> None:
    class Away:
        def read(self, *_: Any, **__: Any) -> Any:
            raise LogUnavailableError("away")

    store = MemoryStore()
    raw = store.log("raw", RAW.raw)
    raw.append(pa.RecordBatch.from_pylist([{"id": "r1", "x": 1.0}], schema=RAW.raw))
    source = RecordsAndOutcomes(raw, Away(), Events("normalizer", store.log("events", events.SCHEMA)))
    assert source.read(None, 10).batch["id"].to_pylist() == ["r1"]


def test_a_state_without_its_memory_is_damage() -> None:
    stage, batch = stage_with(LIMITS), rows_of([{"x": 1.0, "shop": "a", "y": 1.0, "step_s": 1}] * 3)
    state = stage.step(stage.initial(), batch).state
    with pytest.raises(DamagedLogError, match="log memory: the memory made of it ends at offset 0, and the state at 3"):
        stage_with(LIMITS).step(state, batch)


def test_changed_definitions_are_refused_by_name() -> None:
    old = stage_with(LIMITS)
    other = NormalizerStage(RAW.with_derived((Feature("last", ("y",), "lag", rows=2), *FEATURES[1:])), config.Normalizer())
    with pytest.raises(ConfigError, match=r"feature 'last' was .* and is "):
        other.load(old.dump(old.initial()))


def test_a_missing_key_and_forgotten_keys_are_events() -> None:
    shops = [None, *(f"s{i}" for i in range(9))]
    batch = rows_of([{"x": 1.0, "shop": shop, "y": 1.0, "step_s": 1} for shop in shops])
    stage = stage_with(LIMITS)
    told = {event.kind: event.detail for event in stage.step(stage.initial(), batch).events}
    assert told["key_missing"] == {"by": "shop", "records": 1}
    assert told["keys_forgotten"]["by"] == "shop"


@given(cuts)
@settings(deadline=None, max_examples=20)
def test_times_that_run_back_by_years_are_counted_and_windows_hold_what_lies_in_them(places: list[int]) -> None:
    """However the stream is cut; a clock that is years ahead once makes one such record, not all that follow."""
    years = [2026, 2026, 2021, 2021, 9999, 2021, 2021, 1, 2026, 2026]
    rows = [
        {"offset": i, "id": f"r{i}", "at": datetime(year, 1, 1, 0, 0, i, tzinfo=UTC), "x": 1.0, "shop": "a", "y": float(i)}
        for i, year in enumerate(years, 1)
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=BATCH)
    stage, scalers = NormalizerStage(SCHEMA, config.Normalizer()), Scalers(SCHEMA.numeric)
    state, told, means = stage.initial(), list[Any](), list[float | None]()
    for begin, end in pairwise(sorted({0, *(p for p in places if p < len(years)), len(years)})):
        step = stage.step(stage.load(stage.dump(state)), batch.slice(begin, end - begin))
        state = step.state
        told += [event.detail for event in step.events if event.kind == "times_ran_back"]
        if "scalers" in step.outputs:
            scalers.add(step.outputs["scalers"])
        means += [restored(row, "mean_5s", scalers) for row in step.outputs["normalized"].to_pylist()]
    assert sum(detail["records"] for detail in told) == 3
    assert min(detail["first_raw_offset"] for detail in told) == 3
    assert max(detail["farthest_s"] for detail in told) > 7000 * 365 * 86400
    assert means == pytest.approx([None, 1.0, None, 3.0, None, 3.5, 13 / 3, None, None, 9.0])


def test_outcomes_that_no_record_came_for_are_counted_once_they_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "EARLY_ROWS", 3)
    stage, told = stage_with(LIMITS), list[int]()
    state, record = stage.initial(), {"x": 1.0, "shop": "a", "y": 1.0, "step_s": 1}
    for part in ([{"of": -9 - i, "y": 3.0} for i in range(5)], [{"of": -20, "y": 3.0}], [record] * 5, [record] * 5):
        step = stage.step(state, rows_of(part))
        state = step.state
        told += [event.detail["outcomes"] for event in step.events if event.kind == "outcomes_forgotten"]
    assert told == [2, 1]


def test_more_keys_than_may_be_are_let_go_and_counted_and_those_seen_last_keep_their_memory() -> None:
    keys, limit = 30_000, 1000
    stage = NormalizerStage(SCHEMA, config.Normalizer(memory_keys=limit))
    rows = {
        "offset": np.arange(1, keys + 1),
        "id": [f"r{i}" for i in range(keys)],
        "at": pa.array([START] * keys, BATCH.field("at").type),
        "x": np.ones(keys),
        "shop": [f"s{i}" for i in range(keys)],
        "y": np.arange(keys, dtype=float),
        OUTCOME: pa.nulls(keys, OUTCOME_TYPE),
    }
    first = stage.step(stage.initial(), pa.RecordBatch.from_pydict(rows, schema=BATCH))
    gone = sum(event.detail["keys"] for event in first.events if event.kind == "keys_forgotten")
    again = pa.RecordBatch.from_pydict(rows, schema=BATCH).take(pa.array([0, keys - 1]))
    held = 8192 * (keys // 8192)  # keys go at whole blocks
    assert gone == held - limit * 15 // 16
    found = stage.step(first.state, again).outputs["normalized"]["last_of_shop"].to_pylist()
    assert found[0] is None
    assert found[1] is not None


def built(tmp_path: Path, store: Store) -> tuple[Any, Any]:
    table = {
        "pipeline": {"data_dir": str(tmp_path)},
        "schema": {"target": "y", "timestamp": "at", "fields": {"x": "float", "shop": "category"}},
        "features": [{"name": "last", "of": "y", "how": "lag", "rows": 1, "by": "shop"}],
    }
    loaded = config.load(overrides=table)
    source = MemoryStore()
    raw, told = source.log("raw", loaded.schema_of_records.raw), source.log("outcomes", OUTCOMES)
    app, service = normalizer.build(loaded, store, raw, told)
    rows = [{"id": f"r{i}", "at": START, "x": 1.0, "shop": f"s{i % 5}", "y": None if i % 2 else 1.5 * i} for i in range(250)]
    raw.append(pa.RecordBatch.from_pylist(rows, schema=raw.schema))
    told.append(pa.RecordBatch.from_pylist([{"id": f"r{i}", "target": 0.5} for i in range(1, 250, 2)], schema=OUTCOMES))
    return app, service


def test_a_follower_over_http_has_the_memory_of_the_normalizer(tmp_path: Path) -> None:
    store = SqlStore(tmp_path / "n.db")
    app, service = built(tmp_path, store)
    (runner,) = service.runners
    failures: list[BaseException] = []
    with served(app, service) as url:
        runner.start(failures.append)
        wait_for(lambda: runner.figures.rows >= 375, "all records and outcomes")
        snapshot = requests.get(f"{url}/memory/snapshot", timeout=PATIENCE_S)
        query = {"after": snapshot.headers["Next-Cursor"], "limit": "1000"}
        answer = requests.get(f"{url}/memory", query, headers={"Accept": ARROW}, timeout=PATIENCE_S)
        status = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
        runner.stop()
    assert failures == []
    assert pa.ipc.open_stream(snapshot.content).read_all().num_rows == 0
    schema = service.settings.schema_of_model
    follower = Memory(schema)
    follower.replay(pa.concat_batches(pa.ipc.open_stream(answer.content).read_all().to_batches()))
    asked = pa.RecordBatch.from_pylist([{"x": 1.0, "shop": f"s{i}"} for i in range(6)], schema=schema.recorded.raw)
    assert follower.offset == status["memory"]["rows"] == 375
    assert np.nan_to_num(follower.vector(asked)["last"], nan=-1.0).tolist() == [0.5, 369.0, 0.5, 372.0, 0.5, -1.0]
    store.close()
