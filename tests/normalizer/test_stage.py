"""Laws of the normalizer's step."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.config import Normalizer, demo_schema
from correnteza.errors import ConfigError, DamagedLogError
from correnteza.features import Scalers
from correnteza.normalizer.stage import NormalizerStage, NormalizerState
from correnteza.records import Field, Schema, empty, with_offsets

SCHEMA = Schema(
    (
        Field("at", "timestamp"),
        Field("age", "float", minimum=0, maximum=130),
        Field("rooms", "integer", minimum=0),
        Field("job", "category", required=True),
        Field("city", "category"),
        Field("note", "text"),
    ),
    target="income",
    timestamp="at",
)
SETTINGS = Normalizer(block_rows=6, max_categories=3)
AT = datetime(2026, 1, 2, tzinfo=UTC)
GOOD = {"id": "a", "at": AT, "age": 30.0, "rooms": 2, "job": "cook", "city": "Rio", "note": "x", "income": 10.0}

rows_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text("abc", min_size=1, max_size=2),
            "at": st.sampled_from([None, AT]),
            "age": st.sampled_from([None, 0.0, 12.5, 47.0, 130.0, -1.0, math.nan, math.inf]),
            "rooms": st.sampled_from([None, 0, 3, 2**53, -4, 2**53 + 1]),
            "job": st.sampled_from([None, "cook", "nurse", "pilot", "judge", "smith"]),
            "city": st.sampled_from([None, "", "Rio", "Belém"]),
            "note": st.sampled_from([None, "n" * 10_001, "short"]),
            "income": st.sampled_from([None, 1.0, 2e6, -math.inf]),
        }
    ),
    max_size=40,
)
cuts = st.lists(st.integers(0, 40), max_size=6)


def raw(rows: Sequence[dict[str, Any]], first: int = 1, schema: Schema = SCHEMA) -> pa.RecordBatch:
    return with_offsets(pa.RecordBatch.from_pylist(list(rows), schema=schema.raw), first)


def outputs_of(stage: NormalizerStage, batches: Sequence[pa.RecordBatch]) -> tuple[dict[str, pa.Table], bytes, list[str]]:
    """All rows of every log, the state's bytes and the kinds of events, with a restart after each batch."""
    parts: dict[str, list[pa.RecordBatch]] = {name: [empty(schema)] for name, schema in stage.outputs.items()}
    blob, kinds = stage.dump(stage.initial()), []
    for batch in batches:
        step = stage.step(stage.load(blob), batch)
        for name, rows in step.outputs.items():
            assert rows.schema == stage.outputs[name]
            assert rows.num_rows
            parts[name].append(rows)
        blob = stage.dump(step.state)
        kinds += [event.kind for event in step.events]
    return {name: pa.Table.from_batches(batches) for name, batches in parts.items()}, blob, kinds


def cut(batch: pa.RecordBatch, places: Sequence[int]) -> list[pa.RecordBatch]:
    ends = sorted({p for p in places if p < batch.num_rows} | {batch.num_rows})
    parts = [batch.slice(begin, end - begin) for begin, end in zip([0, *ends], ends, strict=False)]
    return [part for part in parts if part.num_rows]


@settings(deadline=None, max_examples=80)
@given(rows_of_any_kind, cuts)
def test_any_cut_gives_the_same_logs_and_state(rows: list[dict[str, Any]], places: list[int]) -> None:
    stage, batch = NormalizerStage(SCHEMA, SETTINGS), raw(rows, 5)
    whole, blob, kinds = outputs_of(stage, cut(batch, []))
    parts, blob_of_parts, kinds_of_parts = outputs_of(stage, cut(batch, places))
    for name, table in whole.items():
        assert table.equals(parts[name]), name
    assert blob == blob_of_parts
    assert [k for k in kinds if k != "records_rejected"] == [k for k in kinds_of_parts if k != "records_rejected"]


