"""Laws of the drift monitors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.features import Floats
from correnteza.trainer.drift import ERROR_ROWS, FIELD_ROWS, MISSING_FLOOR, QUIET_ROWS, Detection, Monitor, Monitors
from correnteza.trainer.series import BOUND, FIRST_BLOCKS, GAIN, LARGEST, MOST_BLOCKS, Series

REPEATS = 40


def restored(monitor: Monitor) -> Monitor:
    return Monitor.of(json.loads(json.dumps(monitor.plain(), allow_nan=False)))


def seen(monitor: Monitor, values: Floats) -> list[Detection]:
    return monitor.extend(values)[0]


def delays(monitor: Monitor, before: int, draw: Callable[[np.random.Generator, int, int], Floats]) -> list[float]:
    """Rows from a change after `before` rows to its detection; infinite where it is not seen within 1,500 rows."""
    found = []
    for seed in range(REPEATS):
        values = draw(np.random.default_rng(seed), before, before + 1_500)
        rows = [each.row for each in seen(monitor, values) if each.row >= before]
        found.append(rows[0] + 1 - before if rows else math.inf)
    return found


ERRORS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, rows: np.abs(rng.normal(size=rows)),
    "exponential": lambda rng, rows: rng.exponential(size=rows),
    "student": lambda rng, rows: np.abs(rng.standard_t(3, size=rows)),
    "squared exponential": lambda rng, rows: rng.exponential(size=rows) ** 2,
    "outliers": lambda rng, rows: rng.exponential(size=rows) * np.where(rng.random(rows) < 0.01, 1e6, 1.0),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_that_do_not_change_bring_fewer_than_one_alarm_in_10000_rows(name: str) -> None:
    found = seen(Monitor.of_errors(), ERRORS[name](np.random.default_rng(1), 200_000))
    assert len(found) <= 20 * (0.3 if name in ("normal", "exponential", "student") else 0.8)


@pytest.mark.parametrize("name", ["normal", "exponential"])
@pytest.mark.parametrize(("factor", "rows"), [(1.5, 250), (2.0, 100), (3.0, 60), (10.0, 40)])
def test_a_rise_of_the_error_is_seen_within_tens_of_rows(name: str, factor: float, rows: int) -> None:
    found = delays(
        Monitor.of_errors(),
        1_000,
        lambda rng, before, end: ERRORS[name](rng, end) * np.where(np.arange(end) < before, 1, factor),
    )
    assert float(np.median(found)) <= rows


def test_an_error_that_falls_is_no_drift_and_its_return_is_one() -> None:
    errors = np.random.default_rng(2).exponential(size=3_000)
    errors[1_000:2_000] /= 4
    rows = [each.row for each in seen(Monitor.of_errors(), errors)]
    assert len(rows) == 1
    assert 2_000 <= rows[0] < 2_100


@pytest.mark.parametrize("outlier", [1e6, 1e300, math.inf])
@pytest.mark.parametrize("monitor", [Monitor.of_errors(), Monitor()])
def test_single_outliers_never_trigger(outlier: float, monitor: Monitor) -> None:
    """Not even one in every block."""
    values = np.random.default_rng(3).exponential(size=20_000)
    values[:: monitor.block_rows] = outlier
    found, after = monitor.extend(values)
    assert found == []
    json.dumps([after.plain(), after.score()], allow_nan=False)


FIELDS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, rows: rng.normal(size=rows),
    "uniform": lambda rng, rows: rng.random(rows),
    "exponential": lambda rng, rows: rng.exponential(size=rows),
    "student": lambda rng, rows: rng.standard_t(2, size=rows),
    "lognormal": lambda rng, rows: rng.lognormal(0, 1.5, rows),
    "rarely one": lambda rng, rows: (rng.random(rows) < 0.02).astype(float),
    "constant": lambda rng, rows: np.full(rows, 7.1),
    "missing at times": lambda rng, rows: np.where(rng.random(rows) < 0.1, math.nan, rng.normal(size=rows)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_fields_that_do_not_change_bring_fewer_than_one_alarm_in_20000_rows(name: str) -> None:
    assert len(seen(Monitor(), FIELDS[name](np.random.default_rng(4), 200_000))) <= 10


@pytest.mark.parametrize(("shift", "rows"), [(0.5, 350), (1.0, 130), (3.0, 100), (-3.0, 100), (1e9, 100)])
def test_a_shift_of_a_field_is_seen_once_with_the_row_where_it_began(shift: float, rows: int) -> None:
    """Shifts in deviations of the values."""

    def shifted(rng: np.random.Generator, before: int, end: int) -> Floats:
        return rng.normal(size=end) + np.where(np.arange(end) < before, 0, shift)

    found = delays(Monitor(), 2_000, shifted)
    assert float(np.median(found)) <= rows
    for seed in range(10):
        (one,) = seen(Monitor(), shifted(np.random.default_rng(seed), 2_000, 3_500))
        assert abs(one.row + 1 - one.width_rows - 2_000) <= (2 if abs(shift) > 1 else 8) * FIELD_ROWS
        if abs(shift) < 10:
            assert (one.before, one.after) == pytest.approx((0.0, shift), abs=0.5)


def test_a_field_that_changes_gradually_is_seen() -> None:
    values = np.random.default_rng(5).normal(size=6_000) + np.clip((np.arange(6_000) - 2_000) / 1_000, 0, 2)
    rows = [each.row for each in seen(Monitor(), values)]
    assert rows
    assert 2_000 < rows[0] < 3_200


def test_a_constant_that_becomes_another_is_seen() -> None:
    (found,) = seen(Monitor(), np.repeat([7.1, 7.2], 2_000))
    assert 2_000 <= found.row < 2_150
    assert (found.before, found.after) == pytest.approx((7.1, 7.2))


def test_a_field_that_is_suddenly_missing_is_seen_and_so_is_its_return() -> None:
    values = np.random.default_rng(6).normal(size=6_000)
    values[2_000:4_000] = math.nan
    gone, back = seen(Monitor(), values)
    assert (gone.what, back.what) == ("missing", "missing")
    assert 2_000 <= gone.row < 2_200
    assert 4_000 <= back.row < 4_200
    assert (gone.before, gone.after) == pytest.approx((0.0, 1.0), abs=0.1)


def test_a_field_that_is_always_missing_is_no_drift() -> None:
    found, after = Monitor().extend(np.full(5_000, math.nan))
    assert found == []
    assert (after.value, after.score()) == (Series(), 0.0)
    assert after.missing.mean == 1.0
    assert after.missing.deviation == MISSING_FLOOR


CODES = {
    "other shares": ([0.6, 0.3, 0.1, 0.0], [0.2, 0.3, 0.5, 0.0]),
    "fewer of equal shares": ([0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]),
    "a new code": ([0.5, 0.5, 0.0, 0.0], [0.3, 0.3, 0.0, 0.4]),
}


@pytest.mark.parametrize("name", CODES)
def test_other_shares_of_categories_are_seen(name: str) -> None:
    rng = np.random.default_rng(7)
    before, after = (rng.choice(4, size=3_000, p=shares).astype(float) for shares in CODES[name])
    found, monitor = Monitor(codes=True).extend(np.concatenate([before, after]))
    assert [each.what for each in found] == ["category"]
    assert 3_000 <= found[0].row < 3_400
    assert 0 <= found[0].before < found[0].after <= 1
    assert monitor.drifted == found[0].row + 1


@pytest.mark.parametrize("codes", [1, 2, 10, 500])
def test_categories_that_do_not_change_bring_fewer_than_one_alarm_in_20000_rows(codes: int) -> None:
    values = np.random.default_rng(8).integers(0, codes, 100_000).astype(float)
    assert len(seen(Monitor(codes=True), values)) <= 5


def drifting(seed: int, rows: int) -> Floats:
    """Numbers, codes and gaps, with a change, of shape [rows, 3]."""
    rng = np.random.default_rng(seed)
    later = np.arange(rows) >= rows // 2
    number = rng.normal(size=rows) + 4 * later
    code = np.where(later, rng.integers(0, 2, rows), rng.integers(0, 6, rows))
    gaps = np.where(rng.random(rows) < np.where(later, 0.9, 0.05), math.nan, rng.exponential(size=rows))
    return np.stack([number, code, gaps], axis=1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 4_000), st.lists(st.integers(0, 900), max_size=8), st.sampled_from([5, 8, 32]), st.integers(0, 2**32 - 1))
def test_neither_cuts_nor_restarts_change_detections_or_state(rows: int, cuts: list[int], size: int, seed: int) -> None:
    values = drifting(seed, rows)
    start = Monitors.start(["number", "code", "gaps"], codes=["code"], block_rows=size)
    expected, whole = start.extend(values)
    found, going, again, at = [], start, start, 0
    for cut in [*cuts, rows]:
        part, going = going.extend(values[at : at + cut])
        same, again = again.extend(values[at : at + cut])
        again = Monitors.of(json.loads(json.dumps(again.plain(), allow_nan=False)))
        assert part == same
        found += [(each.name, each.what, each.row + at, each.width_rows, each.before, each.after) for each in part]
        at = min(rows, at + cut)
    assert sorted(found) == sorted((e.name, e.what, e.row, e.width_rows, e.before, e.after) for e in expected)
    assert going.plain() == again.plain() == whole.plain()


def test_an_older_state_that_goes_on_does_not_meet_what_a_newer_one_has_seen() -> None:
    rng = np.random.default_rng(9)
    _, old = Monitor().extend(rng.normal(size=1_000))
    one, other = rng.normal(size=1_000), rng.normal(2, 1, 1_000)
    expected = [restored(old).extend(values) for values in (one, other, one)]
    found = [old.extend(values) for values in (one, other, one)]
    assert [of[0] for of in found] == [of[0] for of in expected]
    assert [of[1].plain() for of in found] == [of[1].plain() for of in expected]
    both = [found[0][1].extend(other), restored(found[0][1]).extend(other)]
    assert both[0][0] == both[1][0]


def test_several_columns_are_seen_as_each_alone() -> None:
    values = drifting(10, 3_000)
    found, together = Monitors.start(["a", "b", "c"], codes=["b"]).extend(values)
    for place, name in enumerate("abc"):
        alone, after = Monitor(codes=name == "b", quiet_rows=QUIET_ROWS).extend(values[:, place])
        assert [(each.row, each.what, each.after) for each in found if each.name == name] == [
            (each.row, each.what, each.after) for each in alone
        ]
        assert together.monitors[place].plain() == after.plain()
        assert together.scores()[name] == after.score()
        assert together.drifted()[name] == after.drifted
    assert [each.row for each in found] == sorted(each.row for each in found)
    assert {each.name for each in found} == {"a", "b", "c"}


def test_the_row_of_a_detection_counts_within_the_call() -> None:
    values = np.concatenate([np.zeros(1_000), np.ones(1_000)]) + np.random.default_rng(11).normal(0, 0.1, 2_000)
    (whole,) = seen(Monitor(), values)
    _, before = Monitor().extend(values[:1_010])
    found, after = before.extend(values[1_010:])
    assert [each.row for each in found] == [whole.row - 1_010]
    assert after.drifted == whole.row + 1
    assert before.drifted is None


def test_the_score_is_in_deviations_of_a_block_from_the_reference_about() -> None:
    rng = np.random.default_rng(12)
    rows = FIRST_BLOCKS * FIELD_ROWS
    _, calm = Monitor().extend(rng.normal(size=rows))
    assert calm.score() < 2
    _, moved = calm.extend(rng.normal(1, 1, 4 * FIELD_ROWS))
    assert 0.7 * math.sqrt(FIELD_ROWS) < moved.score() < 2 * math.sqrt(FIELD_ROWS)
    assert Monitor().score() == 0.0


def test_a_block_reaches_the_detector_bounded_and_in_units_of_the_reference() -> None:
    from correnteza.trainer import series

    assert series._unit(3.0, 1.0, 4.0) == GAIN * 0.5
    assert (series._unit(LARGEST, 0.0, 1e-300), series._unit(-LARGEST, LARGEST, 1.0)) == (BOUND, -BOUND)


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, math.inf, -math.inf, 1e-310, 0.0])
def test_extreme_values_leave_a_finite_state_of_bounded_size(value: float) -> None:
    rng = np.random.default_rng(13)
    monitor, sizes = Monitor(block_rows=ERROR_ROWS), []
    for _ in range(40):
        values = rng.normal(size=150)
        values[rng.random(150) < 0.5] = value
        _, monitor = monitor.extend(values)
        sizes.append(len(json.dumps([monitor.plain(), monitor.score()], allow_nan=False)))
        assert len(monitor.value.figures) < MOST_BLOCKS
    assert max(sizes) < 25 * 2 * MOST_BLOCKS + 1_000


def test_no_columns_and_no_rows_are_nothing() -> None:
    assert Monitors.start([]).extend(np.empty((5, 0))) == ([], Monitors.start([]))
    assert Monitor().extend(np.empty(0)) == ([], Monitor())


# What is told


def told(values: Floats, codes: bool = False) -> list[int]:
    """Rows after which a drift of one field is news."""
    found, _ = Monitors.start(("field",), ("field",) if codes else ()).extend(values[:, None])
    return [each.row for each in found if each.told]


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - {"constant"}))
@pytest.mark.parametrize("shift", [1.0, 3.0, -3.0])
def test_every_abrupt_change_after_a_quiet_time_is_told_as_soon_as_it_is_seen(name: str, shift: float) -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        parts = [FIELDS[name](rng, 2 * QUIET_ROWS) for _ in range(3)]
        deviation = float(np.std(parts[0]))
        values = np.concatenate([parts[0], parts[1] + shift * deviation, parts[2]])
        found, _ = Monitors.start(("field",)).extend(values[:, None])
        for change in (2 * QUIET_ROWS, 4 * QUIET_ROWS):
            first = next(each for each in found if each.row >= change)
            assert first.told
            assert first.row < change + 600


def test_a_field_that_goes_round_is_told_at_first_and_a_leap_out_of_its_round_at_once() -> None:
    """Steps as of a month, a wave as of a season."""
    rng, rows = np.random.default_rng(1), np.arange(20_000)
    for round_of in (rows // 700 % 12, 6.0 * np.sin(2 * np.pi * rows / 6000)):
        values = round_of + 0.5 * rng.normal(size=len(rows))
        all_of, _ = Monitor().extend(values)
        assert len(all_of) > 12
        assert 1 <= len(told(values)) <= 4
        leapt = np.where(rows < 16_000, values, values + 40.0)
        (row,) = [row for row in told(leapt) if row not in told(values)]
        assert 16_000 <= row < 16_250


def test_a_field_that_goes_missing_while_it_moves_is_told() -> None:
    values = np.arange(6_000) // 700 + 0.1 * np.random.default_rng(1).normal(size=6_000)
    values[5_000:] = np.nan
    found, _ = Monitors.start(("field",)).extend(values[:, None])
    assert [each.told for each in found if each.what == "missing"] == [True]


def test_drifts_that_are_not_told_are_seen_nevertheless() -> None:
    """The state says where the last one was."""
    values = (np.arange(9_000) // 700 % 2) + 0.1 * np.random.default_rng(1).normal(size=9_000)
    found, monitors = Monitors.start(("field",)).extend(values[:, None])
    assert len(told(values)) == 1
    assert monitors.drifted() == {"field": found[-1].row + 1}
    assert found[-1].row > 8_000


def test_of_errors_each_rise_counts() -> None:
    rng = np.random.default_rng(1)
    errors = np.abs(rng.normal(size=3_000)) * (1.0 + np.arange(3_000) // 500)
    found = seen(Monitor.of_errors(), errors)
    assert len(found) >= 3
    assert all(each.told for each in found)
