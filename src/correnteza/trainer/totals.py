"""Errors since the stream began: sums in the order of the rows, overall and of the last versions that answered.

Invariants:
- The sums do not depend on how the rows are cut into calls, bit for bit: they are added row by row, with what each
  addition rounds away kept beside them (Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher
  Summen", Zeitschrift für Angewandte Mathematik und Mechanik 54, 1974).
- A row whose label is corrected is taken out and put in again: an absurd target that is corrected leaves nothing behind.
- Memory is bounded: of `VERSIONS` versions there are sums, those that answered last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from correnteza.features import Floats, Ints
from correnteza.trainer.evaluation import Metrics

VERSIONS = 20
LARGEST = 1e145
"""A distance counts at most this much, so that its square is finite."""
SUMS = (
    "rows",
    "error",
    "squared",
    "signed",
    "with_interval",
    "covered",
    "width",
    "with_baseline",
    "baseline",
    "with_last",
    "last",
    "target",
    "target_squared",
)
"""What is summed; `target` as its distance from the first target of all."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over some rows.

    Args:
        values: one for each of `SUMS`, but for what was rounded away.
        rest: what was rounded away.
    """

    values: tuple[float, ...] = (0.0,) * len(SUMS)
    rest: tuple[float, ...] = (0.0,) * len(SUMS)

    def plus(self, parts: Floats) -> Sums:
        """With some more rows, shape [rows, sums]."""
        before = np.vstack([np.array(self.values), parts])
        after = np.cumsum(before, axis=0)  # in order, unlike np.sum
        old, new, sums = after[:-1], before[1:], after[1:]
        lost = np.where(np.abs(old) >= np.abs(new), (old - sums) + new, (new - sums) + old)
        rest = np.cumsum(np.vstack([np.array(self.rest), lost]), axis=0)[-1]
        return Sums(tuple(after[-1].tolist()), tuple(rest.tolist()))

    def metrics(self) -> Metrics | None:
        """The metrics of the rows; None when there are none."""
        of = {name: value + rest for name, value, rest in zip(SUMS, self.values, self.rest, strict=True)}
        rows = round(of["rows"])
        if not rows:
            return None
        mae, baseline, last = (_share(of[a], of[b]) for a, b in _ERRORS)
        naive = min((one for one in (baseline, last) if not math.isnan(one)), default=math.nan)
        variance = max(0.0, of["target_squared"] / rows - (of["target"] / rows) ** 2)
        squares = max(0.0, of["squared"] / rows)
        return Metrics(
            rows=rows,
            mae=mae,
            rmse=math.sqrt(squares),
            r2=1.0 - squares / variance if variance > 0.0 else None,
            bias=of["signed"] / rows,
            coverage=of["covered"] / of["with_interval"] if of["with_interval"] else None,
            baseline_mae=baseline,
            last_value_mae=last,
            skill=1.0 - mae / naive if 0 < naive < math.inf else None,
            width=of["width"] / of["with_interval"] if of["with_interval"] else None,
        )


_COLUMNS = ("target", "prediction", "lower", "upper", "baseline", "last_value")
_ERRORS = (("error", "rows"), ("baseline", "with_baseline"), ("last", "with_last"))


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows that were predicted and whose target is known, each of shape [rows]; NaN where there is nothing.

    Args:
        version: that predicted.
        target: in its unit, like all that follow.
        prediction: of the version.
        lower: end of the interval.
        upper: its other end.
        baseline: mean of all targets before.
        last: target before.
    """

    version: Ints
    target: Floats
    prediction: Floats
    lower: Floats
    upper: Floats
    baseline: Floats
    last: Floats

    @classmethod
    def of(cls, rows: pa.RecordBatch) -> Scored:
        """Of rows of `EVALUATIONS` with a target."""
        floats = (rows[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in _COLUMNS)
        return cls(rows["model_version"].to_numpy(), *floats)

    def columns(self) -> tuple[Any, ...]:
        """The arrays, in order."""
        return tuple(getattr(self, name) for name in Scored.__slots__)

    def parts(self, origin: float) -> Floats:
        """What each row adds to the sums, shape [rows, sums]."""
        with np.errstate(over="ignore", invalid="ignore"):
            signed = np.clip(self.prediction - self.target, -LARGEST, LARGEST)
            width = np.clip(self.upper - self.lower, 0.0, LARGEST)
            baseline, last = (np.minimum(np.abs(naive - self.target), LARGEST) for naive in (self.baseline, self.last))
            target = np.clip(self.target - origin, -LARGEST, LARGEST)
            covered = (self.lower <= self.target) & (self.target <= self.upper)
        has_interval, has_baseline, has_last = ~np.isnan(width), ~np.isnan(baseline), ~np.isnan(last)
        columns = (
            np.ones(len(target)),
            np.abs(signed),
            signed**2,
            signed,
            has_interval,
            covered,
            np.where(has_interval, width, 0.0),
            has_baseline,
            np.where(has_baseline, baseline, 0.0),
            has_last,
            np.where(has_last, last, 0.0),
            target,
            target**2,
        )
        return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums since the stream began.

    Args:
        origin: the first target; None before it.
        overall: of all rows.
        versions: by version; the one that answered last stands last.
    """

    origin: float | None = None
    overall: Sums = Sums()
    versions: Mapping[int, Sums] = field(default_factory=dict)

    def extended(self, rows: Scored, signs: Floats) -> Totals:
        """With some more rows, in order.

        Args:
            rows: the rows.
            signs: 1 for a row, -1 for one that no longer counts, shape [rows].
        """
        if not len(signs):
            return self
        origin = float(rows.target[0]) if self.origin is None else self.origin
        parts = rows.parts(origin) * signs[:, None]
        return Totals(origin, self.overall.plus(parts), _by_version(self.versions, rows.version, parts))

    def told(self) -> dict[str, Any]:
        """The metrics, as plain values."""
        versions = [(version, sums.metrics()) for version, sums in sorted(self.versions.items())]
        overall = self.overall.metrics()
        return {
            "overall": None if overall is None else asdict(overall),
            "versions": [{"model_version": number, **asdict(of)} for number, of in versions if of is not None],
        }

    def plain(self) -> dict[str, Any]:
        """As values that JSON has."""
        versions = [[version, *asdict(sums).values()] for version, sums in self.versions.items()]
        return {"origin": self.origin, "overall": list(asdict(self.overall).values()), "versions": versions}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Totals:
        """What `plain` was made of, exactly."""
        versions = {version: _sums(values, rest) for version, values, rest in plain["versions"]}
        return cls(plain["origin"], _sums(*plain["overall"]), versions)


def _by_version(known: Mapping[int, Sums], versions: Ints, parts: Floats) -> Mapping[int, Sums]:
    """The sums by version with some more rows, as if these had come one by one."""
    if len(parts) > 1 and len({*known, *versions.tolist()}) > VERSIONS:  # somewhere among them a version has to go
        half = len(parts) // 2
        return _by_version(_by_version(known, versions[:half], parts[:half]), versions[half:], parts[half:])
    sums = dict(known)
    last = {version: place for place, version in enumerate(versions.tolist())}
    for version in sorted(last, key=last.__getitem__):
        sums[version] = sums.pop(version, Sums()).plus(parts[versions == version])
    return dict(list(sums.items())[-VERSIONS:])


def _sums(values: list[float], rest: list[float]) -> Sums:
    return Sums(tuple(values), tuple(rest))


def _share(total: float, rows: float) -> float:
    return total / rows if rows else math.nan
