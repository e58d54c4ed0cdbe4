"""Running mean and deviation of every numeric field, and the numbered versions in which rows are standardised.

Invariants:
- Nothing here depends on how the stream is cut into batches, bit for bit. Statistics move on whole blocks only,
  and a block's last row depends on nothing but the count of rows: rows 1, 2, 4, 8, ... up to `block_rows`, then every
  `block_rows`. Each block reaches scikit-learn as one C-contiguous array, for the order of summation shows in the last bit.
- A row is standardised by the version in force before its block ends, so it depends on no later row.
- A version never changes. A new one comes only when a statistic has moved by more than the tolerance. The statistics are
  those of the whole stream, which move ever more slowly, so the number of versions grows with the logarithm of its length.
- Every mean is finite, every scale is finite and above 0, whatever the values were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from correnteza.features import SCALERS, Floats, Ints, Scaler

ROUNDING = 1e-12
"""A mean that moved by less than this share of itself has not moved: a constant of 1e18 is known to ±128 only."""


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What is known of each numeric field; every array has the shape [fields].

    Args:
        n: values seen, missing ones not counted.
        mean: their mean, in the field's unit; 0 before the first value.
        variance: their population variance, in the field's unit squared; 1 before the first value.
        scale: scikit-learn's `scale_`: the root of the variance, or 1 where the values are constant up to rounding.
    """

    n: Ints
    mean: Floats
    variance: Floats
    scale: Floats

    @classmethod
    def none(cls, width: int) -> Statistics:
        """The statistics of `width` fields before the first row: the identity."""
        return cls(np.zeros(width, np.int64), np.zeros(width), np.ones(width), np.ones(width))

    def updated(self, block: Floats) -> Statistics:
        """The statistics after one more block.

        Args:
            block: values in their own units, shape [rows, fields], C-contiguous; NaN where missing.

        A field without a value in the block keeps its statistics; `StandardScaler` would make NaN of them. So does a
        field whose values are too large for their squares to be finite: it leaves the block out, and later ones count.
        """
        seen = ~np.isnan(block).all(axis=0)
        if not seen.any():
            return self
        part = block if seen.all() else np.ascontiguousarray(block[:, seen])
        n, mean, variance, scale = _partial_fit(self.n[seen], self.mean[seen], self.variance[seen], part)
        finite = np.isfinite(mean) & np.isfinite(variance)
        after = Statistics(self.n.copy(), self.mean.copy(), self.variance.copy(), self.scale.copy())
        places = np.flatnonzero(seen)[finite]
        after.n[places] = n[finite]
        after.mean[places] = mean[finite]
        after.variance[places] = variance[finite]
        after.scale[places] = scale[finite]
        return after


def _partial_fit(n: Ints, mean: Floats, variance: Floats, block: Floats) -> tuple[Ints, Floats, Floats, Floats]:
    """`StandardScaler.partial_fit` of a block on top of given statistics: n, mean, variance, scale."""
    from sklearn import config_context
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    scaler.n_samples_seen_, scaler.mean_, scaler.var_ = n, mean, variance
    scaler.scale_, scaler.n_features_in_ = np.ones(len(mean)), len(mean)  # with these it counts as fitted
    with np.errstate(all="ignore"), config_context(assume_finite=True, skip_parameter_validation=True):
        scaler.partial_fit(block)
    counts = np.broadcast_to(np.asarray(scaler.n_samples_seen_, np.int64), mean.shape)
    return counts, scaler.mean_, scaler.var_, scaler.scale_


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """A version of the statistics as it came into force.

    Args:
        number: from 1, which is the identity.
        raw_offset: offset of the last raw row in the statistics; 0 for version 1.
        statistics: what it was made of.
        moved: places of the fields that had moved by more than the tolerance, ascending.
    """

    number: int
    raw_offset: int
    statistics: Statistics
    moved: tuple[int, ...] = ()

    @property
    def scaler(self) -> Scaler:
        """How rows are standardised in it."""
        return Scaler(self.number, self.statistics.mean, self.statistics.scale)


@dataclass(frozen=True, slots=True, eq=False)
class ScalingState:
    """Everything that the next row depends on. Immutable; equal states give equal bytes.

    Args:
        statistics: of the blocks that have ended.
        fitted_rows: rows in those blocks.
        scaler: the version in force.
        pending: values of the block that has not ended, shape [rows, fields], in their own units, NaN where missing.
    """

    statistics: Statistics
    fitted_rows: int
    scaler: Scaler
    pending: Floats

    @classmethod
    def initial(cls, width: int) -> ScalingState:
        """The state before the first row of `width` numeric fields: version 1, the identity."""
        return cls(Statistics.none(width), 0, first_version(width).scaler, np.empty((0, width)))

    def dump(self) -> bytes:
        """The state as bytes, exact to the last bit."""
        return msgspec.msgpack.encode(
            {
                **{f.name: _bytes(getattr(self.statistics, f.name)) for f in fields(Statistics)},
                "fitted_rows": self.fitted_rows,
                "version": self.scaler.version,
                "version_mean": _bytes(self.scaler.mean),
                "version_scale": _bytes(self.scaler.scale),
                "pending": _bytes(self.pending),
            }
        )

    @classmethod
    def load(cls, blob: bytes, width: int) -> ScalingState:
        """The state of `width` numeric fields that `dump` wrote.

        Raises:
            ValueError: these are not the bytes of such a state.
        """
        try:
            held = msgspec.msgpack.decode(blob, type=dict[str, Any])
            columns = {
                f.name: _array(held[f.name], width, np.int64 if f.name == "n" else np.float64) for f in fields(Statistics)
            }
            scaler = Scaler(held["version"], *(_array(held[key], width) for key in ("version_mean", "version_scale")))
            pending = np.frombuffer(held["pending"], "<f8").astype(np.float64).reshape(-1, width) if width else np.empty((0, 0))
            return cls(Statistics(**columns), held["fitted_rows"], scaler, pending)
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise ValueError(str(error)) from None


