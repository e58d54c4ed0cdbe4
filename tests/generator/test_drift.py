"""Laws of planted drift."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.config import Drift, Generator, demo_schema
from correnteza.generator.drift import Switch, factors
from correnteza.generator.people import PeopleSource

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


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.5, 1.0, 2.0, 10.0]), max_size=80))
def test_a_switch_holds_from_its_row_on_however_often_it_was_switched(chosen: list[float]) -> None:
    switch, expected = Switch(), {}
    for row, factor in enumerate(chosen, 1):
        switch.factor = expected[row] = factor
        made = switch.from_row(row)
        assert len(made) <= Switch.MOST
        recent = [r for r in expected if r > row - Switch.MOST // 2]
        assert factors(np.array(recent), made) == pytest.approx([expected[r] for r in recent])


def test_people_made_before_a_switch_stay_and_those_made_again_are_the_same() -> None:
    wanted, schema = Generator(start_time="2026-01-01"), demo_schema().build()
    switch = Switch()
    plain, source = PeopleSource(wanted, schema), PeopleSource(wanted, schema, switch=switch)
    again = PeopleSource(wanted, schema, switch=switch, leads=False)
    before = source.read(None, 700)
    switch.factor = 2.0
    after = source.read(before.next, 700)
    ratio = np.concatenate([part.batch["income"].to_numpy() for part in (before, after)])
    ratio /= plain.read(None, 1400).batch["income"].to_numpy()
    assert ratio[:700].tolist() == [1.0] * 700
    assert ratio[700:] == pytest.approx(2.0, rel=1e-4)
    assert again.read(None, 1400).batch["income"].to_pylist()[700:] == after.batch["income"].to_pylist()
