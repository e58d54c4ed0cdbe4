"""Laws of the linear part: it is ridge regression, its answers are bounded, and nothing in a row can upset it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from correnteza.features import Floats
from correnteza.trainer import linear
from correnteza.trainer.linear import Linear

CODES = 4


def rows(seed: int, count: int = 200) -> tuple[Floats, Floats]:
    """Two numbers, one of them on another scale, and a category field; and targets that depend on all of them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, CODES, count).astype(np.float64)
    features = np.column_stack([rng.normal(size=count), 5.0 + 30.0 * rng.normal(size=count), codes])
    targets = 7.0 + 3.0 * features[:, 0] - 0.2 * features[:, 1] + 4.0 * (codes == 2.0) + rng.normal(size=count)
    return features, targets


def closed_form(features: Floats, targets: Floats, numbers: int) -> Floats:
    """Ridge regression by the book, on standardised numbers and an indicator per code; fitted values."""
    values = features[:, :numbers]
    columns = [(values - values.mean(axis=0)) / values.std(axis=0)]
    columns += [(codes[:, None] == np.arange(codes.max() + 1)) * 1.0 for codes in features[:, numbers:].T]
    design = np.hstack(columns)
    mean = targets.mean()
    inverse = np.linalg.inv(design.T @ design + linear.PENALTY * np.eye(design.shape[1]))
    fitted: Floats = mean + design @ (inverse @ design.T @ (targets - mean))
    return fitted


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 300), unit=st.sampled_from([1e-9, 1.0, 1e12]))
@settings(max_examples=60, deadline=None)
def test_it_is_ridge_regression_on_standardised_numbers_whatever_the_targets_unit(seed: int, count: int, unit: float) -> None:
    features, targets = rows(seed, count)
    expected = unit * closed_form(features, targets, 2)
    found = linear.fit(features, unit * targets, 2).predict(features)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8 * unit)


def test_without_categories_it_is_scikit_learns_ridge() -> None:
    from sklearn.linear_model import Ridge

    features, targets = rows(1)
    numbers = features[:, :2]
    standardised = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    expected = Ridge(alpha=linear.PENALTY).fit(standardised, targets).predict(standardised)
    np.testing.assert_allclose(linear.fit(numbers, targets, 2).predict(numbers)[:, 0], expected, rtol=1e-10)


ANYTHING = st.floats(allow_nan=True, allow_infinity=True, width=64)


@given(features=hnp.arrays(np.float64, (5, 3), elements=ANYTHING), seed=st.integers(0, 50), curved=st.booleans())
@settings(max_examples=200, deadline=None)
def test_its_answers_are_bounded_whatever_the_row(features: Floats, seed: int, curved: bool) -> None:
    """No row, however far off, gets more than the best or less than the worst place in the range that was seen."""
    part = linear.fit(*rows(seed), 2, curved)
    with np.errstate(all="ignore"):
        turns = np.clip(np.nan_to_num(-part.slopes / (2 * part.curves)), part.low, part.high)  # of the parabolas
    places = zip(part.low[0], part.high[0], turns[0], strict=True)
    corners = np.array([list(c) for c in product(*places, [*range(CODES), np.nan])])
    said = part.predict(corners)[:, 0]
    found = part.predict(features)[:, 0]
    assert np.all(found >= said.min() - 1e-9)
    assert np.all(found <= said.max() + 1e-9)


def test_with_squares_it_finds_a_parabola_and_as_much_beside_other_fields_as_alone() -> None:
    features, targets = rows(6)
    bowl = 7.0 * (features[:, 0] - 0.4) ** 2
    bent, straight = (linear.fit(features, targets + bowl, 2, curved).predict(features)[:, 0] for curved in (True, False))
    line = linear.fit(features, targets, 2).predict(features)[:, 0]
    assert np.abs(bent - line - bowl).mean() < 0.1 * np.abs(straight - line - bowl).mean()


@pytest.mark.parametrize("far", ["a rare large value", "a mean far from 0"])
def test_a_number_whose_square_cannot_be_trusted_has_no_curve(far: str) -> None:
    features, targets = rows(7)
    features[:, 0] = features[:, 0] + 1e7 if far == "a mean far from 0" else features[:, 0]
    features[3, 0] = 1e6 if far == "a rare large value" else features[3, 0]
    part = linear.fit(features, targets, 2, curved=True)
    assert part.curves[0, 0] == 0.0
    assert part.curves[0, 1] != 0.0


def test_a_number_counts_as_far_as_the_rows_went_and_a_tenth_of_their_range_beyond() -> None:
    features, targets = rows(3)
    part = linear.fit(features, targets, 2)
    low, high = features[:, 0].min(), features[:, 0].max()
    at = np.array([low - 0.1 * (high - low), high + 0.1 * (high - low)])
    edge, beyond = (np.column_stack([x, np.zeros((2, 2))]) for x in (at, 1e9 * at))
    np.testing.assert_allclose(part.predict(beyond), part.predict(edge), rtol=1e-12)
    within = np.array([[low, 0.0, 0.0], [high, 0.0, 0.0]])
    assert np.ptp(part.predict(edge)) == pytest.approx(1.2 * np.ptp(part.predict(within)))


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_missing_number_counts_as_zero_which_is_the_mean(seed: int) -> None:
    features, targets = rows(seed)
    features[::7, 0] = np.nan
    filled = np.nan_to_num(features, nan=0.0)
    part, other = linear.fit(features, targets, 2), linear.fit(filled, targets, 2)
    np.testing.assert_array_equal(part.predict(features), other.predict(filled))


