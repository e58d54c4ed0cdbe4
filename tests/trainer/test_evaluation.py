"""Laws of the rolling metrics and of the prediction intervals."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from correnteza.log.memory import MemoryStore
from correnteza.trainer.evaluation import EVALUATIONS, last_rows, metrics, report, standing, windows


def evaluated(rows: int, seed: int = 0, versions: int = 1) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    target = rng.normal(100, 20, rows)
    prediction = target + rng.normal(2, 5, rows)
    lower = np.where(np.arange(rows) < rows // 4, np.nan, prediction - 8)
    columns = {
        "normalized_offset": np.arange(rows),
        "raw_offset": np.arange(rows),
        "id": [f"r{i}" for i in range(rows)],
        "model_version": 1 + np.arange(rows) * versions // max(rows, 1),
        "target": target,
        "prediction": prediction,
        "lower": pa.array(lower, from_pandas=True),
        "upper": pa.array(lower + 16, from_pandas=True),
        "spread": np.full(rows, 4.0),
        "multiplier": pa.array(np.where(np.isnan(lower), np.nan, 2.0), from_pandas=True),
        "baseline": rng.normal(100, 1, rows),
        "last_value": pa.array(np.concatenate([[np.nan], target])[:rows], from_pandas=True),
    }
    unknown = {field.name: pa.nulls(rows, field.type) for field in EVALUATIONS if field.name not in columns}
    return pa.RecordBatch.from_pydict(columns | unknown, schema=EVALUATIONS)


@pytest.mark.parametrize("rows", [1, 2, 7, 500])
def test_metrics_are_the_textbook_formulas(rows: int) -> None:
    batch = evaluated(rows)
    y, p, low, high, base, last = (
        np.array(batch[name].to_pylist(), float)
        for name in ("target", "prediction", "lower", "upper", "baseline", "last_value")
    )
    found = metrics(batch)
    assert found is not None
    assert found.rows == rows
    assert found.mae == pytest.approx(sum(abs(p - y)) / rows)
    assert found.rmse == pytest.approx(math.sqrt(sum((p - y) ** 2) / rows))
    assert found.bias == pytest.approx(sum(p - y) / rows)
    assert found.baseline_mae == pytest.approx(sum(abs(base - y)) / rows)
    assert math.isnan(found.last_value_mae) if rows == 1 else found.last_value_mae == pytest.approx(np.mean(abs(last - y)[1:]))
    naive = found.baseline_mae if rows == 1 else min(found.baseline_mae, found.last_value_mae)
    assert found.skill == pytest.approx(1 - found.mae / naive)
    spread = sum((y - y.mean()) ** 2)
    assert found.r2 == (pytest.approx(1 - sum((p - y) ** 2) / spread) if rows > 1 else None)
    known = [i for i in range(rows) if not math.isnan(low[i])]
    assert found.coverage == (pytest.approx(sum(low[i] <= y[i] <= high[i] for i in known) / len(known)) if known else None)
    assert found.width == (pytest.approx(sum(high[i] - low[i] for i in known) / len(known)) if known else None)


def test_no_rows_have_no_metrics_and_no_interval() -> None:
    empty = evaluated(4).slice(0, 0)
    assert metrics(empty) is None
    nothing = report(empty)
    assert (nothing.overall, nothing.versions, nothing.multiplier) == (None, {}, None)


def test_the_multiplier_of_the_report_is_the_last_that_is_known() -> None:
    batch = evaluated(40)
    assert report(batch).multiplier == 2.0
    assert report(batch.slice(0, 10)).multiplier is None


def test_rows_without_any_interval_have_no_coverage() -> None:
    found = metrics(evaluated(40).slice(0, 10))
    assert found is not None
    assert found.coverage is None
    assert found.width is None


def test_the_report_by_version_is_the_metrics_of_each_version_alone() -> None:
    batch = evaluated(90, versions=3)
    found = report(batch)
    assert list(found.versions) == [1, 2, 3]
    for version, of_version in found.versions.items():
        assert of_version == metrics(batch.slice(30 * (version - 1), 30))


@pytest.mark.parametrize("kept", [1, 10, 25_000])
def test_last_rows_are_the_end_of_the_log(kept: int) -> None:
    log = MemoryStore().log("evaluations", EVALUATIONS)
    whole = evaluated(22_000)
    log.append(whole)
    assert last_rows(log, kept).equals(whole.slice(max(0, 22_000 - kept)))


def test_last_rows_of_an_empty_log_are_none() -> None:
    assert last_rows(MemoryStore().log("evaluations", EVALUATIONS), 10).num_rows == 0


def test_a_row_counts_once_its_target_is_known_and_until_it_is_corrected() -> None:
    batch = evaluated(4)
    column = batch.schema.get_field_index
    for name, values in (
        ("target", [None, 10.0, 20.0, 30.0]),
        ("label_offset", [None, 5, None, 9]),
        ("replaces", [None, None, None, 5]),
    ):
        batch = batch.set_column(column(name), EVALUATIONS.field(name), pa.array(values, EVALUATIONS.field(name).type))
    assert standing(batch)["target"].to_pylist() == [20.0, 30.0]
    assert metrics(batch) == metrics(batch.slice(2))


def test_windows_are_the_metrics_of_the_last_hundred_thousand_and_so_on_rows() -> None:
    batch = evaluated(1500)
    assert windows(batch) == [metrics(batch.slice(1400)), metrics(batch.slice(500))]
    assert windows(batch.slice(0, 50)) == []
