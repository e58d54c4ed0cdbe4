"""Laws of the error over time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.log.base import Policy
from correnteza.log.memory import MemoryLog, MemoryStore
from correnteza.trainer.curve import Block, curve
from correnteza.trainer.evaluation import EVALUATIONS, metrics

from .test_evaluation import evaluated


def log_of(rows: pa.RecordBatch) -> MemoryLog:
    log = MemoryStore().log("evaluations", EVALUATIONS)
    if rows.num_rows:
        log.append(rows)
    return log


def with_column(rows: pa.RecordBatch, name: str, values: list[float | int | None]) -> pa.RecordBatch:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(place), pa.array(values, rows.schema.field(place).type))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 120), st.integers(1, 40), st.integers(1, 12))
def test_each_block_has_the_metrics_of_its_rows_and_the_last_ones_are_told(count: int, size: int, most: int) -> None:
    rows = evaluated(count, versions=3)
    found = curve(log_of(rows), 0, size, most)
    assert [(b.first_offset, b.last_offset) for b in found] == [
        (first, min(first + size - 1, count)) for first in range(1, count + 1, size)
    ][-most:]
    for block in found:
        own = rows.slice(block.first_offset - 1, block.last_offset - block.first_offset + 1)
        expected = metrics(own)
        assert expected is not None
        assert (block.rows, block.model_version) == (expected.rows, own["model_version"][-1].as_py())
        assert block.mae == pytest.approx(expected.mae)
        assert block.baseline_mae == pytest.approx(expected.baseline_mae)
        assert block.coverage == (None if expected.coverage is None else pytest.approx(expected.coverage))


def test_who_asks_for_what_is_new_gets_the_same_curve_as_who_asks_for_all() -> None:
    rows, log, known = evaluated(95), log_of(evaluated(0)), list[Block]()
    for start in range(0, 95, 13):
        log.append(rows.slice(start, 13))
        known = [block for block in known if block.last_offset % 10 == 0]
        known += curve(log, known[-1].last_offset if known else 0, 10, 500)
        assert known == curve(log, 0, 10, 500)
        assert curve(log, known[-1].last_offset, 10, 500) == []


def test_a_challenger_counts_where_it_answered_and_a_corrected_row_does_not() -> None:
    rows = with_column(evaluated(4), "challenger_prediction", [None, 50.0, None, 70.0])
    target = rows["target"].to_pylist()
    (block,) = curve(log_of(rows), 0, 10, 1)
    assert block.challenger_rows == 2
    assert block.challenger_mae == pytest.approx((abs(50.0 - target[1]) + abs(70.0 - target[3])) / 2)
    late = with_column(with_column(rows, "label_offset", [None, 7, None, 9]), "replaces", [None, None, None, 7])
    (block,) = curve(log_of(late), 0, 10, 1)
    error = np.abs(np.array(rows["prediction"].to_pylist()) - np.array(target))
    assert block.rows == 3
    assert block.mae == pytest.approx(error[[0, 2, 3]].mean())


def test_a_row_without_its_target_yet_has_no_error() -> None:
    rows = with_column(evaluated(3), "target", [None, None, None])
    (block,) = curve(log_of(rows), 0, 10, 1)
    assert (block.rows, block.mae, block.coverage, block.last_offset) == (0, None, None, 3)


def test_what_retention_has_removed_is_left_out() -> None:
    log = log_of(evaluated(50))
    log.trim(Policy(rows=20), 0.0)
    assert curve(log, 0, 10, 500)[0].first_offset >= 30
