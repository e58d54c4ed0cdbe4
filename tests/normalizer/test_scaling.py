"""Laws of the versioned statistics."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import StandardScaler

from correnteza.features import Floats
from correnteza.normalizer.scaling import Advanced, ScalingState, advance, block_end, first_version, scaler_rows

TOLERANCE = 0.02

numbers = st.one_of(
    st.just(math.nan), st.sampled_from([0.0, 1.0, -7.5, 1e18]), st.floats(-1e100, 1e100), st.floats(-50, 50, width=32)
)
tables = st.tuples(st.integers(0, 60), st.integers(1, 3)).flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=numbers))
cuts = st.lists(st.integers(0, 60), max_size=8)
blocks = st.integers(1, 20)


def run(values: Floats, block_rows: int, state: ScalingState | None = None, first: int = 1) -> Advanced:
    before = ScalingState.initial(values.shape[1]) if state is None else state
    offsets = np.arange(first, first + len(values))
    return advance(before, values, offsets, block_rows=block_rows, tolerance=TOLERANCE)


def run_in_parts(values: Floats, block_rows: int, places: list[int]) -> Advanced:
    """As `run`, in batches that end at `places`, with the state written down and read back between them."""
    ends = sorted({min(p, len(values)) for p in places} | {len(values)})
    state, begin, parts = ScalingState.initial(values.shape[1]), 0, []
    for end in ends:
        parts.append(run(values[begin:end], block_rows, state, begin + 1))
        state, begin = ScalingState.load(parts[-1].state.dump(), values.shape[1]), end
    return Advanced(
        np.concatenate([p.standardised for p in parts]),
        np.concatenate([p.versions for p in parts]),
        tuple(v for p in parts for v in p.new),
        state,
    )


def fitted_on_blocks(values: Floats, block_rows: int) -> tuple[StandardScaler, int]:
    """scikit-learn's own scaler after all whole blocks, and how many rows they have."""
    scaler, done = StandardScaler(), 0
    while (end := block_end(done, block_rows)) <= len(values):
        scaler.partial_fit(values[done:end])
        done = end
    return scaler, done


@settings(deadline=None, max_examples=60)
@given(tables, cuts, blocks)
def test_any_cut_gives_the_same_rows_versions_and_state_bit_for_bit(values: Floats, places: list[int], block_rows: int) -> None:
    whole, parts = run(values, block_rows), run_in_parts(values, block_rows, places)
    assert whole.standardised.tobytes() == parts.standardised.tobytes()
    assert whole.versions.tolist() == parts.versions.tolist()
    names = [f"f{i}" for i in range(values.shape[1])]
    assert scaler_rows(names, whole.new).equals(scaler_rows(names, parts.new))
    assert whole.state.dump() == parts.state.dump()


@settings(deadline=None, max_examples=60)
@given(tables, blocks)
def test_standardising_can_be_undone(values: Floats, block_rows: int) -> None:
    done = run(values, block_rows)
    scalers = {v.number: v.scaler for v in (first_version(values.shape[1]), *done.new)}
    for row, version, original in zip(done.standardised, done.versions, values, strict=True):
        scaler = scalers[int(version)]
        unit = np.maximum(np.abs(original), np.abs(scaler.mean))
        assert (np.isnan(original) | (np.abs(scaler.restore(row) - original) <= 1e-9 * unit)).all()


@settings(deadline=None, max_examples=60)
@given(tables, blocks)
def test_missing_stays_missing_and_nothing_else_becomes_so(values: Floats, block_rows: int) -> None:
    done = run(values, block_rows)
    assert (np.isnan(done.standardised) == np.isnan(values)).all()
    assert np.isfinite(done.standardised[~np.isnan(values)]).all()
    statistics = done.state.statistics
    assert np.isfinite([statistics.mean, statistics.variance, statistics.scale]).all()
    assert (statistics.scale > 0).all()


@settings(deadline=None, max_examples=30)
@given(tables, blocks)
def test_the_state_passed_in_is_not_changed(values: Floats, block_rows: int) -> None:
    before = run(values, block_rows).state
    blob = before.dump()
    run(values + 1.0, block_rows, before, len(values) + 1)
    assert before.dump() == blob


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_statistics_are_those_of_scikit_learn_over_the_same_blocks(missing: float) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal([1.0, -300.0, 1e9], [0.1, 50.0, 3.0], (1000, 3))
    values[rng.random(values.shape) < missing] = np.nan
    values[0] = [1.0, 2.0, 3.0]  # scikit-learn itself needs a value of each field in the first block
    statistics = run(values, 128).state.statistics
    scaler, rows = fitted_on_blocks(values, 128)
    assert rows == 896
    assert statistics.mean.tolist() == scaler.mean_.tolist()
    assert statistics.variance.tolist() == scaler.var_.tolist()
    assert statistics.scale.tolist() == scaler.scale_.tolist()
    whole = StandardScaler().fit(values[:rows])
    assert np.allclose(statistics.mean, whole.mean_, rtol=1e-12)
    assert np.allclose(statistics.variance, whole.var_, rtol=1e-9)
    assert statistics.n.tolist() == np.broadcast_to(whole.n_samples_seen_, 3).tolist()