@pytest.mark.parametrize("code", [np.nan, CODES, CODES + 17.0, 1e15, np.inf, -1.0])
def test_a_missing_or_unknown_category_has_no_effect(code: float) -> None:
    part = linear.fit(*rows(4), 2)
    row = np.array([[0.5, 3.0, code]])
    expected = part.intercepts + row[:, :2] @ part.slopes[0]
    np.testing.assert_allclose(part.predict(row)[:, 0], expected, rtol=1e-12)
    assert not np.isclose(part.predict(np.array([[0.5, 3.0, 2.0]]))[:, 0], expected).any()


def test_only_the_first_codes_have_an_effect_of_their_own() -> None:
    codes = np.arange(3.0 * linear.MOST_CODES)
    part = linear.fit(codes[:, None], codes, 0)
    assert len(part.effects[0]) == linear.MOST_CODES + 2  # `other`, and the row of the unknown
    assert part.predict(codes[-1:, None])[0, 0] == codes.mean()
    assert part.predict(codes[linear.MOST_CODES :][:1, None])[0, 0] != codes.mean()


# Rows that are hard to fit

HARD = st.one_of(
    st.just(np.nan), st.just(0.0), st.floats(-1e15, 1e15), st.sampled_from([1e-300, 1e-9, 1.0, 1e15, -1e15, 1.0 + 1e-12])
)


@given(
    numbers=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=HARD),
    unit=st.sampled_from([0.0, 1e-300, 1.0, 1e200]),
    seed=st.integers(0, 1000),
    curved=st.booleans(),
)
@example(numbers=np.full((1, 1), np.nan), unit=1.0, seed=0, curved=True)
@example(numbers=np.full((5, 2), np.nan), unit=1.0, seed=0, curved=True)
@example(numbers=np.full((5, 2), 3.0), unit=1e200, seed=0, curved=True)
@settings(max_examples=300, deadline=None)
def test_any_columns_and_any_unit_give_finite_answers(numbers: Floats, unit: float, seed: int, curved: bool) -> None:
    """Constant and all-missing columns, one row, values of 1e15 deviations beside tiny ones."""
    count = len(numbers)
    codes = np.random.default_rng(seed).choice([0.0, 1.0, 2.0, np.nan], count)
    targets = unit * np.random.default_rng(seed).normal(size=count)
    features = np.column_stack([numbers, codes])
    said = linear.fit(features, targets, numbers.shape[1], curved).predict(features)
    assert said.shape == (count, 1)
    assert np.isfinite(said).all()


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.0, -1e12])
def test_a_constant_or_missing_column_has_no_slope_and_changes_nothing_else(value: float) -> None:
    features, targets = rows(5)
    with_column = np.column_stack([np.full(len(features), value), features])
    part, other = linear.fit(with_column, targets, 3), linear.fit(features, targets, 2)
    assert part.slopes[0, 0] == 0.0
    np.testing.assert_allclose(part.predict(with_column), other.predict(features), rtol=1e-10)


