"""Laws of rulings: what a test comes to is a function of the test and of the versions that it was about."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.trainer import judging
from correnteza.trainer.duel import Duel
from correnteza.trainer.state import Trial

LOSSES = np.linspace(1.0, 2.0, 400)


def trial(factor: float, rows: int = 400, version: int = 5, against: int = 3) -> Trial:
    """A test in which the version erred `factor` times as much as the other one."""
    return Trial(version, against, Duel().extend(LOSSES[:rows], factor * LOSSES[:rows]))


def undecided(rows: int) -> Trial:
    return Trial(5, 3, Duel(verdict=None, rows=rows, champion=1.0, challenger=1.0))


# At once, or tested


@given(drift=st.booleans(), rows=st.integers(1, 10**6), tested=st.booleans())
def test_the_first_version_goes_into_service_whatever_it_is(drift: bool, rows: int, tested: bool) -> None:
    ruling = judging.at_once(True, drift, rows, tested)
    assert ruling is not None
    assert (ruling.promoted, ruling.kind) == (True, "first")


@given(drift=st.booleans(), rows=st.integers(1, 10**6))
def test_where_nothing_is_tested_every_version_goes_into_service(drift: bool, rows: int) -> None:
    ruling = judging.at_once(False, drift, rows, tested=False)
    assert ruling is not None
    assert (ruling.promoted, ruling.kind) == (True, "newest")


@given(rows=st.integers(1, 10**6))
def test_after_a_drift_the_new_version_goes_into_service_at_once(rows: int) -> None:
    ruling = judging.at_once(False, True, rows, True)
    assert ruling is not None
    assert (ruling.promoted, ruling.kind) == (True, "drift")


@given(rows=st.integers(1, 3 * judging.YOUNG_ROWS))
def test_else_only_those_that_have_learned_from_few_rows_are_not_tested(rows: int) -> None:
    ruling = judging.at_once(False, False, rows, True)
    assert (ruling is not None) == (rows < judging.YOUNG_ROWS)
    if ruling is not None:
        assert (ruling.promoted, ruling.kind) == (True, "young")


# The test


@pytest.mark.parametrize(
    ("factor", "promoted", "kind"), [(0.5, True, "better"), (1.0, True, "not_worse"), (1.5, False, None), (1e12, False, None)]
)
def test_what_the_duel_says_is_done_and_its_numbers_are_the_evidence(factor: float, promoted: bool, kind: str | None) -> None:
    test = trial(factor)
    ruling = judging.ruling(test, 5, 3)
    assert ruling is not None
    assert (ruling.promoted, ruling.kind) == (promoted, kind)
    assert ruling.reason == test.duel.words()
    assert ruling.evidence["challenger_mae"] == pytest.approx(factor * ruling.evidence["champion_mae"])
    assert ruling.evidence["rows"] > 0
    json.dumps(ruling.evidence, allow_nan=False)


def test_an_open_test_stays_open_until_it_has_taken_too_long_and_then_the_champion_stays() -> None:
    assert judging.ruling(undecided(judging.TRIAL_ROWS - 1), 5, 3) is None
    ended = judging.ruling(undecided(judging.TRIAL_ROWS), 5, 3)
    assert ended is not None
    assert not ended.promoted
    assert "no verdict" in ended.reason


@pytest.mark.parametrize("pair", [(6, 3), (5, 4), (3, 5)])
@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_test_of_other_versions_says_nothing(pair: tuple[int, int], factor: float) -> None:
    assert judging.ruling(trial(factor), *pair) is None
    assert judging.rolled_back(trial(factor), *pair) is None


def test_without_a_test_there_is_no_ruling() -> None:
    assert judging.ruling(None, 5, 3) is None
    assert judging.rolled_back(None, 5, 3) is None


# Rollback


@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_a_champion_that_is_not_worse_than_its_parent_stays(factor: float) -> None:
    assert judging.rolled_back(trial(factor), 5, 3) is None


def test_an_open_comparison_with_the_parent_changes_nothing_however_long_it_takes() -> None:
    assert judging.rolled_back(undecided(10 * judging.TRIAL_ROWS), 5, 3) is None


def test_a_champion_that_is_worse_than_its_parent_leaves_with_the_numbers() -> None:
    ruling = judging.rolled_back(trial(1.5), 5, 3)
    assert ruling is not None
    assert (ruling.promoted, ruling.kind) == (False, "rollback")
    assert ruling.reason.startswith("version 5 was worse by more than")
    assert ruling.evidence["challenger_mae"] > ruling.evidence["champion_mae"]


@given(factor=st.floats(0.1, 10.0), rows=st.integers(1, 400))
def test_the_same_test_gives_the_same_ruling_also_after_a_restart(factor: float, rows: int) -> None:
    test = trial(factor, rows)
    again = Trial(5, 3, Duel.of(json.loads(json.dumps(test.duel.plain()))))
    assert judging.ruling(again, 5, 3) == judging.ruling(test, 5, 3)
    assert judging.rolled_back(again, 5, 3) == judging.rolled_back(test, 5, 3)
