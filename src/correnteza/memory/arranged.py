"""Rows of the log `memory` as arrays, arranged for the tails."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from correnteza.features import Floats, Ints
from correnteza.memory import entries
from correnteza.memory.keys import ALONE
from correnteza.memory.tails import Entries, Tails
from correnteza.memory.windows import NO_TIME
from correnteza.records import MAGNITUDE_LIMIT


def append(tails: Tails, slots: Ints, times: Ints, numbers: Ints, values: Floats) -> Ints:
    """Append the values of rows that are in the order of their slots; where each row stands in its tail, shape [rows]."""
    there = ~np.isnan(values)
    firsts = np.flatnonzero(np.append(True, slots[1:] != slots[:-1])) if len(slots) else np.empty(0, np.int64)
    sizes = np.diff(np.append(firsts, len(slots)))
    counted = np.append(0, np.cumsum(there))
    counts = counted[firsts + sizes] - counted[firsts]
    new = Entries(slots[firsts], counts, times[there], numbers[there], values[there])
    starts = tails.append(new)
    ends: Ints = np.repeat(starts - counted[firsts], sizes) + counted[:-1]
    return ends


def grouped(slots: Ints, times: Ints, numbers: Ints, values: Floats) -> Entries:
    """Entries of rows that are in the order of their slots, or at least together."""
    firsts = np.flatnonzero(np.append(True, slots[1:] != slots[:-1])) if len(slots) else np.empty(0, np.int64)
    return Entries(slots[firsts], np.diff(np.append(firsts, len(slots))), times, numbers, values)


def is_key(name: str) -> bool:
    """Whether a column of the log holds keys."""
    return name.startswith(entries.KEY)


def key_column(rows: pa.RecordBatch, by: str | None) -> pa.Array:
    """The keys of rows of the log; the same for all where there is no `by`."""
    return pa.repeat(ALONE, rows.num_rows) if by is None else rows.column(entries.KEY + by)


def times_of(rows: pa.RecordBatch) -> Ints:
    """Event times of rows of the log."""
    return times_us(rows.column(entries.TIME))


def times_us(times: pa.Array) -> Ints:
    """Times as microseconds since 1970, `NO_TIME` where missing."""
    found: Ints = times.cast(pa.int64()).fill_null(NO_TIME).to_numpy(zero_copy_only=False)
    return found


def bounded(column: Floats) -> Floats:
    """Without what the rules for a record's own numbers would refuse."""
    fits: npt.NDArray[np.bool_] = np.abs(column) <= MAGNITUDE_LIMIT
    return column if fits.all() else np.where(fits, column, np.nan)
