"""Laws of the rolling metrics and of the prediction intervals."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.log.memory import MemoryStore
from correnteza.trainer.evaluation import (
    BLOCK_ROWS,
    EVALUATIONS,
    Intervals,
    half_width,
    last_rows,
    metrics,
    report,
    residuals,
)


def evaluated(rows: int, seed: int = 0, versions: int = 1) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    target = rng.normal(100, 20, rows)
    prediction = target + rng.normal(2, 5, rows)
    lower = np.where(np.arange(rows) < rows // 4, np.nan, prediction - 8)
    columns = [
        np.arange(rows),
        np.arange(rows),
        pa.array([f"r{i}" for i in range(rows)]),
        1 + np.arange(rows) * versions // max(rows, 1),
        target,
        prediction,
        pa.array(lower, from_pandas=True),
        pa.array(lower + 16, from_pandas=True),
        rng.normal(100, 1, rows),
    ]
    return pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=EVALUATIONS)


@pytest.mark.parametrize("rows", [1, 2, 7, 500])
def test_metrics_are_the_textbook_formulas(rows: int) -> None:
    batch = evaluated(rows)
    y, p, low, high, base = (
        np.array(batch[name].to_pylist(), float) for name in ("target", "prediction", "lower", "upper", "baseline")
    )
    found = metrics(batch)
    assert found is not None
    assert found.rows == rows
    assert found.mae == pytest.approx(sum(abs(p - y)) / rows)
    assert found.rmse == pytest.approx(math.sqrt(sum((p - y) ** 2) / rows))
    assert found.bias == pytest.approx(sum(p - y) / rows)
    assert found.baseline_mae == pytest.approx(sum(abs(base - y)) / rows)
    spread = sum((y - y.mean()) ** 2)
    assert found.r2 == (pytest.approx(1 - sum((p - y) ** 2) / spread) if rows > 1 else None)
    known = [i for i in range(rows) if not math.isnan(low[i])]
    assert found.coverage == pytest.approx(sum(low[i] <= y[i] <= high[i] for i in known) / len(known))


def test_no_rows_have_no_metrics_and_no_interval() -> None:
    empty = evaluated(4).slice(0, 0)
    assert metrics(empty) is None
    nothing = report(empty, 0.9)
    assert (nothing.overall, nothing.versions, nothing.half_width) == (None, {}, None)


def test_rows_without_any_interval_have_no_coverage() -> None:
    found = metrics(evaluated(40).slice(0, 10))
    assert found is not None
    assert found.coverage is None


def test_the_report_by_version_is_the_metrics_of_each_version_alone() -> None:
    batch = evaluated(90, versions=3)
    found = report(batch, 0.9)
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


def test_residuals_are_absolute_errors() -> None:
    batch = evaluated(5)
    errors = np.array(batch["target"].to_pylist()) - np.array(batch["prediction"].to_pylist())
    assert residuals(batch).tolist() == np.abs(errors).tolist()


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_the_conformal_quantile_covers_exchangeable_errors_at_its_level(level: float) -> None:
    """Over many draws the next error is within the half-width with probability level to level + 1 / (n + 1)."""
    rng = np.random.default_rng(7)
    n, draws = 99, 4000
    errors = np.abs(rng.standard_cauchy((draws, n + 1)))
    covered = np.mean([row[-1] <= (half_width(row[:-1], level) or 0) for row in errors])
    assert level - 0.02 <= covered <= level + 1 / (n + 1) + 0.02


@pytest.mark.parametrize(
    ("n", "level", "rank"), [(50, 0.9, 46), (99, 0.9, 90), (99, 0.99, 99), (49, 0.5, None), (50, 0.99, None)]
)
def test_the_half_width_is_the_corrected_order_statistic_or_unknown(n: int, level: float, rank: int | None) -> None:
    errors = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert half_width(errors, level) == rank


def whole(errors: np.ndarray, capacity: int) -> tuple[list[float], Intervals]:
    halves, after = Intervals(0.9, capacity).extend(errors)
    return halves.tolist(), after


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(60, 120), st.lists(st.integers(0, 130), max_size=8), st.integers(0, 2**32 - 1))
def test_intervals_do_not_depend_on_how_the_errors_came_in_batches(
    rows: int, capacity: int, cuts: list[int], seed: int
) -> None:
    errors = np.random.default_rng(seed).exponential(size=rows)
    halves: list[float] = []
    intervals, start = Intervals(0.9, capacity), 0
    for size in [*cuts, rows]:
        part, intervals = intervals.extend(errors[start : start + size])
        halves += part.tolist()
        start = min(rows, start + size)
    expected, after = whole(errors, capacity)
    assert repr(halves) == repr(expected)
    assert intervals == after
    assert intervals.errors.tolist() == after.errors.tolist() == errors[-capacity:].tolist()


def test_a_row_is_covered_by_an_interval_from_errors_before_its_block_only() -> None:
    errors = np.random.default_rng(3).exponential(size=250)
    halves, _ = whole(errors, capacity=100)
    for row, half in enumerate(halves):
        known = errors[: row - row % BLOCK_ROWS][-100:]
        expected = half_width(known, 0.9)
        assert (math.isnan(half) and expected is None) or half == expected
