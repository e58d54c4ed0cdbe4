"""Counts as plain values: integers, and integers per bucket.

Invariants:
- Counting is some list and integer arithmetic; it takes no lock, makes no text and knows nothing of Prometheus.
- A histogram is written by one thread; any other may read it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper ends of buckets for answers, steps and commits, in seconds."""
SECONDS_LONG = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
"""The same for trainings."""
ROWS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
"""Upper ends of buckets for batches, in rows."""

_REASONS = (
    ("missing", ("is missing",)),
    ("out_of_range", ("is not within",)),
    ("too_long", ("is longer than",)),
    ("bad_text", ("character NUL",)),
    ("bad_time", ("is not a time",)),
    ("unknown_field", ("is not a field",)),
    ("malformed", ("is not JSON", "is not a JSON object", " cells; expected")),
    ("bad_type", ("xpected `", "expected a ", "is not a", "is not UTF-8")),
)
"""Words in a reason, and the class that they make it; the first that fits counts."""
REASONS = (*(name for name, _ in _REASONS), "other")


class Histogram:
    """How many values fell into each bucket, and their sum.

    Args:
        bounds: upper ends of the buckets, ascending; values above the last have one of their own.

    >>> sizes = Histogram((1, 10))
    >>> for rows in (1, 5, 5, 50):
    ...     sizes.note(rows)
    >>> sizes.counts, sizes.total
    ([1, 2, 1], 61.0)
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def note(self, value: float) -> None:
        """Take down a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def plain(self) -> list[float]:
        """The sum, then the counts: what can be sent to another process, and added up."""
        return [self.total, *self.counts]

    @classmethod
    def of(cls, plain: Sequence[float], bounds: Sequence[float]) -> Histogram:
        """The histogram that `plain` told of; an empty one where it had other buckets.

        >>> Histogram.of([61.0, 1, 2, 1], (1, 10)).counts
        [1, 2, 1]
        """
        made = cls(bounds)
        if len(plain) == len(made.counts) + 1:
            made.total, made.counts = plain[0], [int(count) for count in plain[1:]]
        return made


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a family.

    Args:
        family: its name, as in `FAMILIES`.
        labels: values of the family's labels, in its order.
        value: the number, or the histogram.
    """

    family: str
    labels: tuple[str, ...]
    value: float | Histogram


def sample(family: str, value: float | Histogram, *labels: str) -> Sample:
    """A `Sample`, in the order in which it is read.

    >>> sample("correnteza_ready", 1.0).value
    1.0
    """
    return Sample(family, labels, value)


def by_reason(reasons: pa.Array) -> Counter[str]:
    """How many rejected records there are of each class of reason (`REASONS`); reasons themselves have no bound.

    Args:
        reasons: a sentence per record, as in the logs `rejected`.

    >>> by_reason(pa.array(["is missing; a value is required", "-1.0 is not within 0 and 130", "odd"]))
    Counter({'missing': 1, 'out_of_range': 1, 'other': 1})
    """
    found: Counter[str] = Counter()
    left = reasons
    for name, texts in _REASONS:
        for text in texts:
            fits = pc.fill_null(pc.match_substring(left, text), False)
            if count := pc.sum(fits).as_py():
                found[name] += count
                left = left.filter(pc.invert(fits))
    if len(left):
        found["other"] += len(left)
    return found
