"""A log that is followed: what is new at its end, each row once."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from correnteza.log.base import LATEST, OwnedLog

READ_ROWS = 1000


class Tail:
    """What is new at the end of a log, each row once.

    Args:
        log: the log.
        back: how many of its last rows come first; None for all that are there.
    """

    def __init__(self, log: OwnedLog, back: int | None) -> None:
        self._log = log
        self._after = None if back is None else LATEST
        self._back = back or 0

    def new(self) -> Iterator[pa.RecordBatch]:
        """Batches of at least one row, until there are no more."""
        while True:
            part = self._log.read(self._after, READ_ROWS, back=self._back)
            self._after, self._back = part.next, 0
            if part.batch.num_rows:
                yield part.batch
            if not part.lag_rows:
                return