def _bytes(array: npt.NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _array(held: bytes, width: int, kind: type[np.generic] = np.float64) -> npt.NDArray[Any]:
    array = np.frombuffer(held, np.dtype(kind).newbyteorder("<")).astype(kind)
    if len(array) != width:
        raise ValueError(f"{len(array)} values where {width} were expected")
    return array


def first_version(width: int) -> Version:
    """Version 1 of `width` numeric fields: the identity, in force until the first block has ended."""
    return Version(1, 0, Statistics.none(width))


@dataclass(frozen=True, slots=True, eq=False)
class Advanced:
    """What `advance` made of some rows.

    Args:
        standardised: the values, as multiples of their version's scale from its mean, shape [rows, fields].
        versions: number of the version that each row is expressed in, shape [rows].
        new: versions that came into force behind one of the rows, in order.
        state: the state after the rows.
    """

    standardised: Floats
    versions: Ints
    new: tuple[Version, ...]
    state: ScalingState


def block_end(fitted_rows: int, block_rows: int) -> int:
    """Count of rows at which the block that begins after `fitted_rows` ends.

    >>> ends = [0]
    >>> while ends[-1] < 30:
    ...     ends.append(block_end(ends[-1], block_rows=10))
    >>> ends
    [0, 1, 2, 4, 8, 10, 20, 30]
    """
    return min(max(2 * fitted_rows, 1), block_rows) if fitted_rows < block_rows else fitted_rows + block_rows


def advance(state: ScalingState, values: Floats, offsets: Ints, *, block_rows: int, tolerance: float) -> Advanced:
    """Standardise the next rows of the stream and take them into the statistics.

    Args:
        state: the state before them; stays as it is.
        values: rows in their own units, shape [rows, fields]; NaN where missing, and missing they stay.
        offsets: the raw offset of each row, shape [rows].
        block_rows: rows in a block, once the stream is that long.
        tolerance: what makes a new version: a mean further than this many scales from the version's mean, or a scale
            that differs from the version's by more than this share.

    Source: the update is Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", in
    `sklearn.preprocessing.StandardScaler.partial_fit`.

    >>> state = ScalingState.initial(1)
    >>> rows = np.array([[1.0], [3.0], [5.0]])
    >>> after = advance(state, rows, np.array([1, 2, 3]), block_rows=2, tolerance=0.02)
    >>> after.versions.tolist(), after.standardised.ravel().tolist()
    ([1, 2, 3], [1.0, 2.0, 3.0])
    >>> [(v.number, v.raw_offset, float(v.statistics.mean[0])) for v in after.new]
    [(2, 1, 1.0), (3, 2, 2.0)]
    """
    width = values.shape[1]
    standardised, versions = np.empty_like(values), np.empty(len(values), np.int64)
    rows = np.concatenate([state.pending, values])  # C-contiguous, and so is each block cut from it
    known = len(state.pending)
    statistics, fitted, scaler = state.statistics, state.fitted_rows, state.scaler
    new: list[Version] = []
    done = 0  # rows of `rows` that are in the statistics

    def express(begin: int, end: int) -> None:
        standardised[begin:end] = scaler.standardise(values[begin:end])
        versions[begin:end] = scaler.version

    expressed = 0
    while width and (size := _block_size(fitted, known - done, block_rows)) <= len(rows) - done:
        statistics = statistics.updated(rows[done : done + size])
        done, fitted = done + size, fitted + size
        if moved := _moved(statistics, scaler, tolerance):
            express(expressed, done - known)
            expressed = done - known
            new.append(Version(scaler.version + 1, int(offsets[expressed - 1]), statistics, moved))
            scaler = new[-1].scaler
    express(expressed, len(values))
    return Advanced(standardised, versions, tuple(new), ScalingState(statistics, fitted, scaler, rows[done:].copy()))


def _block_size(fitted_rows: int, pending: int, block_rows: int) -> int:
    """Rows of the next block, of which `pending` were there before this batch.

    A block never ends before the batch begins; it could, if `block_rows` was made smaller between two runs.
    """
    return max(block_end(fitted_rows, block_rows) - fitted_rows, pending + 1)


def _moved(statistics: Statistics, scaler: Scaler, tolerance: float) -> tuple[int, ...]:
    """Places of the fields whose statistics have left the tolerance of the version in force."""
    far = np.abs(statistics.mean - scaler.mean) > tolerance * scaler.scale + ROUNDING * np.abs(scaler.mean)
    wide = np.abs(statistics.scale / scaler.scale - 1.0) > tolerance
    return tuple(int(place) for place in np.flatnonzero(far | wide))


def scaler_rows(names: Sequence[str], versions: Sequence[Version]) -> pa.RecordBatch:
    """Versions as rows of the log `scalers`: one per version and field, fields in their order.

    >>> scaler_rows(["age"], [first_version(1)]).to_pylist()
    [{'version': 1, 'raw_offset': 0, 'field': 'age', 'n': 0, 'mean': 0.0, 'variance': 1.0, 'scale': 1.0}]
    """
    width = len(names)
    columns: list[Any] = [
        np.repeat([v.number for v in versions], width),
        np.repeat([v.raw_offset for v in versions], width),
        list(names) * len(versions),
        *([value for v in versions for value in getattr(v.statistics, part.name)] for part in fields(Statistics)),
    ]
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, SCALERS, strict=True)], schema=SCALERS)
