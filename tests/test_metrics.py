"""Laws of the counts and of the table of metrics."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.flow import INPUT, LARGE_ROWS, Flow
from correnteza.metrics import FAMILIES, REASONS, Family, Histogram, by_reason

VALUES = st.lists(st.floats(0, 20), max_size=30)
BOUNDED = {"stage", "state", "log", "reason", "source", "kind", "method", "route", "code", "process", "field", "outcome"}
BOUNDED |= {"decision", "baseline", "of", "effect", "quantile", "mode", "version", "python"}
"""Labels whose values are words of the program, of the schema or of the build, never ids of what flows."""


@given(VALUES)
def test_a_histogram_counts_each_value_once_in_the_first_bucket_that_reaches_it(values: list[float]) -> None:
    counted = Histogram((1.0, 5.0))
    for value in values:
        counted.note(value)
    ends = [sum(v <= 1 for v in values), sum(1 < v <= 5 for v in values), sum(v > 5 for v in values)]
    assert counted.counts == ends
    assert counted.total == pytest.approx(sum(values))
    again = Histogram.of(counted.plain(), (1.0, 5.0))
    assert (again.counts, again.total) == (counted.counts, counted.total)


@given(
    st.lists(st.sampled_from(["is missing; a value is required", "nan is not within 0 and 1", "Expected `float`", "?", None]))
)
def test_every_reject_has_one_class_of_reason(reasons: list[str | None]) -> None:
    found = by_reason(pa.array(reasons, pa.string()))
    assert sum(found.values()) == len(reasons)
    assert set(found) <= set(REASONS)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("is missing; send null if it is unknown", "missing"),
        ("-3.0 is not within 0 and 130", "out_of_range"),
        ("is longer than 200 characters", "too_long"),
        ("holds the character NUL (U+0000); take it out", "bad_text"),
        ("'31.1.' is not a time; expected ISO 8601, as in 2026-01-31T12:00:00Z", "bad_time"),
        ("is not a field of the schema", "unknown_field"),
        ("is not a JSON object but list", "malformed"),
        ("has 3 cells; expected 4", "malformed"),
        ("Expected `float | null`, got `str`", "bad_type"),
        ("is an object or a list; expected a plain value", "bad_type"),
        ("who knows", "other"),
    ],
)
def test_a_reason_falls_into_the_class_that_its_words_say(reason: str, expected: str) -> None:
    assert dict(by_reason(pa.array([reason]))) == {expected: 1}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_names_have_prefix_and_unit_and_labels_have_a_bound(family: Family) -> None:
    assert family.name.startswith("correnteza_")
    assert family.name.endswith("_total") == (family.kind == "counter")
    stem = family.name.removesuffix("_total")
    for unit in ("seconds", "bytes", "ratio"):
        assert (family.unit == unit) == stem.endswith(f"_{unit}"), family
    assert not any(short in f"{stem}_" for short in ("_s_", "_ms_", "_mb_", "_pct_"))
    assert set(family.labels) <= BOUNDED
    assert "version" not in family.labels or family.kind == "info"
    assert family.help.endswith(".")


def test_a_flow_adds_up_rows_and_bytes_and_weighs_small_batches_by_one_that_is_like_them() -> None:
    flow = Flow()
    batch = pa.record_batch({"x": pa.array(range(10), pa.int64())})
    for _ in range(3):
        flow.note({INPUT: batch}, {"normalized": batch.slice(0, 4)}, 0.002, 0.02)
    assert flow.batch_rows.total == 30
    assert flow.bytes_in == 3 * batch.nbytes
    assert flow.out == {"normalized": [12, 12 * batch.nbytes // 10]}
    assert sum(flow.step_s.counts) == sum(flow.commit_s.counts) == 3


def test_a_large_batch_is_weighed_even_when_small_ones_are_estimated() -> None:
    flow = Flow()
    small, large = (pa.record_batch({"x": pa.array(["a" * size] * rows)}) for size, rows in ((1, 10), (100, LARGE_ROWS)))
    flow.note({INPUT: small}, {}, 0.0, 0.0)
    flow.note({INPUT: large}, {}, 0.0, 0.0)
    assert flow.bytes_in == small.nbytes + large.nbytes


def test_rejected_rows_are_counted_by_the_class_of_their_reason() -> None:
    flow = Flow()
    rows = pa.record_batch({"reason": pa.array(["is missing", "is missing", "who knows"])})
    flow.note({INPUT: rows}, {"rejected": rows}, 0.0, 0.0)
    assert flow.rejected == {"missing": 2, "other": 1}