@settings(deadline=None, max_examples=60)
@given(rows_of_any_kind)
def test_every_raw_row_is_in_exactly_one_of_normalized_and_rejected(rows: list[dict[str, Any]]) -> None:
    logs, _, kinds = outputs_of(NormalizerStage(SCHEMA, SETTINGS), cut(raw(rows, 3), []))
    good, bad = (logs[name].column("raw_offset").to_pylist() for name in ("normalized", "rejected"))
    assert sorted(good + bad) == list(range(3, 3 + len(rows)))
    assert (good, bad) == (sorted(good), sorted(bad))
    assert ("records_rejected" in kinds) == bool(bad)


@settings(deadline=None, max_examples=60)
@given(rows_of_any_kind)
def test_normalized_rows_can_be_turned_back_into_the_raw_ones(rows: list[dict[str, Any]]) -> None:
    logs, _, _ = outputs_of(NormalizerStage(SCHEMA, SETTINGS), cut(raw(rows), []))
    scalers = Scalers(SCHEMA.numeric)
    for part in logs["scalers"].to_batches():
        scalers.add(part)
    codes = {(r["field"], r["code"]): r["value"] for r in logs["categories"].to_pylist()}
    for out in logs["normalized"].to_pylist():
        given_row = rows[out["raw_offset"] - 1]
        numbers = np.array([[np.nan if out[n] is None else out[n] for n in SCHEMA.numeric]])
        restored = scalers.versions[out["scaler_version"]].restore(numbers)[0]
        for name, value in zip(SCHEMA.numeric, restored, strict=True):
            assert given_row[name] == pytest.approx(value, rel=1e-9, abs=1e-9 * 2**53) if out[name] is not None else True
            assert (out[name] is None) == (given_row[name] is None)
        for name in SCHEMA.categories:
            value = given_row[name] or None
            assert (out[name] is None) == (value is None)
            assert out[name] in (None, 0.0) or codes[name, out[name]] == value
        assert (out["id"], out["at"], out["income"]) == (given_row["id"], given_row["at"], given_row["income"])


def test_a_category_that_only_invalid_rows_have_gets_no_code() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    step = stage.step(stage.initial(), raw([GOOD, {**GOOD, "job": "spy", "age": -1.0}]))
    assert step.outputs["categories"].column("value").to_pylist() == ["cook", "Rio"]
    assert step.state.scaling.fitted_rows == 1


def test_a_rejected_record_keeps_its_reasons_and_its_values() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    step = stage.step(stage.initial(), raw([GOOD, {**GOOD, "id": "b", "age": math.nan, "job": None, "note": "ç"}], 8))
    (row,) = step.outputs["rejected"].to_pylist()
    assert (row["raw_offset"], row["id"], row["field"]) == (9, "b", "age")
    assert row["reason"] == "nan is not within 0 and 130; job: is missing; a value is required"
    record = json.loads(row["record"], parse_constant=pytest.fail)
    assert record == {**GOOD, "id": "b", "age": "nan", "job": None, "note": "ç", "at": "2026-01-02 00:00:00.000000Z"}
    (event,) = [e for e in step.events if e.kind == "records_rejected"]
    assert dict(event.detail) == {"records": 1, "fields": {"age": 1, "job": 1}, "first_raw_offset": 9}
    assert "1 of 2 records" in event.reason


def test_a_time_beyond_the_calendar_does_not_stop_the_stream() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    batch = raw([{**GOOD, "age": -1.0}])
    far = pa.array([2**62], SCHEMA.raw.field("at").type)
    step = stage.step(stage.initial(), batch.set_column(batch.schema.get_field_index("at"), "at", far))
    assert json.loads(step.outputs["rejected"].column("record")[0].as_py())["at"].startswith("17036-")


def test_unlabelled_rows_are_passed_on() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    step = stage.step(stage.initial(), raw([{**GOOD, "income": None}]))
    assert step.outputs["normalized"].column("income").to_pylist() == [None]


def test_version_1_is_the_identity_and_is_written_by_the_first_step_alone_even_if_all_is_rejected() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    first = stage.step(stage.initial(), raw([{**GOOD, "age": -1.0}]))
    assert set(first.outputs) == {"rejected", "scalers"}
    assert first.outputs["scalers"].to_pylist() == [
        {"version": 1, "raw_offset": 0, "field": name, "n": 0, "mean": 0.0, "variance": 1.0, "scale": 1.0}
        for name in ("age", "rooms")
    ]
    second = stage.step(first.state, raw([GOOD], 2))
    assert second.outputs["scalers"].column("version").to_pylist() == [2, 2]
    assert second.outputs["normalized"].column("scaler_version").to_pylist() == [1]


