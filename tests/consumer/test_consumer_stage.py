"""Laws of the consumer's step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.consumer.stage import ASKED, ConsumerStage, Mode
from correnteza.errors import DamagedLogError
from correnteza.records import with_offsets
from correnteza.testing import check_stage, run_stage

METRIC_ROWS = 8

numbers = st.floats(-1e9, 1e9)
asked = st.fixed_dictionaries(
    {
        "record_id": st.sampled_from(["a", "b", None]),
        "input": st.just('{"age":3}'),
        "target": st.none() | numbers,
        "prediction": numbers,
        "lower": st.none() | numbers,
        "model_version": st.none() | st.integers(1, 9),
        "prediction_id": st.sampled_from(["p", None]),
        "latency_ms": st.floats(0.1, 9.0),
        "refused": st.none() | st.none() | st.just("too old"),
    }
)
batches = st.lists(asked, min_size=1, max_size=40)
cuts = st.lists(st.integers(0, 40), max_size=6)
modes = st.sampled_from(["random", "records"])


def batch_of(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return with_offsets(pa.RecordBatch.from_pylist(rows, schema=ASKED), 11)


@given(modes, batches, cuts)
def test_cuts_and_restarts_change_nothing(mode: Mode, rows: list[dict[str, Any]], places: list[int]) -> None:
    check_stage(ConsumerStage(mode, METRIC_ROWS), batch_of(rows), [p for p in places if p < len(rows)])


@given(batches, cuts)
def test_every_row_goes_out_once_in_order(rows: list[dict[str, Any]], places: list[int]) -> None:
    found, _ = run_stage(ConsumerStage("records", METRIC_ROWS), batch_of(rows), [p for p in places if p < len(rows)])
    offsets = {name: [row["raw_offset"] for row in found.get(name, [])] for name in ("results", "rejected")}
    assert offsets["results"] == [11 + i for i, row in enumerate(rows) if row["refused"] is None]
    assert offsets["rejected"] == [11 + i for i, row in enumerate(rows) if row["refused"] is not None]


@given(batches)
def test_the_rolling_error_equals_numpy(rows: list[dict[str, Any]]) -> None:
    stage = ConsumerStage("records", METRIC_ROWS)
    state = stage.step(stage.initial(), batch_of(rows)).state
    known = [(r["prediction"], r["target"]) for r in rows if r["refused"] is None and r["target"] is not None]
    expected = np.abs(np.subtract(*np.array(known[-METRIC_ROWS:]).T)).mean() if known else None
    assert state.rolling_mae == expected
    assert state.labelled == len(known)
    assert state.errors.size <= METRIC_ROWS


@given(batches)
def test_random_has_neither_truth_nor_offset(rows: list[dict[str, Any]]) -> None:
    stage = ConsumerStage("random", METRIC_ROWS)
    step = stage.step(stage.initial(), batch_of(rows))
    for output in step.outputs.values():
        assert output["raw_offset"].null_count == output.num_rows
    if "results" in step.outputs:
        assert step.outputs["results"]["target"].null_count == step.outputs["results"].num_rows
        assert step.outputs["results"]["error"].null_count == step.outputs["results"].num_rows
    assert step.state.rolling_mae is None


def test_what_was_asked_and_answered_is_kept() -> None:
    row = {
        "record_id": "a",
        "input": '{"id":"a","age":3}',
        "target": 8.0,
        "prediction": 10.5,
        "lower": 9.0,
        "upper": 12.0,
        "model_version": 4,
        "prediction_id": "p",
        "latency_ms": 1.25,
    }
    stage = ConsumerStage("records", METRIC_ROWS)
    out = stage.step(stage.initial(), batch_of([row])).outputs["results"].to_pylist()[0]
    assert out == {**row, "mode": "records", "raw_offset": 11, "error": 2.5}


@given(st.integers(1, 40), cuts)
def test_refusals_are_told_at_powers_of_two(refusals: int, places: list[int]) -> None:
    """The events do not depend on the cuts either, and their number grows with the logarithm."""
    rows = batch_of([{"record_id": "a", "input": "{}", "refused": "too old"}] * refusals)
    stage = ConsumerStage("records", METRIC_ROWS)
    state, told = stage.initial(), []
    edges = sorted({0, refusals, *(p for p in places if p < refusals)})
    for start, end in pairwise(edges):
        step = stage.step(state, rows.slice(start, end - start))
        state = step.state
        told += [(event.detail["refused"], event.detail["offset"]) for event in step.events]
    assert told == [(2**k, 10 + 2**k) for k in range(refusals.bit_length())]
    assert state.refused == refusals


def test_a_smaller_window_keeps_the_newest_errors() -> None:
    rows = [{"record_id": "a", "input": "{}", "prediction": float(i), "target": 0.0} for i in range(8)]
    wide = ConsumerStage("records", 8)
    state = wide.step(wide.initial(), batch_of(rows)).state
    assert ConsumerStage("records", 3).load(wide.dump(state)).errors.tolist() == [5.0, 6.0, 7.0]


@pytest.mark.parametrize("blob", [b"", b"CON1", b"xxxx" + bytes(24), b"CON1" + bytes(27)])
def test_a_damaged_state_is_not_read(blob: bytes) -> None:
    with pytest.raises(DamagedLogError, match="consumer_records"):
        ConsumerStage("records", METRIC_ROWS).load(blob)
