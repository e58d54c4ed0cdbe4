"""Laws of planted drift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.config import Drift
from correnteza.generator.drift import factors

drifts = st.builds(
    Drift,
    kind=st.sampled_from(["abrupt", "gradual", "recurring"]),
    at=st.integers(1, 500),
    rows=st.integers(1, 300),
    factor=st.floats(0.1, 10.0),
)


@settings(deadline=None)
@given(st.lists(drifts, max_size=3), st.lists(st.integers(1, 2000), min_size=1, max_size=50))
def test_a_row_has_the_same_factor_in_any_company(planted: list[Drift], rows: list[int]) -> None:
    together = factors(np.array(rows), planted)
    alone = [factors(np.array([row]), planted)[0] for row in rows]
    assert together.tolist() == alone


@settings(deadline=None)
@given(drifts)
def test_nothing_changes_before_it_begins_and_it_stays_between_one_and_its_factor(drift: Drift) -> None:
    rows = np.arange(1, 2001)
    found = factors(rows, [drift])
    assert (found[rows < drift.at] == 1.0).all()
    assert found.min() >= min(1.0, drift.factor) - 1e-12
    assert found.max() <= max(1.0, drift.factor) + 1e-12


def test_abrupt_is_complete_at_its_row_and_for_ever() -> None:
    found = factors(np.array([99, 100, 10**12]), [Drift(kind="abrupt", at=100, factor=3.0)])
    assert found.tolist() == [1.0, 3.0, 3.0]


def test_gradual_grows_in_a_straight_line_and_stays() -> None:
    found = factors(np.array([100, 125, 150, 200, 10**12]), [Drift(kind="gradual", at=100, rows=100, factor=3.0)])
    assert found.tolist() == [1.0, 1.5, 2.0, 3.0, 3.0]


def test_recurring_is_on_and_off_in_turns() -> None:
    found = factors(np.array([109, 110, 119, 120, 129, 130]), [Drift(kind="recurring", at=110, rows=10, factor=3.0)])
    assert found.tolist() == [1.0, 3.0, 3.0, 1.0, 1.0, 3.0]


def test_several_multiply() -> None:
    planted = [Drift(kind="abrupt", at=10, factor=2.0), Drift(kind="abrupt", at=20, factor=5.0)]
    assert factors(np.array([9, 10, 20]), planted) == pytest.approx([1.0, 2.0, 10.0])
