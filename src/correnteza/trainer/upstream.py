"""What the learner reads from the normalizer: rows, and what their numbers and codes mean.

Invariant: a batch is handed on only when every scaler version and category code in it is known. The
normalizer commits those together with the rows, so they are there as soon as the rows are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.errors import LogUnavailableError
from correnteza.features import Codes, Floats, Ints, Scalers
from correnteza.log.base import Slice
from correnteza.records import OFFSET, Schema
from correnteza.stage import Source
from correnteza.trainer.labels import sorts_of
from correnteza.trainer.window import Window

READ_ROWS = 10_000
WIDEN = 4
"""By how much further back a reading goes each time that it has not found enough labelled rows."""


class Values:
    """The values of one category field in the order of their codes, from code 1."""

    def __init__(self) -> None:
        self._values: list[str] = []
        self._offsets: list[int] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: str, offset: int) -> None:
        """Take the value of the next code, first seen at a row of `normalized`."""
        self._values.append(value)
        self._offsets.append(offset)

    def until(self, offset: int) -> list[str]:
        """The values that had a code after that row of `normalized`."""
        return self._values[: bisect_right(self._offsets, offset)]

    def decode(self, codes: Floats) -> npt.NDArray[np.object_]:
        """The texts of codes, "" for missing ones; `other` becomes a text that is no value of this field."""
        other = "other"
        while other in self._values:
            other += "?"
        table = np.array(["", other, *self._values], object)
        return table[np.where(np.isnan(codes), 0, codes + 1).astype(np.int64)]


class Upstream:
    """The log `normalized` as a source for the learner's runner, and the logs that explain it.

    Args:
        rows: the log `normalized`.
        scalers: the log `scalers`.
        categories: the log `categories`.
        schema: of the records.

    Attributes:
        scalers: the versions known so far.
        values: per category field the values known so far.
    """

    def __init__(self, rows: Source, scalers: Source, categories: Source, schema: Schema) -> None:
        self.scalers = Scalers(schema.numeric)
        self.values: Mapping[str, Values] = {name: Values() for name in schema.categories}
        self._rows = rows
        self._scaler_rows = _Tail(scalers)
        self._category_rows = _Tail(categories)
        self._schema = schema
        self._last: tuple[pa.RecordBatch, Floats] | None = None

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """As `Log.read`, of the log `normalized`.

        Raises:
            LogUnavailableError: also when a row names a scaler version or code that is not known yet.
        """
        part = self._rows.read(after, limit, wait_s, back)
        self.explained(part.batch)
        return part

    def explained(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The rows, when all that they name is known.

        Raises:
            LogUnavailableError: a row names a scaler version or code that is not known yet.
        """
        if rows.num_rows:
            self._explain(rows)
        return rows

    def codes(self, offset: int) -> Codes:
        """The codes that were known at a row of `normalized`: the same whenever it is asked."""
        self._learn_codes()
        return {name: values.until(offset) for name, values in self.values.items()}

    def features(self, rows: pa.RecordBatch) -> Floats:
        """Numbers in their own units, and category codes; NaN is missing; shape [rows, features]."""
        numbers = self._numbers(rows)
        return np.hstack([numbers, columns(rows, self._schema.categories)])

    def raw(self, rows: pa.RecordBatch) -> tuple[Floats, npt.NDArray[np.object_]]:
        """Normalized rows in their own units again, as a served model takes them.

        Returns:
            Numbers, NaN for missing, shape [rows, numeric fields]; texts, "" for missing, shape [rows, category fields].
        """
        numbers = self._numbers(rows)
        texts = np.empty((rows.num_rows, len(self._schema.categories)), object)
        for place, name in enumerate(self._schema.categories):
            texts[:, place] = self.values[name].decode(columns(rows, (name,))[:, 0])
        return numbers, texts

    def _numbers(self, rows: pa.RecordBatch) -> Floats:
        """Those of the last rows are remembered: a batch is asked about by the champion, by a challenger, and for drift."""
        if self._last is None or self._last[0] is not rows:
            self._last = rows, self._restored(rows)
            self._last[1].setflags(write=False)
        return self._last[1]

    def _restored(self, rows: pa.RecordBatch) -> Floats:
        numbers = columns(rows, self._schema.numeric)
        versions = rows["scaler_version"].to_numpy()
        for version in np.unique(versions) if self._schema.numeric else ():
            of_version = versions == version
            numbers[of_version] = self.scalers.versions[int(version)].restore(numbers[of_version])
        return numbers

    def window(self, capacity: int, after: str, offset: int, labelled: int) -> Window:
        """The window as it was after a row, read back from the log.

        Args:
            capacity: rows that it holds.
            after: cursor behind that row.
            offset: offset of that row.
            labelled: labelled rows up to it, since the stream began.
        """
        return self.window_of(capacity, labelled, lambda back: self._back(after, offset, back))

    def window_of(self, capacity: int, labelled: int, past: Callable[[int], Iterable[pa.RecordBatch]]) -> Window:
        """The window that some rows end with.

        Args:
            capacity: rows that it holds.
            labelled: labelled rows since the stream began.
            past: gives the last so many rows, and what belongs to them, oldest first; fewer where there are no more.
        """
        back, before = capacity, -1
        while True:
            window, rows = Window(capacity, self._schema.features), 0
            for batch in past(back):
                rows += batch.num_rows
                self.learn(window, batch)
            if len(window) >= min(capacity, labelled) or rows <= before:
                return window
            before = rows
            back *= WIDEN

    def learn(self, window: Window, rows: pa.RecordBatch) -> None:
        """Add the labelled ones of some normalized rows to a window."""
        rows = rows.filter(sorts_of(rows, self._schema.target)[1])
        if rows.num_rows:
            window.add(
                columns(rows, self._schema.features),
                _ints(rows, "scaler_version"),
                columns(rows, (self._schema.target,))[:, 0],
                _ints(rows, OFFSET),
            )

    def _back(self, after: str, offset: int, back: int) -> Iterator[pa.RecordBatch]:
        """The last `back` rows up to `offset`."""
        part = self.read(after, min(back, READ_ROWS), back=back)
        while part.batch.num_rows:
            yield part.batch.filter(pc.less_equal(part.batch[OFFSET], offset))
            if part.batch[OFFSET][-1].as_py() >= offset:
                return
            part = self.read(part.next, READ_ROWS)

    def _explain(self, batch: pa.RecordBatch) -> None:
        if self._unknown(batch):
            for rows in self._scaler_rows.news():
                self.scalers.add(rows)
            self._learn_codes()
            unknown = self._unknown(batch)
            if unknown:
                raise LogUnavailableError(f"{unknown} of the normalized rows is not in the normalizer's logs yet")

    def _learn_codes(self) -> None:
        """Read on in `categories`; also when no row names a code that is not known, as behind a restart none may."""
        for rows in self._category_rows.news() if self.values else ():
            found = [rows[name].to_pylist() for name in ("field", "value", "normalized_offset")]
            for field, value, offset in zip(*found, strict=True):
                self.values[field].add(value, offset)

    def _unknown(self, batch: pa.RecordBatch) -> str:
        """A scaler version or code in the batch that is not known; empty when there is none."""
        if self._schema.numeric:
            for version in pc.unique(batch["scaler_version"]).to_pylist():
                if version not in self.scalers.versions:
                    return f"scaler version {version}"
        for name, values in self.values.items():
            highest = pc.max(batch[name]).as_py()
            if highest is not None and highest > len(values):
                return f"code {highest:g} of {name}"
        return ""


class _Tail:
    """A log that is read on and on to its end."""

    def __init__(self, log: Source) -> None:
        self._log = log
        self._after: str | None = None

    def news(self) -> Iterator[pa.RecordBatch]:
        """The rows that came since the last call."""
        while True:
            part = self._log.read(self._after, READ_ROWS)
            self._after = part.next
            if not part.batch.num_rows:
                return
            yield part.batch


def columns(rows: pa.RecordBatch, names: tuple[str, ...]) -> Floats:
    """Some columns as a new matrix, NaN for missing, shape [rows, columns]."""
    matrix = np.empty((rows.num_rows, len(names)))
    for place, name in enumerate(names):
        matrix[:, place] = rows[name].to_numpy(zero_copy_only=False)
    return matrix


def _ints(rows: pa.RecordBatch, name: str) -> Ints:
    values: Ints = rows[name].to_numpy()
    return values