def test_rows_are_standardised_by_the_version_in_force_before_their_block_ends() -> None:
    values = np.random.default_rng(5).normal(10.0, 2.0, (64, 1))
    done = run(values, 16)
    for version in done.new:
        rows = values[done.versions == version.number]
        assert (done.standardised[done.versions == version.number] == version.scaler.standardise(rows)).all()
        assert done.versions[: version.raw_offset].max() < version.number
        assert version.raw_offset in {1, 2, 4, 8, 16, 32, 48, 64}
        assert version.statistics.n.tolist() == [version.raw_offset]


def test_the_number_of_versions_grows_with_the_logarithm_of_a_stationary_stream() -> None:
    values = np.random.default_rng(7).normal([40.0, 0.0], [12.0, 1.0], (2**17, 2))
    done = run(values, 256)
    born = np.array([v.raw_offset for v in done.new])
    for power in range(1, 18):
        assert (born <= 2**power).sum() <= 2 * (power + 1)
    assert (born > 2**14).sum() <= 3  # eight times the rows, a handful of versions


def test_the_number_of_versions_grows_with_the_logarithm_even_under_endless_drift() -> None:
    values = np.linspace(0.0, 1.0, 2**16)[:, None]
    born = np.array([v.raw_offset for v in run(values, 64).new])
    halves = [((born > 2**k) & (born <= 2 ** (k + 1))).sum() for k in range(8, 16)]
    assert max(halves) <= 2 * math.log(2) / TOLERANCE


@pytest.mark.parametrize("constant", [0.0, 5.0, -1e18, 1.7e9 + 0.1, 1e100])
def test_a_constant_gets_one_version_of_scale_1(constant: float) -> None:
    done = run(np.full((5000, 1), constant), 64)
    assert len(done.new) == (0 if constant == 0.0 else 1)
    assert done.state.scaler.scale.tolist() == [1.0]
    assert done.state.statistics.variance[0] >= 0.0


def test_a_field_that_is_missing_so_far_has_mean_0_and_scale_1_until_its_first_value() -> None:
    values = np.column_stack([np.arange(8.0), np.full(8, np.nan)])
    first = run(values, 4)
    assert (first.state.statistics.mean[1], first.state.statistics.scale[1], first.state.statistics.n[1]) == (0.0, 1.0, 0)
    then = run(np.column_stack([np.full(4, np.nan), np.array([2.0, 4.0, 2.0, 4.0])]), 4, first.state, 9)
    assert (then.state.statistics.mean[1], then.state.statistics.scale[1], then.state.statistics.n[1]) == (3.0, 1.0, 4)
    assert then.state.statistics.mean[0] == first.state.statistics.mean[0]
    assert then.state.statistics.n[0] == 8


@pytest.mark.parametrize("huge", [1e300, -1e308, math.inf])
def test_values_whose_squares_are_not_finite_leave_the_statistics_as_they_were(huge: float) -> None:
    begun = run(np.array([[1.0, 1.0], [3.0, 3.0], [1.0, 1.0], [3.0, 3.0]]), 4).state
    after = run(np.array([[huge, 2.0], [-1e250, 2.0], [0.0, 2.0], [0.0, 2.0]]), 4, begun, 5).state
    assert (after.statistics.n.tolist(), after.statistics.mean.tolist()) == ([4, 8], [2.0, 2.0])
    assert after.statistics.variance[0] == 1.0
    assert after.fitted_rows == 8


def test_a_smaller_block_size_takes_effect_at_the_next_row() -> None:
    values = np.random.default_rng(9).normal(size=(300, 1))
    begun = run(values[:250], 100).state
    assert (begun.fitted_rows, len(begun.pending)) == (200, 50)
    after = run(values[250:], 10, begun, 251).state
    assert (after.fitted_rows, len(after.pending)) == (291, 9)


def test_a_state_of_other_width_or_of_damaged_bytes_is_refused() -> None:
    blob = run(np.ones((3, 2)), 2).state.dump()
    for bad, width in ((blob, 3), (blob[:-1], 2), (b"", 2), (b"\x80", 2)):
        with pytest.raises(ValueError):  # noqa: PT011 - whatever the damage says
            ScalingState.load(bad, width)


def test_without_numeric_fields_there_is_one_version_for_ever() -> None:
    done = run(np.empty((50, 0)), 4)
    assert set(done.versions) == {1}
    assert (done.new, done.standardised.shape) == ((), (50, 0))
    assert ScalingState.load(done.state.dump(), 0).dump() == done.state.dump()
