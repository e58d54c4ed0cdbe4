"""The last rows of a log in memory, to be found by id and taken by offset; and when rows were first seen.

Invariant: memory is bounded by the rows that are kept. What is found and taken depends on the rows alone,
not on the batches in which they came.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.features import Ints
from correnteza.records import OFFSET

PARTS = 8
"""The largest part holds one in so many of the rows that are kept, so that old ones can be let go part by part."""
MARKS = 64
MARK_S = 0.1


class Recent:
    """Rows of one log, in order.

    Args:
        key: the column of their ids.
        most_rows: about how many are kept at a time; `forget` says exactly which.
    """

    def __init__(self, key: str, most_rows: int) -> None:
        self._key = key
        self._part_rows = max(1, most_rows // PARTS)
        self._parts: list[pa.RecordBatch] = []
        self._lasts: list[int] = []

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows behind those that are there; their offsets grow, and may have gaps."""
        if not rows.num_rows:
            return
        self._parts.append(rows)
        # Small parts are merged into larger ones, so a row is copied a logarithmic number of times, and a search is short.
        while len(self._parts) > 1:
            sizes = self._parts[-2].num_rows, self._parts[-1].num_rows
            if sizes[0] > 2 * sizes[1] or sum(sizes) > self._part_rows:
                break
            self._parts[-2:] = [pa.concat_batches(self._parts[-2:])]
            self._lasts.pop()
        self._lasts.append(rows[OFFSET][-1].as_py())

    def forget(self, floor: int) -> None:
        """Let rows up to the offset `floor` go; some may stay for a while."""
        gone = bisect_left(self._lasts, floor + 1)
        del self._parts[:gone], self._lasts[:gone]

    def find(self, ids: Sequence[str], floor: int) -> dict[str, int]:
        """The offset of the last row above `floor` with each of some ids; those that have none are left out."""
        wanted, found = list(dict.fromkeys(ids)), dict[str, int]()
        for part, last in zip(reversed(self._parts), reversed(self._lasts), strict=True):
            if last <= floor or not wanted:
                break
            places = pc.index_in(part[self._key], value_set=pa.array(wanted, pa.string()))
            rows = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
            offsets = part[OFFSET].to_numpy()[rows]
            which = places.take(pa.array(rows)).to_numpy()[offsets > floor]
            hits = dict(zip(which.tolist(), offsets[offsets > floor].tolist(), strict=True))  # the last one of each wins
            found |= {wanted[place]: offset for place, offset in hits.items()}
            wanted = [one for one in wanted if one not in found]
        return found

    def between(self, low: int, high: int) -> Ints:
        """Offsets above `low` and up to `high`."""
        parts = [part[OFFSET].to_numpy() for part, last in zip(self._parts, self._lasts, strict=True) if last > low]
        parts = [offsets[(offsets > low) & (offsets <= high)] for offsets in parts if offsets[0] <= high]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def rows_above(self, floor: int) -> int:
        """How many rows have an offset above `floor`."""
        first = bisect_left(self._lasts, floor + 1)
        if first == len(self._parts):
            return 0
        partly = self._parts[first]
        rows = partly.num_rows - int(np.searchsorted(partly[OFFSET].to_numpy(), floor, side="right"))
        return int(rows + sum(part.num_rows for part in self._parts[first + 1 :]))

    def take(self, offsets: Sequence[int]) -> tuple[pa.RecordBatch | None, list[int]]:
        """The rows at some offsets, in their order; and the places in `offsets` of those that are here."""
        wanted = np.asarray(offsets, np.int64)
        part_of = np.searchsorted(np.asarray(self._lasts, np.int64), wanted)
        pieces, places = [], np.empty(0, np.int64)
        for number in np.unique(part_of[part_of < len(self._parts)]):
            part = self._parts[number]
            there = part[OFFSET].to_numpy()
            mine = np.flatnonzero(part_of == number)
            rows = np.searchsorted(there, wanted[mine])
            held = there[rows] == wanted[mine]
            if held.any():
                pieces.append(part.take(pa.array(rows[held])))
                places = np.concatenate([places, mine[held]])
        if not pieces:
            return None, []
        order = np.argsort(places)
        return pa.concat_batches(pieces).take(pa.array(order)), places[order].tolist()


class Marks:
    """When rows were first seen: exactly at `MARKS` moments, the denser the younger, and between them in proportion.

    Args:
        plain: what `plain` of another one returned.
    """

    def __init__(self, plain: Sequence[Sequence[float]] = ()) -> None:
        self._offsets = [int(offset) for offset, _ in plain]
        self._times_s = [float(time_s) for _, time_s in plain]

    def plain(self) -> list[tuple[int, float]]:
        """As JSON values."""
        return list(zip(self._offsets, self._times_s, strict=True))

    def add(self, offset: int, now_s: float) -> None:
        """Rows up to `offset` have been seen now."""
        if self._times_s and now_s - self._times_s[-1] < MARK_S:
            self._offsets[-1] = offset
            return
        self._offsets.append(offset)
        self._times_s.append(round(now_s, 2))
        if len(self._offsets) > MARKS:
            self._thin(now_s)

    def _thin(self, now_s: float) -> None:
        """Drop the mark whose neighbours are closest together for its age, so that the marks lie as on a slide rule."""
        times_s = np.array(self._times_s)
        dispensable = int(np.argmin((times_s[2:] - times_s[:-2]) / (now_s - times_s[1:-1] + MARKS * MARK_S))) + 1
        del self._offsets[dispensable], self._times_s[dispensable]

    def forget(self, floor: int) -> None:
        """No row up to `floor` is asked for any more."""
        gone = bisect_left(self._offsets, floor + 1)
        del self._offsets[:gone], self._times_s[:gone]

    def at(self, offset: int) -> float | None:
        """When the row at `offset` was first seen, in seconds of Unix time; None when that is not known."""
        place = bisect_left(self._offsets, offset)
        if place == len(self._offsets):
            return None
        if place == 0:
            return self._times_s[0]
        share = (offset - self._offsets[place - 1]) / (self._offsets[place] - self._offsets[place - 1])
        return self._times_s[place - 1] + share * (self._times_s[place] - self._times_s[place - 1])
