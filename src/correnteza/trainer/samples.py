"""The trainer's own metrics: what `/status` and the registry say, as samples.

Invariant: whichever server of a port is asked, the samples are the same. What is counted stands in the database, in
the figures of the port, or with the learner, never in one server alone.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, get_args

import psutil

from correnteza.log.base import OwnedLog
from correnteza.metrics import SECONDS_LONG, Histogram, Sample, sample
from correnteza.trainer.board import Figures
from correnteza.trainer.handover import TRAININGS
from correnteza.trainer.labels import EXPIRED, Effect
from correnteza.trainer.promotions import Decision, Kind
from correnteza.trainer.registry import Registry

READ_ROWS = 10_000
_ROLLING = {
    "rows": "correnteza_evaluation_rows",
    "mae": "correnteza_evaluation_mae",
    "rmse": "correnteza_evaluation_rmse",
    "bias": "correnteza_evaluation_bias",
    "r2": "correnteza_evaluation_r2",
    "skill": "correnteza_evaluation_skill_ratio",
    "coverage": "correnteza_interval_coverage_ratio",
    "width": "correnteza_interval_width",
}
_PLAIN = {
    "served_rows": "correnteza_predictions_total",
    "dropped_rows": "correnteza_predictions_dropped_total",
    "learned_rows": "correnteza_learned_rows",
    "labelled_rows": "correnteza_labelled_rows_total",
    "window_rows": "correnteza_window_rows",
    "left_out_rows": "correnteza_left_out_rows",
    "training": "correnteza_training_in_progress",
}


class Tally:
    """Rows of a log by the value of one column, of those since a time. Safe to use from one thread at a time.

    Args:
        log: with a column `at` that never goes back, and of which no row is ever removed.
        column: the column.
        values: what may stand there; shown from the beginning, as 0.
    """

    def __init__(self, log: OwnedLog, column: str, values: tuple[str, ...]) -> None:
        self._log = log
        self._column = column
        self._counts = Counter(dict.fromkeys(values, 0))
        self._after: str | None = None

    def since(self, began: float) -> Mapping[str, int]:
        """The counts; only what is new is read.

        Args:
            began: in seconds of Unix time; heeded at the first call.
        """
        if self._after is None:
            self._after = self._log.cursor(self._rows_before(datetime.fromtimestamp(began, UTC)))
        while True:
            part = self._log.read(self._after, READ_ROWS)
            self._counts.update(part.batch[self._column].to_pylist())
            self._after = part.next
            if not part.lag_rows:
                return dict(self._counts)

    def _rows_before(self, began: datetime) -> int:
        """How many rows are older, found by halving: the log may be long."""
        low, high = 0, self._log.bounds().next - 1
        while low < high:
            middle = (low + high) // 2
            row = self._log.read(self._log.cursor(middle), 1).batch
            low, high = (middle + 1, high) if row["at"][0].as_py() < began else (low, middle)
        return low


class TrainerSamples:
    """Makes them.

    Args:
        registry: the model versions.
        promotions: the log `promotions`.
        decisions: the log `decisions`.
        level: of the intervals.
    """

    def __init__(self, registry: Registry, promotions: OwnedLog, decisions: OwnedLog, level: float) -> None:
        self._registry = registry
        self._promotions = Tally(promotions, "kind", get_args(Kind))
        self._decisions = Tally(decisions, "decision", get_args(Decision))
        self._level = level

    def of(self, status: Mapping[str, Any], figures: Figures) -> Iterator[Sample]:
        """All samples that only the trainer has.

        Args:
            status: the body of `/status`.
            figures: of the port.
        """
        for name, family in _PLAIN.items():
            yield sample(family, float(status[name]))
        for name, family in _ROLLING.items():
            if status["rolling"].get(name) is not None:
                yield sample(family, float(status["rolling"][name]))
        for name in ("baseline", "last_value") if status["rolling"] else ():
            yield sample("correnteza_evaluation_baseline_mae", status["rolling"][f"{name}_mae"], name)
        yield sample("correnteza_interval_level_ratio", self._level)
        yield from self._of_versions(status)
        yield from self._of_decisions(figures.began)
        yield from _of_drift(status["drift"])
        yield from _of_labels(status["labels"])
        yield from _of_memory(status.get("memory") or {})
        for kind, count in figures.told.get("events", {}).items():
            yield sample("correnteza_events_total", count, "learner", kind)
        for outcome in TRAININGS if figures.told else ():
            seconds = Histogram.of(figures.told.get("trainings", {}).get(outcome, ()), SECONDS_LONG)
            yield sample("correnteza_training_duration_seconds", seconds, outcome)

    def _of_versions(self, status: Mapping[str, Any]) -> Iterator[Sample]:
        rows, now = {row.version: row for row in self._registry.versions()}, time.time()
        yield sample("correnteza_model_versions_total", max(rows, default=0))
        if rows:
            yield sample("correnteza_model_newest_age_seconds", now - rows[max(rows)].created_at.timestamp())
        if status["challenger"] is not None:
            yield sample("correnteza_model_challenger_version", status["challenger"])
        version = status["model_version"]
        if version is None:
            return
        yield sample("correnteza_model_version", version)
        yield sample("correnteza_model_promoted_timestamp_seconds", status["model_since"].timestamp())
        if version in rows:
            yield sample("correnteza_model_freshness_seconds", now - rows[version].created_at.timestamp())
            yield sample("correnteza_model_unlearned_rows", max(0, status["learned_rows"] - rows[version].last_offset))

    def _of_decisions(self, began: float) -> Iterator[Sample]:
        for decision, count in self._decisions.since(began).items():
            yield sample("correnteza_model_decisions_total", count, decision)
        for kind, count in self._promotions.since(began).items():
            yield sample("correnteza_model_promotions_total", count, kind)


def _of_drift(drift: Mapping[str, Any]) -> Iterator[Sample]:
    for field, told in drift.get("fields", {}).items():
        yield sample("correnteza_drift_score", told["score"], "field", field)
    for name in ("target", "error"):
        if name in drift:
            yield sample("correnteza_drift_score", drift[name]["score"], name, "")


def _of_labels(labels: Mapping[str, Any]) -> Iterator[Sample]:
    if not labels:
        return
    for effect in (*get_args(Effect), EXPIRED):
        yield sample("correnteza_labels_total", labels["effects"].get(effect, 0), effect)
    yield sample("correnteza_labels_open_rows", labels["open"])
    yield sample("correnteza_labels_waiting_rows", labels["waiting"])
    for quantile, name in (("0.5", "delay_median_s"), ("0.95", "delay_p95_s")):
        if labels[name] is not None:
            yield sample("correnteza_label_delay_seconds", labels[name], quantile)


def _of_memory(memory: Mapping[str, Any]) -> Iterator[Sample]:
    if memory:
        yield sample("correnteza_memory_rows_behind", float(memory["rows_behind"]))
    if memory.get("behind_s") is not None:
        yield sample("correnteza_memory_behind_seconds", float(memory["behind_s"]))


def processes(figures: Figures) -> dict[str, int]:
    """Names and process ids of all that the trainer is."""
    found = dict(figures.pids)
    learner = figures.learner.get("pid")
    if learner:
        found["learner"] = learner
        children = _children(learner)
        if children:
            found["training"] = children[0]
    return found or {"server": os.getpid()}


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []
