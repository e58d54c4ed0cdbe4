"""The window holds the last rows, whatever the batches were, and gives them in one scaler version."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.features import Scaler, Scalers
from correnteza.trainer.window import Window

FIELDS = ("age", "hours", "job")
NUMERIC = 2


def rows(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features (two numbers, one code) with missing values, ascending versions, targets, offsets."""
    rng = np.random.default_rng(seed)
    features = np.column_stack([rng.normal(size=(n, NUMERIC)), rng.integers(0, 5, n).astype(float)])
    features[rng.random(features.shape) < 0.2] = np.nan
    versions = np.sort(rng.integers(1, 4, n))
    return features, versions, rng.normal(size=n), np.arange(1, n + 1)


def scalers() -> Scalers:
    known = Scalers(FIELDS[:NUMERIC])
    known.versions = {
        1: Scaler(1, np.array([0.0, 0.0]), np.array([1.0, 1.0])),
        2: Scaler(2, np.array([5.0, -3.0]), np.array([2.0, 0.25])),
        3: Scaler(3, np.array([7.5, -2.0]), np.array([0.125, 3.0])),
    }
    return known


def filled(capacity: int, n: int, cuts: list[int]) -> Window:
    window = Window(capacity, FIELDS)
    columns = rows(n)
    bounds = [0, *sorted(min(cut, n) for cut in cuts), n]
    for begin, end in pairwise(bounds):
        window.add(*(column[begin:end] for column in columns))
    return window


@given(st.integers(1, 40), st.integers(1, 120), st.lists(st.integers(0, 120), max_size=8))
def test_window_holds_the_last_rows_in_order_however_the_stream_was_cut(capacity: int, n: int, cuts: list[int]) -> None:
    window = filled(capacity, n, cuts)
    features, versions, targets, offsets = (column[-capacity:] for column in rows(n))
    expressed = window.expressed(scalers(), NUMERIC, n)
    assert len(window) == min(capacity, n)
    assert expressed.version == versions.max()
    np.testing.assert_array_equal(expressed.targets, targets)
    np.testing.assert_array_equal(expressed.features[:, NUMERIC:], features[:, NUMERIC:])
    np.testing.assert_array_equal(np.isnan(expressed.features), np.isnan(features))
    assert (expressed.first_offset, expressed.last_offset) == (offsets[0], offsets[-1])
    np.testing.assert_array_equal(expressed.numbers, offsets)  # every row is labelled


@given(st.integers(1, 60), st.integers(1, 120))
def test_all_rows_are_expressed_in_the_newest_version_as_if_they_had_been_standardised_in_it(capacity: int, n: int) -> None:
    known = scalers()
    features, versions, *_ = (column[-capacity:] for column in rows(n))
    raw = np.array([known.versions[v].restore(row) for v, row in zip(versions, features[:, :NUMERIC], strict=True)])
    expressed = filled(capacity, n, []).expressed(known, NUMERIC, n)
    newest = known.versions[expressed.version]
    np.testing.assert_allclose(expressed.features[:, :NUMERIC], newest.standardise(raw), rtol=1e-12, atol=1e-12)
    same = versions == expressed.version
    np.testing.assert_array_equal(expressed.features[same], features[same])


@given(st.integers(1, 60), st.integers(1, 120))
def test_scaler_versions_before_the_oldest_row_may_be_forgotten(capacity: int, n: int) -> None:
    window, known = filled(capacity, n, []), scalers()
    before = window.expressed(known, NUMERIC, n)
    oldest = window.oldest_version()
    assert oldest == rows(n)[1][-capacity:].min()
    assert oldest is not None
    known.forget(oldest)
    np.testing.assert_array_equal(window.expressed(known, NUMERIC, n).features, before.features)


@given(st.integers(1, 60), st.integers(1, 120), st.integers(1, 80), st.integers(1, 3))
def test_the_last_rows_alone_and_in_an_older_version_are_those_of_the_whole_window(
    capacity: int, n: int, last: int, version: int
) -> None:
    window, known = filled(capacity, n, []), scalers()
    whole, part = (window.expressed(known, NUMERIC, n, rows, version) for rows in (None, last))
    count = min(last, len(window))
    assert part.version == whole.version == version
    np.testing.assert_array_equal(part.features, whole.features[-count:])
    np.testing.assert_array_equal(part.targets, whole.targets[-count:])
    np.testing.assert_array_equal(part.numbers, whole.numbers[-count:])
    assert part.last_offset == whole.last_offset
    assert part.first_offset == part.last_offset - count + 1


def test_expressing_leaves_the_window_as_it_was() -> None:
    window = filled(10, 25, [])
    first = window.expressed(scalers(), NUMERIC, 25)
    first.features[:] = 0.0
    assert np.nansum(np.abs(window.expressed(scalers(), NUMERIC, 25).features)) > 0


def test_an_empty_window_has_no_version_and_cannot_be_trained_on() -> None:
    window = Window(5, FIELDS)
    assert window.oldest_version() is None
    with pytest.raises(ValueError, match="window is empty"):
        window.expressed(scalers(), NUMERIC, 25)
