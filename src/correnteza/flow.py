"""What goes through a stage: how often, how much, how fast.

Invariant: counting costs a stage next to nothing; what small batches weigh is estimated from one in `WEIGHED_EVERY`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa

from correnteza.metrics import ROWS, Histogram, by_reason

REJECTED = "rejected"
"""The log of a stage whose rows are counted by the class of their `reason`."""
WEIGHED_EVERY = 64
LARGE_ROWS = 1000
"""Batches from this size on are always weighed."""
INPUT = "<input>"


class Weight(NamedTuple):
    """How much a batch is.

    Args:
        rows: of it.
        size_bytes: of its columns.
        rejected: of rejects, their number by class of reason.
    """

    rows: int
    size_bytes: int
    rejected: Mapping[str, int] = MappingProxyType({})


class Scale:
    """Weighs batches; for one thread.

    To add up the buffers of a batch takes as long as a hundredth of a step over a hundred rows. So small batches are
    taken to have as many bytes in a row as the last one that was weighed, one in `WEIGHED_EVERY`.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, float]] = {}

    def weigh(self, name: str, batch: pa.RecordBatch) -> Weight:
        """How much a batch is.

        Args:
            name: what it is one of, as the name of its log.
            batch: the rows.
        """
        rows = batch.num_rows
        left, row_bytes = self._known.get(name, (0, 0.0))
        if left == 0 or rows >= LARGE_ROWS:
            left, row_bytes = WEIGHED_EVERY, batch.nbytes / max(1, rows)
        self._known[name] = left - 1, row_bytes
        reasons = by_reason(batch["reason"]) if name == REJECTED and "reason" in batch.schema.names else {}
        return Weight(rows, round(rows * row_bytes), reasons)

    def weigh_all(self, outputs: Mapping[str, pa.RecordBatch]) -> dict[str, Weight]:
        """How much is appended to each log."""
        return {log: self.weigh(log, rows) for log, rows in outputs.items()}


class Flow:
    """What has gone through a stage since it started: how often, how much, how fast.

    Attributes:
        bytes_in: bytes of the columns that were read and committed.
        out: rows and bytes that were appended, by log.
        rejected: rejected rows by class of reason.
        batch_rows: rows of each step; their sum is what has come in.
        step_s: seconds of each step.
        commit_s: seconds of each commit.
    """

    __slots__ = ("batch_rows", "bytes_in", "commit_s", "out", "rejected", "step_s")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.out: dict[str, list[int]] = {}
        self.rejected: Counter[str] = Counter()
        self.batch_rows = Histogram(ROWS)
        self.step_s = Histogram()
        self.commit_s = Histogram()

    def note(self, came: Weight, went: Mapping[str, Weight], step_s: float, commit_s: float) -> None:
        """Take down a committed step.

        Args:
            came: what was read.
            went: what was appended, by log.
            step_s: seconds that the step took.
            commit_s: seconds that the commit took.
        """
        self.bytes_in += came.size_bytes
        self.batch_rows.note(came.rows)
        self.step_s.note(step_s)
        self.commit_s.note(commit_s)
        for log, weight in went.items():
            known = self.out.setdefault(log, [0, 0])
            known[0] += weight.rows
            known[1] += weight.size_bytes
            self.rejected.update(weight.rejected)

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for a process that tells it to another one."""
        sizes = {name: getattr(self, name).plain() for name in ("batch_rows", "step_s", "commit_s")}
        return {"bytes_in": self.bytes_in, "out": dict(self.out), "rejected": dict(self.rejected), **sizes}
