"""Times that people write, many as a column or one alone.

Invariant: a text is the same time, or none, in both ways.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import validation
from correnteza.ipc import empty_as_null
from correnteza.records import TIMESTAMP


def parse_times(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Times in ISO 8601 (date, or date and time after a space or T, with or without a zone; UTC when none).

    Args:
        texts: string array; nulls and empty texts stay missing.

    Returns:
        The times in UTC, and a mask of the values that are no times (null in the first).

    >>> times, bad = parse_times(pa.array(["2026-01-31", "2026-01-31 10:00:00+02:00", "soon"]))
    >>> times.to_pylist()[1].isoformat(), bad.tolist()
    ('2026-01-31T08:00:00+00:00', [False, False, True])
    """
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), TIMESTAMP), np.zeros(len(texts), bool)
    texts = empty_as_null(texts)
    for kind in (TIMESTAMP, pa.timestamp("us")):
        try:
            times = texts.cast(kind).cast(TIMESTAMP)
        except pa.ArrowInvalid:
            continue
        bad = validation.beyond_calendar(times)
        return (pc.if_else(pa.array(~bad), times, None) if bad.any() else times), bad
    values = [time_of(text) for text in texts.to_pylist()]
    bad = np.array([value is None for value in values]) & texts.is_valid().to_numpy(zero_copy_only=False)
    return pa.array(values, TIMESTAMP), bad


def time_of(text: str | None) -> datetime | None:
    """One time in the same forms, in UTC; None for a text that is none, and for a missing one."""
    try:
        time = datetime.fromisoformat(text.strip()) if text else None
        return time if time is None else time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # no time at all, or one outside the years 1 to 9999 in UTC
        return None
