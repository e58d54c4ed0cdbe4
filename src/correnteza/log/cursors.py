"""Cursors of logs that number their rows without gaps.

Invariant: a cursor names its log by an id drawn when the log was created, so a cursor of a log that
was deleted and made anew, or of another one, is refused instead of read as a wrong place.
"""

from __future__ import annotations

import re
import secrets

from correnteza.errors import CursorError, OffsetRemovedError
from correnteza.log.base import LATEST, Bounds

_PATTERN = re.compile(r"([0-9a-f]{12})\.([0-9]{1,18})")


def new_id() -> str:
    """An id for a new log."""
    return secrets.token_hex(6)


def write(log_id: str, offset: int) -> str:
    """The cursor behind `offset`."""
    return f"{log_id}.{offset}"


def read(cursor: str, log_id: str, name: str) -> int:
    """The offset that a cursor stands behind.

    Raises:
        CursorError: it is not a cursor of the log with this id.
    """
    match = _PATTERN.fullmatch(cursor)
    if match is None:
        raise CursorError(f"log {name}: {cursor[:80]!r} is not a cursor; pass the `next` of an earlier answer, or leave it out")
    if match[1] != log_id:
        raise CursorError(
            f"log {name}: cursor {cursor!r} belongs to another log (this one is {log_id}); "
            "was the data folder deleted? leave the cursor out to read from the start"
        )
    return int(match[2])


def start(after: str | None, back: int, log_id: str, name: str, bounds: Bounds) -> int:
    """Offset of the first row to read.

    Raises:
        CursorError: the cursor is not of this log, or points behind its end.
        OffsetRemovedError: the row was there and has been removed.
    """
    if after is None:
        return bounds.first
    if after == LATEST:
        return max(bounds.first, bounds.next - back)
    offset = read(after, log_id, name) + 1
    if offset > bounds.next:
        raise CursorError(
            f"log {name}: cursor {after!r} is behind the end (next offset is {bounds.next}); was an older copy restored?"
        )
    if back:
        return max(bounds.first, offset - back)
    if offset < bounds.first:
        raise OffsetRemovedError(
            f"log {name}: offset {offset} was removed by retention; the first that is still there is {bounds.first}",
            bounds.first,
        )
    return offset
