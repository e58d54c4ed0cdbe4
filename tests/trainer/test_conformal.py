"""Laws of the adaptive conformal intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.features import Floats
from correnteza.trainer.conformal import BLOCK_ROWS, FIRST_ROWS, LARGEST, Conformal

ROWS = 15_000
WINDOW = 5_000
WARM = 200


def autocorrelated(rng: np.random.Generator, share: float, rows: int = ROWS) -> Floats:
    noise = rng.normal(size=rows) * math.sqrt(1 - share**2)
    values = np.empty(rows)
    last = 0.0
    for row in range(rows):
        last = values[row] = share * last + noise[row]
    return values


def normal(rng: np.random.Generator) -> Floats:
    return rng.normal(size=ROWS)


def scaled(scale: Callable[[Floats], Floats]) -> Callable[[np.random.Generator], Floats]:
    return lambda rng: normal(rng) * scale(np.arange(ROWS, dtype=float))


STREAMS: dict[str, Callable[[np.random.Generator], Floats]] = {
    "independent": normal,
    "abrupt": scaled(lambda t: np.select([t < ROWS / 3, t < 2 * ROWS / 3], [1.0, 3.0], 0.7)),
    "gradual": scaled(lambda t: np.exp(np.sin(t / 1500))),
    "recurring": scaled(lambda t: np.where(t // 1000 % 2, 4.0, 1.0)),
    "relaxing after a shock": scaled(lambda t: np.where(t < ROWS / 2, 1.0, 1 + 10 / (1 + np.maximum(t - ROWS / 2, 0) / 300))),
    "a million times as large": scaled(lambda t: np.where(t // 4000 % 2, 1e6, 1.0)),
    "heavy tails": lambda rng: rng.standard_t(2, size=ROWS),
    "outliers": lambda rng: normal(rng) * np.where(rng.random(ROWS) < 0.01, 1e6, 1.0),
    "autocorrelated": lambda rng: autocorrelated(rng, 0.95),
    "stochastic volatility": lambda rng: normal(rng) * np.exp(0.75 * autocorrelated(rng, 0.98)),
}


def worst_gap(covered: np.ndarray, level: float) -> float:
    """Largest distance of the coverage of any `WINDOW` consecutive rows from the level, in points."""
    sums = np.cumsum(np.concatenate([[0], covered]))
    shares = (sums[WINDOW:] - sums[:-WINDOW]) / WINDOW
    return float(100 * np.max(np.abs(shares - level)))


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("name", STREAMS)
def test_coverage_is_within_2_points_over_any_5000_rows(name: str, level: float) -> None:
    """Where the spread is constant and so tells nothing."""
    errors = np.abs(STREAMS[name](np.random.default_rng(11)))
    multipliers, _ = Conformal(level).extend(errors, np.ones(ROWS))
    assert worst_gap((errors <= multipliers)[WARM:], level) < 2.0


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("name", ["independent", "abrupt", "recurring"])
def test_a_random_spread_costs_width_but_no_coverage(name: str, level: float) -> None:
    rng = np.random.default_rng(12)
    errors = np.abs(STREAMS[name](rng))
    spreads = rng.lognormal(0, 0.7, ROWS)
    multipliers, _ = Conformal(level).extend(errors, spreads)
    assert worst_gap((errors <= multipliers * spreads)[WARM:], level) < 2.0


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("name", ["independent", "abrupt", "gradual"])
def test_the_mean_width_is_within_5_percent_of_that_of_the_true_quantiles(name: str, level: float) -> None:
    noise = np.abs(normal(np.random.default_rng(13)))
    errors = np.abs(STREAMS[name](np.random.default_rng(13)))
    truth = errors / noise * float(np.quantile(np.abs(np.random.default_rng(0).normal(size=200_000)), level))
    multipliers, _ = Conformal(level).extend(errors, np.ones(ROWS))
    assert float(np.mean(multipliers[WARM:]) / np.mean(truth[WARM:])) == pytest.approx(1.0, abs=0.05)


def test_a_spread_that_tells_the_local_scale_makes_the_interval_follow_it_at_once() -> None:
    rng = np.random.default_rng(14)
    spreads = np.where(rng.random(ROWS) < 0.5, 10.0, 1.0)
    errors = np.abs(rng.normal(size=ROWS)) * spreads
    multipliers, _ = Conformal(0.9).extend(errors, spreads)
    covered = errors <= multipliers * spreads
    for spread in (1.0, 10.0):
        assert covered[WARM:][spreads[WARM:] == spread].mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_long_time_without_any_error_leaves_the_coverage_afterwards_as_it_should_be(level: float) -> None:
    errors = np.concatenate([np.zeros(20_000), np.abs(normal(np.random.default_rng(15)))])
    multipliers, _ = Conformal(level).extend(errors, np.ones(len(errors)))
    assert multipliers[20_000] == 0.0
    assert worst_gap((errors <= multipliers)[20_000:], level) < 2.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.lists(st.integers(0, 130), max_size=8), st.integers(0, 2**32 - 1))
def test_neither_cuts_nor_restarts_change_multipliers_or_state(rows: int, cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, spreads = rng.exponential(size=rows), rng.lognormal(size=rows)
    expected, whole = Conformal(0.9).extend(errors, spreads)
    found: list[float] = []
    now, start = Conformal(0.9), 0
    for size in [*cuts, rows]:
        part, now = now.extend(errors[start : start + size], spreads[start : start + size])
        now = Conformal.of(json.loads(json.dumps(now.plain(), allow_nan=False)))
        found += part.tolist()
        start = min(rows, start + size)
    assert repr(found) == repr(expected.tolist())
    assert now == whole
    assert now.plain() == whole.plain()


def test_a_multiplier_is_made_of_rows_of_finished_blocks_only() -> None:
    """It is that which is in force after the rows before its block, whatever comes afterwards."""
    errors = np.random.default_rng(16).exponential(size=300)
    multipliers, _ = Conformal(0.9).extend(errors, np.ones(300))
    for row, multiplier in enumerate(multipliers):
        known = row - row % BLOCK_ROWS if row >= FIRST_ROWS else 0
        _, before = Conformal(0.9).extend(errors[:known], np.ones(known))
        assert before.multiplier is None if math.isnan(multiplier) else before.multiplier == multiplier


def test_the_first_multiplier_is_the_conformal_quantile() -> None:
    errors = np.random.default_rng(17).permutation(np.arange(1.0, FIRST_ROWS + 1))
    _, after = Conformal(0.9).extend(errors, np.ones(FIRST_ROWS))
    assert after.multiplier == math.ceil((FIRST_ROWS + 1) * 0.9)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ("error", "spread"),
    [(LARGEST, 1e-300), (math.inf, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.nan), (0.0, 0.0), (0.0, 1.0)],
)
def test_the_state_stays_finite_and_of_one_size(error: float, spread: float, level: float) -> None:
    rng = np.random.default_rng(18)
    errors, spreads = np.full(1_000, error), np.full(1_000, spread)
    errors[::3], spreads[::7] = rng.exponential(size=334), 1.0
    now = Conformal(level)
    for start in range(0, 1_000, 77):
        multipliers, now = now.extend(errors[start : start + 77], spreads[start : start + 77])
        assert np.all((multipliers >= 0) & (multipliers <= LARGEST) | np.isnan(multipliers))
        assert len(json.dumps(now.plain(), allow_nan=False)) < 2_000
    assert now.multiplier is not None


def test_an_interval_without_width_covers_exact_predictions_only() -> None:
    errors, spreads = np.tile([0.0, 1.0], 100), np.zeros(200)
    multipliers, _ = Conformal(0.5).extend(errors, spreads)
    assert np.array_equal((errors <= multipliers * spreads)[FIRST_ROWS:], errors[FIRST_ROWS:] == 0)