@given(target=st.floats(-1e300, 1e300), count=st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_a_constant_target_is_answered_everywhere(target: float, count: int) -> None:
    features, _ = rows(6, count)
    said = linear.fit(features, np.full(count, target), 2).predict(rows(7)[0])
    np.testing.assert_allclose(said, target, rtol=1e-9, atol=1e-290)


def test_one_row_is_answered_with_its_target_but_for_the_penalty_of_its_category() -> None:
    part = linear.fit(np.array([[1.0, np.nan, 2.0]]), np.array([42.0]), 2)
    assert part.predict(np.array([[-1.0, 9.0, 0.0]]))[0, 0] == 42.0


def test_none_says_zero_everywhere() -> None:
    features, _ = rows(8)
    features[0] = np.nan
    assert np.all(linear.none(features, 2).predict(np.vstack([features, np.full((1, 3), 1e300)])) == 0.0)


# Several parts as one


def parts(seed: int) -> tuple[Floats, list[Linear]]:
    """Rows, and parts that were fitted on different ones of them, with fewer categories, and on nothing."""
    features, targets = rows(seed, 90)
    few = features[features[:, 2] < 2.0]
    return features, [
        linear.fit(features[:40], targets[:40], 2),
        linear.fit(few, np.arange(float(len(few))), 2),
        linear.none(features[40:], 2),
    ]


@given(seed=st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_parts_that_are_joined_say_what_each_of_them_says_where_all_have_been(seed: int) -> None:
    features, several = parts(seed)
    low, high = np.max([p.low for p in several], axis=0), np.min([p.high for p in several], axis=0)
    features[:, :2] = np.clip(features[:, :2], low, high)
    features[::5] = np.nan
    expected = np.hstack([part.predict(features) for part in several])
    np.testing.assert_allclose(linear.joined(several).predict(features), expected, rtol=1e-12, atol=1e-12)


def test_a_part_alone_is_what_it_was() -> None:
    features, several = parts(2)
    for part in several:
        np.testing.assert_array_equal(linear.joined([part]).predict(2.0 * features), part.predict(2.0 * features))


def test_a_code_that_only_one_part_knows_has_no_effect_in_the_others() -> None:
    _, several = parts(3)
    known = np.array([[0.0, 0.0, 3.0]])
    said = linear.joined(several).predict(known)
    np.testing.assert_allclose(said, np.hstack([part.predict(known) for part in several]), rtol=1e-12)


# The correction by the last errors


def test_a_correction_finds_the_line_in_the_last_errors() -> None:
    rng = np.random.default_rng(9)
    features = rng.normal(size=(2000, 3))
    errors = 5.0 + 2.0 * features[:, 0] - 3.0 * features[:, 1]
    found = linear.local(features, errors, np.ones(2))
    assert found is not None
    intercept, slopes = found
    np.testing.assert_allclose([intercept, *slopes], [5.0, 2.0, -3.0], rtol=0.05)  # few errors count, so slopes are held back


def test_of_the_errors_the_newest_count_most() -> None:
    found = linear.local(np.zeros((10, 1)), np.array([1.0] * 7 + [4.0] * 3), np.ones(1))
    assert found is not None
    assert found[0] > 3.0


# The last known target as it is


def test_a_carried_target_is_said_as_it_is_and_its_mean_where_there_is_none() -> None:
    targets = np.array([5.0, 100.0, -1e6])
    features = np.column_stack([np.zeros(4), np.append((targets - 40.0) / 7.0, np.nan), np.ones(4)])
    part = linear.carry(features[:1], 2, linear.Carried(1, 40.0, 7.0))
    np.testing.assert_allclose(part.predict(features)[:, 0], [*targets, 40.0])


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_a_correction_does_not_depend_on_the_unit_of_a_number(unit: float) -> None:
    rng = np.random.default_rng(13)
    features, errors = rng.normal(size=(20, 2)), rng.normal(size=20)
    one, other = linear.local(features, errors, np.ones(2)), linear.local(features * [unit, 1.0], errors, np.array([unit, 1.0]))
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(other[0], one[0], rtol=1e-9)
    np.testing.assert_allclose(other[1] * [unit, 1.0], one[1], rtol=1e-9)


def test_too_few_errors_are_no_correction() -> None:
    features = np.ones((linear.LOCAL_LEAST, 1))
    assert linear.local(features[1:], np.ones(linear.LOCAL_LEAST - 1), np.ones(1)) is None
    assert linear.local(features, np.ones(linear.LOCAL_LEAST), np.ones(1)) is not None


def test_a_number_that_hardly_moved_gets_no_steep_slope() -> None:
    rng = np.random.default_rng(10)
    features, errors = 3.0 + 1e-6 * rng.normal(size=(20, 1)), rng.normal(size=20)
    found = linear.local(features, errors, np.ones(1))
    assert found is not None
    assert abs(found[1][0]) < 1e-3


@pytest.mark.parametrize("absurd", [1e9, 1e150, -1e300])
def test_a_single_absurd_error_is_no_trend(absurd: float) -> None:
    rng = np.random.default_rng(11)
    features, errors = rng.normal(size=(20, 2)), rng.normal(size=20)
    errors[7] = absurd
    found = linear.local(features, errors, np.ones(2))
    assert found is not None
    intercept, slopes = found
    assert np.abs([intercept, *slopes]).max() < linear.LOCAL_CLIP


@given(
    features=hnp.arrays(np.float64, (8, 2), elements=st.one_of(st.just(np.nan), st.floats(-1e300, 1e300))),
    errors=hnp.arrays(np.float64, 8, elements=st.floats(-1e300, 1e300)),
)
@settings(max_examples=300, deadline=None)
def test_a_correction_is_finite_whatever_was_missed_and_by_how_much(features: Floats, errors: Floats) -> None:
    found = linear.local(features, errors, np.ones(2))
    assert found is not None
    assert np.isfinite([found[0], *found[1]]).all()


@pytest.mark.parametrize("far", [1e6, 1e9, 1e300])
def test_one_record_that_is_far_off_in_two_fields_does_not_end_the_corrections(far: float) -> None:
    features = np.zeros((20, 2))
    features[3] = far
    found = linear.local(features, np.ones(20), np.ones(2))
    assert found is not None
    assert found[0] == pytest.approx(1.0)


@pytest.mark.parametrize("far", [1e16, 1e154, 1e300, np.inf])
def test_rows_are_fitted_also_when_one_of_them_is_farther_off_than_can_be_squared(far: float) -> None:
    features, targets = rows(12)
    features[3, 0] = far
    assert np.isfinite(linear.fit(features, targets, 2).predict(features)).all()
