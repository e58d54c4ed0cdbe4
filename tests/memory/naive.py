"""Features with memory the slow way: per record, over a plain list of all rows before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from correnteza.definition import EWM_SPANS, Feature

Row = dict[str, Any]


@dataclass
class Naive:
    """What `correnteza.memory.Memory` should be.

    Args:
        features: definitions that remember.
        target: its name.
        rows_limit: values that a window of seconds reaches back to.
        keys_limit: keys per `by`, enforced every `block_rows` rows.
    """

    features: Sequence[Feature]
    target: str
    rows_limit: int
    keys_limit: int
    block_rows: int
    rows: int = 0
    records: dict[tuple[str | None, Any], list[Row]] = field(default_factory=dict)
    seen: dict[str | None, dict[Any, int]] = field(default_factory=dict)
    waiting: dict[str, list[Row]] = field(default_factory=dict)

    def record(self, row: Row) -> dict[str, float | None]:
        """The features of a record, which is then remembered."""
        found = {one.name: self.value(one, row) for one in self.features}
        bys = {one.by for one in self.features}
        row = dict(row)
        for by in bys:
            key = "" if by is None else row[by]
            if key is not None:
                self.records.setdefault((by, key), []).append(row)
                self.seen.setdefault(by, {})[key] = self.rows
        if row[self.target] is None:
            self.waiting[row["id"]] = [row]
        self._count()
        return found

    def label(self, name: str, target: float) -> None:
        """A target that became known, if its record waits for it."""
        if self.target not in {one.source for one in self.features}:
            return
        for row in self.waiting.get(name, []):
            row[self.target] = target
        self._count()

    def _count(self) -> None:
        self.rows += 1
        if self.rows % self.block_rows == 0:
            for by, seen in self.seen.items():
                if len(seen) > self.keys_limit:
                    order = sorted(seen, key=lambda key: seen[key])
                    for key in order[: len(seen) - max(1, self.keys_limit * 15 // 16)]:
                        del seen[key], self.records[by, key]

    def value(self, one: Feature, row: Row) -> float | None:
        """One feature, None where missing."""
        key = "" if one.by is None else row[one.by]
        if key is None:
            return None
        known = [r for r in self.records.get((one.by, key), []) if r[one.source] is not None]
        return None if (found := self._value(one, row, known)) is None or abs(found) > 1e100 else found

    def _value(self, one: Feature, row: Row, known: Sequence[Row]) -> float | None:
        values = [_number(r[one.source]) for r in known]
        if one.how == "since":
            return _since(row["at"], known)
        if one.how == "lag":
            return self._lag(one, row, known)
        if one.how == "delta":
            if one.source != self.target:
                return _minus(row[one.source], self._lag(one, row, known))
            if one.rows is None:
                return _minus(values[-1] if values else None, self._lag(one, row, known))
            return values[-1] - values[-1 - one.rows] if len(values) > one.rows else None
        window = self._window(one, row, known)
        return None if window is None else _made(one, window)

    def _lag(self, one: Feature, row: Row, known: Sequence[Row]) -> float | None:
        if one.rows is not None:
            return _number(known[-one.rows][one.source]) if len(known) >= one.rows else None
        earlier = [r for r in known[-self.depth(one) :] if _seconds(row["at"], r["at"], -math.inf) >= (one.seconds or 0)]
        latest = max((r["at"] for r in earlier), default=None)
        return next((_number(r[one.source]) for r in reversed(earlier) if r["at"] == latest), None)

    def _window(self, one: Feature, row: Row, known: Sequence[Row]) -> list[float] | None:
        if one.seconds is None:
            rows = (one.rows or 1) * (EWM_SPANS if one.how == "ewm" else 1)
            return [_number(r[one.source]) for r in known[-rows:]]
        if row["at"] is None:
            return []
        within = [r for r in known[-self.depth(one) :] if 0 <= _seconds(row["at"], r["at"], math.inf) < one.seconds]
        return [_number(r[one.source]) for r in within]

    def depth(self, one: Feature) -> int:
        """How far back windows of seconds reach."""
        return one.depth(self.rows_limit)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 1.0


def _seconds(now: datetime | None, then: datetime | None, unknown: float) -> float:
    return unknown if now is None or then is None else (now - then).total_seconds()


def _since(now: datetime | None, known: Sequence[Row]) -> float | None:
    seconds = _seconds(now, known[-1]["at"], -1.0) if known else -1.0
    return seconds if seconds >= 0 else None


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _made(one: Feature, window: Sequence[float]) -> float | None:
    if one.how == "count":
        return float(len(window))
    if not window:
        return None
    mean = math.fsum(window) / len(window)
    made = {
        "sum": lambda: math.fsum(window),
        "mean": lambda: mean,
        "min": lambda: min(window),
        "max": lambda: max(window),
        "std": lambda: math.sqrt(math.fsum((x - mean) ** 2 for x in window) / len(window)),
        "ewm": lambda: _ewm(window, one.rows or 1),
    }
    return made[one.how]()


def _ewm(window: Iterable[float], span: int) -> float:
    weighted = [((1 - 2 / (span + 1)) ** age, x) for age, x in enumerate(reversed(list(window)))]
    return math.fsum(w * x for w, x in weighted) / math.fsum(w for w, _ in weighted)
