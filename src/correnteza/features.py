"""What standardised numbers and category codes mean: shared by the normalizer that makes them and the trainer.

Invariants:
- A scaler version never changes; every normalized row names the one it is expressed in.
- Codes are append-only: a value keeps its code for ever; 0 is `other`, a missing value has no code.
- Standardisation is affine, so a row can be expressed in any other version exactly (up to rounding).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OTHER = 0
"""Code of every value without a code of its own."""

SCALERS = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("raw_offset", pa.int64()),
        pa.field("field", pa.string()),
        pa.field("n", pa.int64()),
        pa.field("mean", pa.float64()),
        pa.field("variance", pa.float64()),
        pa.field("scale", pa.float64()),
    ]
)
"""Columns of the log `scalers`: a row per version and numeric field; statistics of the rows of `normalized` up to the one
with this `raw_offset`."""

CATEGORIES = pa.schema(
    [
        pa.field("raw_offset", pa.int64()),
        pa.field("normalized_offset", pa.int64()),
        pa.field("field", pa.string()),
        pa.field("value", pa.string()),
        pa.field("code", pa.int64()),
    ]
)
"""Columns of the log `categories`: a row per value, at the raw row where it was first seen.

Which codes a row may have is said by `normalized_offset`, the place of that row in the log `normalized`: raw offsets do
not grow from row to row there when late records are put in order."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """One version of the statistics.

    Args:
        version: its number, from 1.
        mean: per numeric field, in the field's unit, shape [fields].
        scale: per numeric field, in the field's unit, shape [fields]; never 0.

    >>> Scaler(1, np.array([10.0]), np.array([2.0])).standardise(np.array([[14.0]])).tolist()
    [[2.0]]
    """

    version: int
    mean: Floats
    scale: Floats

    def standardise(self, values: Floats) -> Floats:
        """Values in their own units, shape [rows, fields], as multiples of the scale from the mean."""
        return (values - self.mean) / self.scale

    def restore(self, standardised: Floats) -> Floats:
        """The reverse of `standardise`."""
        return standardised * self.scale + self.mean


@dataclass(slots=True)
class Scalers:
    """The versions known so far, by number; grows by reading the log `scalers`.

    Args:
        fields: names of the numeric fields, in the order of the columns.
    """

    fields: Sequence[str]
    versions: dict[int, Scaler] = field(default_factory=dict)

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows of the log `scalers`; the rows of one version may come in several calls only if in order."""
        place = {name: i for i, name in enumerate(self.fields)}
        columns = [rows.column(name).to_pylist() for name in ("version", "field", "mean", "scale")]
        for version, name, mean, scale in zip(*columns, strict=True):
            scaler = self.versions.get(version)
            if scaler is None:
                scaler = Scaler(version, np.zeros(len(place)), np.ones(len(place)))
                self.versions[version] = scaler
            scaler.mean[place[name]] = mean
            scaler.scale[place[name]] = scale

    def express(self, standardised: Floats, versions: Ints, target: int) -> Floats:
        """Rows of mixed versions, all in one.

        Args:
            standardised: numeric features, shape [rows, fields], each row in its own version.
            versions: the version of each row, shape [rows].
            target: the version to express them in.

        Returns:
            A new array, shape [rows, fields]. Rows already in `target` are unchanged bit for bit.
        """
        out = standardised.copy()
        for version in np.unique(versions):
            if version != target:
                rows = versions == version
                out[rows] = self.versions[target].standardise(self.versions[int(version)].restore(out[rows]))
        return out

    def forget(self, before: int) -> None:
        """Drop versions with a lower number; no row in one of them will come again."""
        for version in [v for v in self.versions if v < before]:
            del self.versions[version]


Codes = Mapping[str, Sequence[str]]
"""Per category field its values in the order of their codes, from code 1."""
