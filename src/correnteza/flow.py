"""What goes through a stage: how often, how much, how fast.

Invariant: counting costs a stage next to nothing; what small batches weigh is estimated from one in `WEIGHED_EVERY`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from correnteza.metrics import ROWS, Histogram, by_reason

REJECTED = "rejected"
"""The log of a stage whose rows are counted by the class of their `reason`."""
WEIGHED_EVERY = 64
LARGE_ROWS = 1000
"""Batches from this size on are always weighed."""
INPUT = "<input>"


class Flow:
    """What has gone through a stage since it started: how often, how much, how fast. One thread notes, any may read.

    To add up the buffers of a batch takes as long as a hundredth of a step over a hundred rows. So small batches are
    taken to have as many bytes in a row as the last one that was weighed, one in `WEIGHED_EVERY`.

    Attributes:
        bytes_in: bytes of the columns that were read and committed.
        out: rows and bytes that were appended, by log.
        rejected: rejected rows by class of reason.
        batch_rows: rows of each step; their sum is what has come in.
        step_s: seconds of each step.
        commit_s: seconds of each commit.
    """

    __slots__ = ("_known", "batch_rows", "bytes_in", "commit_s", "out", "rejected", "step_s")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.out: dict[str, list[int]] = {}
        self.rejected: Counter[str] = Counter()
        self.batch_rows = Histogram(ROWS)
        self.step_s = Histogram()
        self.commit_s = Histogram()
        self._known: dict[str, list[float]] = {}

    def note(
        self, came: Mapping[str, pa.RecordBatch], went: Mapping[str, pa.RecordBatch], step_s: float, commit_s: float
    ) -> None:
        """Take down a committed step.

        Args:
            came: what was read, by what it is one of.
            went: what was appended, by log.
            step_s: seconds that the step took.
            commit_s: seconds that the commit took.
        """
        rows_in = 0
        for name, batch in came.items():
            rows = batch.num_rows
            rows_in += rows
            self.bytes_in += self._bytes_of(name, batch, rows)
        self.batch_rows.note(rows_in)
        self.step_s.note(step_s)
        self.commit_s.note(commit_s)
        for log, batch in went.items():
            rows, known = batch.num_rows, self.out.get(log)
            if known is None:
                known = self.out[log] = [0, 0]
            known[0] += rows
            known[1] += self._bytes_of(log, batch, rows)
            if log == REJECTED and "reason" in batch.schema.names:
                self.rejected.update(by_reason(batch["reason"]))

    def _bytes_of(self, name: str, batch: pa.RecordBatch, rows: int) -> int:
        """Bytes of a batch, weighed or estimated; `name` says which others are like it."""
        known = self._known.get(name)
        if known is None or known[0] <= 0 or rows >= LARGE_ROWS:
            known = self._known[name] = [WEIGHED_EVERY, batch.nbytes / max(1, rows)]
        known[0] -= 1
        return round(rows * known[1])

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for a process that tells it to another one."""
        sizes = {name: getattr(self, name).plain() for name in ("batch_rows", "step_s", "commit_s")}
        return {"bytes_in": self.bytes_in, "out": dict(self.out), "rejected": dict(self.rejected), **sizes}