def test_a_new_version_is_an_event_that_names_what_moved() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    step = stage.step(stage.initial(), raw([{**GOOD, "rooms": None}], 4))
    (event,) = step.events
    assert (event.kind, dict(event.detail)) == ("scaler_version", {"version": 2, "raw_offset": 4, "fields": ["age"]})


def test_the_cap_of_categories_is_one_event_per_field() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    state: NormalizerState = stage.initial()
    seen = []
    for offset, job in enumerate(["a", "b", "c", "d", "e", "a"], 1):
        step = stage.step(state, raw([{**GOOD, "job": job}], offset))
        state = step.state
        seen += [(offset, e.detail["field"]) for e in step.events if e.kind == "category_cap"]
    assert seen == [(4, "job")]


def test_codes_survive_being_written_down() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    jobs = ["zebra", "ape", "ç" * 5000]
    state = stage.step(stage.initial(), raw([{**GOOD, "job": job} for job in jobs])).state
    loaded = stage.load(stage.dump(state))
    assert list(loaded.codes["job"].codes.items()) == [(job, code) for code, job in enumerate(jobs, 1)]
    assert stage.dump(loaded) == stage.dump(state)


@pytest.mark.parametrize("kept", ["numeric", "category"])
def test_a_schema_may_lack_numbers_or_categories(kept: str) -> None:
    fields = tuple(f for f in SCHEMA.fields if f.numeric == (kept == "numeric") and f.kind in ("float", "integer", "category"))
    schema = Schema(fields, target="income")
    stage = NormalizerStage(schema, SETTINGS)
    row = {name: value for name, value in GOOD.items() if name in schema.raw.names}
    logs, _, _ = outputs_of(stage, cut(raw([row] * 9, schema=schema), [2, 5]))
    assert logs["normalized"].num_rows == 9
    assert logs["normalized"].schema.names == schema.normalized.names


def changed(**values: Any) -> Schema:
    return Schema.from_dict({**SCHEMA.as_dict(), **values})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (changed(target="rent"), "target was 'income' and is 'rent'"),
        (changed(fields=SCHEMA.as_dict()["fields"][:-1]), "field 'note' is gone"),
        (Schema((*SCHEMA.fields, Field("pets", "integer")), "income", "at"), "field 'pets' is new"),
        (
            Schema((*SCHEMA.fields[:-1], Field("note", "category")), "income", "at"),
            "kind of field 'note' was 'text' and is 'cat",
        ),
        (changed(fields=SCHEMA.as_dict()["fields"][::-1]), "another order"),
    ],
)
def test_a_state_of_another_schema_is_refused_with_what_changed_and_the_fix(schema: Schema, named: str) -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    with pytest.raises(ConfigError, match=named) as refused:
        NormalizerStage(schema, SETTINGS).load(stage.dump(stage.initial()))
    assert "[pipeline] name or data_dir" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_damaged_bytes_of_a_state_are_refused_as_such() -> None:
    stage = NormalizerStage(SCHEMA, SETTINGS)
    blob = stage.dump(stage.step(stage.initial(), raw([GOOD] * 3)).state)
    for bad in (b"", blob[:-1], blob[:40], b"\xc1" + blob, blob.replace(b"\xa6format\x02", b"\xa6format\x63")):
        with pytest.raises(DamagedLogError, match="state of stage 'normalizer'"):
            stage.load(bad)


def test_the_demo_schema_is_normalized_to_its_documented_columns() -> None:
    schema = demo_schema().build()
    stage = NormalizerStage(schema, Normalizer())
    row = {"id": "p", "event_time": AT, "job": "cook", "age": 30.0, "income": 5.0}
    step = stage.step(stage.initial(), raw([row], schema=schema))
    assert step.outputs["normalized"].schema == schema.normalized
