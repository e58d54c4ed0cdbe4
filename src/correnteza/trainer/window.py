"""The sliding window: the last labelled rows, which the next model is trained on.

Invariants:
- It holds the last `capacity` rows that were added, in the order of the stream, whatever the batches were.
- Memory is `capacity` rows, allocated once; adding a row costs the same however long the stream has run.
- Rows keep the scaler version they came in; only `expressed` brings them into one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from correnteza.features import Floats, Ints, Scalers


@dataclass(frozen=True, slots=True)
class Expressed:
    """The rows of a window in one scaler version, oldest first.

    Args:
        features: standardised numbers, then category codes; NaN is missing; shape [rows, fields].
        targets: in the target's own unit, shape [rows].
        version: the scaler version of all rows.
        first_offset: offset of the oldest row in the log `normalized`.
        last_offset: offset of the newest row in the log `normalized`.
        numbers: which labelled row of the stream each is, from 1, shape [rows].
    """

    features: Floats
    targets: Floats
    version: int
    first_offset: int
    last_offset: int
    numbers: Ints


class Window:
    """A ring of labelled rows.

    Args:
        capacity: most rows that it holds, at least 1.
        fields: names of the columns of `features`, numeric fields first.

    >>> window = Window(2, ["age"])
    >>> window.add(np.array([[0.1], [0.2], [0.3]]), np.ones(3), np.array([1.0, 2.0, 3.0]), np.arange(3))
    >>> len(window), window.oldest_version()
    (2, 1)
    """

    def __init__(self, capacity: int, fields: Sequence[str]) -> None:
        self.capacity = capacity
        self.fields = tuple(fields)
        self._features = np.empty((capacity, len(self.fields)), np.float64)
        self._targets = np.empty(capacity, np.float64)
        self._versions = np.empty(capacity, np.int64)
        self._offsets = np.empty(capacity, np.int64)
        self._added = 0

    def __len__(self) -> int:
        return min(self._added, self.capacity)

    def add(self, features: Floats, versions: Ints, targets: Floats, offsets: Ints) -> None:
        """Take rows behind the ones already there; the oldest leave when it is full.

        Args:
            features: shape [rows, fields], NaN is missing.
            versions: scaler version of each row, shape [rows].
            targets: shape [rows], no NaN.
            offsets: of each row in the log `normalized`, shape [rows].
        """
        rows = len(targets)
        kept = slice(max(0, rows - self.capacity), rows)
        places = (self._added + np.arange(rows)[kept]) % self.capacity
        self._features[places] = features[kept]
        self._versions[places] = versions[kept]
        self._targets[places] = targets[kept]
        self._offsets[places] = offsets[kept]
        self._added += rows

    def copied(self, rows: int) -> Window:
        """A window of its own for so many rows, filled with the last ones."""
        window, places = Window(rows, self.fields), self._places(min(rows, len(self)))
        window.add(self._features[places], self._versions[places], self._targets[places], self._offsets[places])
        return window

    def oldest_version(self) -> int | None:
        """The lowest scaler version that a row is in, or None when it is empty: `Scalers.forget` may drop those before."""
        return int(self._versions[: len(self)].min()) if len(self) else None

    def newest_version(self) -> int | None:
        """The highest scaler version that a row is in, or None when it is empty."""
        return int(self._versions[: len(self)].max()) if len(self) else None

    def last(self, rows: int) -> Floats:
        """Features of the last rows, as they came, oldest first, shape [at most rows, fields]."""
        return self._features[self._places(min(rows, len(self)))]

    def targets(self, rows: int) -> Floats:
        """Targets of the last rows, oldest first, shape [at most rows]."""
        return self._targets[self._places(min(rows, len(self)))]

    def expressed(
        self, scalers: Scalers, n_numeric: int, last: int, rows: int | None = None, version: int | None = None
    ) -> Expressed:
        """The last rows in one scaler version.

        Args:
            scalers: knows every version from `oldest_version` on.
            n_numeric: how many of the leading columns are standardised numbers; the others are codes.
            last: number of the newest row among the labelled rows of the stream.
            rows: how many, at most; all if None.
            version: the scaler version; the newest among the rows if None.

        Raises:
            ValueError: the window is empty.
        """
        if not len(self):
            raise ValueError("the window is empty; add a labelled row before training")
        order = self._places(len(self) if rows is None else min(rows, len(self)))
        features, versions = self._features[order], self._versions[order]
        common = int(versions.max()) if version is None else version
        features[:, :n_numeric] = scalers.express(features[:, :n_numeric], versions, common)
        return Expressed(
            features,
            self._targets[order],
            common,
            int(self._offsets[order[0]]),
            int(self._offsets[order[-1]]),
            last + 1 - len(order) + np.arange(len(order)),
        )

    def _places(self, rows: int) -> Ints:
        """Where the last rows are, oldest first."""
        places: Ints = (self._added - rows + np.arange(rows)) % self.capacity
        return places
