"""Laws of the experts' recent errors: however the rows are cut; forgetting; and absurd targets count little."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from correnteza.features import Floats
from correnteza.trainer.scores import CLIP, MEMORY_ROWS, Drag, Score, extended

ERRORS = hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=st.floats(0, 1e300) | st.just(math.inf))
NUMBERS = (4, 1, 7)


@given(errors=ERRORS, cuts=st.lists(st.integers(0, 30), max_size=6))
def test_row_by_row_and_many_at_a_time_give_the_same_bit_for_bit(errors: Floats, cuts: list[int]) -> None:
    whole = extended({}, NUMBERS, errors)
    pieces: dict[int, Score] = {}
    single: dict[int, Score] = {}
    for piece in np.split(errors, sorted(cuts)):
        pieces = extended(pieces, NUMBERS, piece)
    for row in errors:
        single = extended(single, NUMBERS, row[None, :])
    assert whole == pieces
    assert (single or whole) == whole


@given(errors=ERRORS)
def test_a_score_is_finite_and_survives_json_whatever_the_errors(errors: Floats) -> None:
    for score in extended({}, NUMBERS, errors).values():
        assert math.isfinite(score.errors)
        assert 0.0 <= score.weight < MEMORY_ROWS + 1e-9
        assert score.rows == len(errors)
        assert Score(**json.loads(json.dumps(asdict(score)))) == score


def test_experts_that_are_not_tested_keep_their_scores() -> None:
    before = {9: Score(5, 1.0, 2.0)}
    after = extended(before, NUMBERS, np.ones((3, 3)))
    assert after[9] == before[9]
    assert set(after) == {9, *NUMBERS}


@given(error=st.floats(0, 1e6), rows=st.integers(1, 300))
def test_the_mean_of_equal_errors_is_that_error(error: float, rows: int) -> None:
    score = extended({}, (1,), np.full((rows, 1), error))[1]
    assert [score.mean, score.overall] == pytest.approx([error, error])


def test_the_mean_before_the_first_row_is_infinite() -> None:
    assert (Score().mean, Score().overall) == (math.inf, math.inf)


def test_an_error_counts_one_eth_after_the_memory() -> None:
    memory = math.floor(MEMORY_ROWS)
    errors = np.concatenate([[2.0], np.full(memory, 1.0)])[:, None]
    score = extended({}, (1,), errors)[1]
    assert score.errors - score.weight == pytest.approx(math.exp(-1.0), rel=0.05)


def means(errors: Floats, before: Mapping[int, Score] | None = None) -> list[float]:
    scores = extended(before or {}, (1, 2), errors)
    return [scores[1].mean, scores[2].mean]


@pytest.mark.parametrize("absurd", [1e3, 1e9, 1e300, math.inf])
def test_an_absurd_target_counts_like_an_error_of_a_few_times_the_best_mean(absurd: float) -> None:
    """Both experts miss it; neither the order of them nor their errors after it may be drowned."""
    errors = np.tile([1.0, 2.0], (200, 1))
    errors[100] = absurd
    clipped = errors.copy()
    clipped[100] = CLIP
    np.testing.assert_allclose(means(errors), means(clipped), rtol=1e-2)
    first, second = means(errors[:101])
    assert first < second


def test_a_new_expert_is_measured_by_those_that_are_known() -> None:
    known = extended({}, (1,), np.ones((100, 1)))
    assert means(np.full((1, 2), 1e9), known)[1] == pytest.approx(CLIP)


@pytest.mark.parametrize("absurd", [1e9, 1e300])
def test_an_absurd_target_in_the_first_row_of_all_does_not_outweigh_the_hundreds_after_it(absurd: float) -> None:
    """An expert that errs by half as much comes later; the other one's mean must not stay near the absurd one."""
    errors = np.ones((1000, 1))
    errors[0] = absurd
    assert extended({}, (1,), errors)[1].mean < 2.0


def test_after_errors_of_zero_a_real_one_counts() -> None:
    scores = extended({}, (1, 2), np.zeros((50, 2)))
    assert {score.mean for score in scores.values()} == {0.0}
    first, second = means(np.tile([0.0, 3.0], (50, 1)), scores)
    assert first == 0.0
    assert second > 1.0


# What the last errors tell of the next

SIGNED = hnp.arrays(np.float64, st.integers(0, 40), elements=st.floats(-1e300, 1e300))


@given(errors=SIGNED | hnp.arrays(np.float64, 40, elements=st.floats(-9, 9)), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_what_the_errors_tell_does_not_depend_on_how_the_rows_are_cut(errors: Floats, cuts: list[int]) -> None:
    whole, pieces = Drag().extended(errors), Drag()
    for piece in np.split(errors, sorted(cuts)):
        pieces = pieces.extended(piece)
    assert pieces == whole


@given(errors=SIGNED)
def test_what_the_errors_tell_stays_finite(errors: Floats) -> None:
    drag = Drag().extended(errors)
    assert math.isfinite(drag.bias)
    assert math.isfinite(drag.share)
    assert drag.share >= 0.0


def test_errors_on_one_side_tell_of_the_next_and_errors_by_chance_do_not() -> None:
    chance = np.random.default_rng(1).normal(size=300)
    assert Drag().extended(chance + 10.0).share < 0.3
    assert Drag().extended(chance).share > 0.9
    assert Drag().extended(chance[:5]).share == 1.0
