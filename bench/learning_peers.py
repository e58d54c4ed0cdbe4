"""One learner over one stream, test-then-train: `python bench/learning_peers.py LEARNER STREAM ROWS DATA` prints JSON.

Each record is predicted before it is learned from. Only the loop is timed; the stream is in memory before. ROWS is 0
for all rows. Started by `learning.py`, each in a process of its own.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import streams
from streams import Stream

Floats = npt.NDArray[np.float64]

PLAIN_FIRST_ROWS = 100
PLAIN_EVERY_ROWS = 1000
PLAIN_WINDOW_ROWS = 10_000
PLAIN_PARAMS = {"n_estimators": 100, "min_samples_leaf": 5, "n_jobs": 1, "random_state": 1}
BEFORE_ROWS = 1000
AFTER_ROWS = 500
RECOVERED = 1.2
COVERED_ROWS = 5000
DIVERGED = 100.0
"""How many times the running mean's error is no error any more."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a learner said.

    Args:
        predictions: one for each record, made before it was learned from, shape [records].
        seconds: of the loop, without imports.
        lower: ends of the intervals, NaN where there was none, shape [records]; None without intervals.
        upper: as `lower`.
        more: other figures.
    """

    predictions: Floats
    seconds: float
    lower: Floats | None = None
    upper: Floats | None = None
    more: dict[str, Any] = field(default_factory=dict)


def ours(stream: Stream) -> Run:
    """The library function behind `correnteza evaluate`, with its defaults but for the schema and the place of files.

    Records without an evaluation, as those before the first version, count with the running mean as their prediction.
    Like River's, its imports do not count, which two processes make: time begins with the first record behind the first
    version, and `start_s` says how long it took until then.
    """
    from correnteza import offline
    from correnteza.config import Pipeline, Settings

    batches = list(stream.batches())
    steps: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="correnteza-bench-") as folder:
        changed = {"schema_table": stream.schema, "pipeline": Pipeline(name=stream.name, data_dir=Path(folder))}
        settings = Settings().model_copy(update=changed)
        began = time.perf_counter()
        result = offline.run(batches, settings, lambda rows: steps.append((rows, time.perf_counter())))
        ended = time.perf_counter()
    first = next(step for step in steps if step[0] > settings.trainer.min_rows)
    seconds = (ended - first[1]) * len(stream.records) / (len(stream.records) - first[0])
    kinds = Counter(result.events["kind"].to_pylist())
    more: dict[str, Any] = {"ticks": result.versions.num_rows, "versions": result.promotions.num_rows}
    more |= {"drifts": kinds["error_drift"], "events": dict(kinds), "start_s": round(first[1] - began, 2)}
    return _aligned(stream, result.evaluations, seconds, more)


def _aligned(stream: Stream, evaluations: Any, seconds: float, more: dict[str, Any]) -> Run:
    """Evaluations by record.

    Raises:
        ValueError: one is of another target than the record's.
    """
    targets = targets_of(stream)
    rows = evaluations["raw_offset"].to_numpy() - 1
    if not np.array_equal(targets[rows], evaluations["target"].to_numpy()):
        raise ValueError("evaluations and records are not in step; expected the target of record n at raw_offset n + 1")
    predictions = running_mean(targets)
    bounds = []
    for name in ("lower", "upper"):
        bound = np.full(len(targets), np.nan)
        bound[rows] = evaluations[name].to_numpy()
        bounds.append(bound)
    predictions[rows] = evaluations["prediction"].to_numpy()
    unscored = len(targets) - len(np.unique(rows))
    return Run(predictions, seconds, bounds[0], bounds[1], more | {"unscored_rows": unscored})


def plain(stream: Stream) -> Run:
    """A full refit of scikit-learn's forest over a fixed window, every so many rows; predictions in blocks in between."""
    from sklearn.ensemble import RandomForestRegressor

    features, targets = _matrix(stream), targets_of(stream)
    ends = [*_refits(len(targets)), len(targets)]
    fit_s = []
    began = time.perf_counter()
    predictions = running_mean(targets)
    for start, end in pairwise(ends):
        window = slice(max(0, start - PLAIN_WINDOW_ROWS), start)
        fit_began = time.perf_counter()
        forest = RandomForestRegressor(**PLAIN_PARAMS).fit(features[window], targets[window])
        fit_s.append(time.perf_counter() - fit_began)
        predictions[start:end] = forest.predict(features[start:end])
    more = {"fits": len(fit_s), "last_fit_s": round(fit_s[-1], 3)} if fit_s else {}
    return Run(predictions, time.perf_counter() - began, more=more)


def _refits(rows: int) -> list[int]:
    """Rows after which the forest is fitted.

    >>> _refits(2500)
    [100, 1000, 2000]
    """
    return [row for row in (PLAIN_FIRST_ROWS, *range(PLAIN_EVERY_ROWS, rows, PLAIN_EVERY_ROWS)) if row < rows]


def _matrix(stream: Stream) -> Floats:
    """Fields as numbers, shape [records, fields]."""
    return np.array([list(fields.values()) for fields, _ in coded(stream).records], np.float64)


def coded(stream: Stream) -> Stream:
    """The stream with a number for each text, from 0 in the order in which they come."""
    texts = [name for name, value in stream.records[0][0].items() if isinstance(value, str)]
    codes: dict[str, dict[str, int]] = {name: {} for name in texts}
    records = []
    for fields, target in stream.records:
        numbers = {name: codes[name].setdefault(fields[name], len(codes[name])) for name in texts}
        records.append((fields | numbers, target))
    return replace(stream, records=tuple(records))


def of_river(model: Callable[[], Any], texts: bool = False) -> Callable[[Stream], Run]:
    """A learner of River, one record after the other; an overflow ends it, and the rest counts as NaN.

    Args:
        model: makes it.
        texts: whether it takes texts; River's trees do not, because of the linear models in their leaves, and get codes.
    """

    def run(stream: Stream) -> Run:
        learner = model()
        records = stream.records if texts else coded(stream).records
        predictions = np.full(len(stream.records), np.nan)
        more = {}
        began = time.perf_counter()
        try:
            for row, (fields, target) in enumerate(records):
                answer = learner.predict_one(fields)
                predictions[row] = 0.0 if answer is None else answer
                learner.learn_one(fields, target)
        except ArithmeticError as error:
            more = {"stopped": f"{type(error).__name__}: {error}"}
        return Run(predictions, time.perf_counter() - began, more=more)

    return run


def _arf() -> Any:
    from river import forest

    return forest.ARFRegressor(n_models=10, seed=1)


def _hat() -> Any:
    from river import tree

    return tree.HoeffdingAdaptiveTreeRegressor(seed=1)


def _linear() -> Any:
    """Categories, where there are any, one-hot: the scaler takes numbers alone."""
    from numbers import Number

    from river import compose, linear_model, preprocessing

    numbers = compose.SelectType(Number) | preprocessing.StandardScaler()
    texts = compose.SelectType(str) | preprocessing.OneHotEncoder()
    return (numbers + texts) | linear_model.LinearRegression()


def _amf() -> Any:
    from river import forest

    return forest.AMFRegressor(seed=1)


LEARNERS: Mapping[str, Callable[[Stream], Run]] = {
    "ours": ours,
    "plain": plain,
    "arf": of_river(_arf),
    "hat": of_river(_hat),
    "linear": of_river(_linear, texts=True),
    "amf": of_river(_amf),
}
SLOW = ("arf", "amf")
"""Given the first `streams.SLOW_ROWS` rows alone."""
SMALL_ONLY = ("amf",)
"""Run on the small streams alone."""


def targets_of(stream: Stream) -> Floats:
    """Shape [records]."""
    return np.array([target for _, target in stream.records])


def running_mean(targets: Floats) -> Floats:
    """The mean of all targets before each; 0.0 for the first.

    >>> running_mean(np.array([4.0, 6.0, 1.0])).tolist()
    [0.0, 4.0, 5.0]
    """
    return np.concatenate([[0.0], np.cumsum(targets[:-1]) / np.arange(1, len(targets))])


def score(stream: Stream, run: Run, rows: int | None = None) -> dict[str, Any]:
    """MAE, RMSE and coverage over the rows that count, of the first `rows`; an error that is not finite is None."""
    targets = targets_of(stream)
    counted = slice(stream.uncounted, rows)
    errors = np.abs(run.predictions - targets)[counted]
    trivial = float(np.mean(np.abs(running_mean(targets) - targets)[counted]))
    with np.errstate(over="ignore"):
        mae, rmse = float(np.mean(errors)), math.sqrt(float(np.mean(errors**2)))
    return {
        "rows": len(targets[:rows]),
        "mae": mae if math.isfinite(mae) else None,
        "rmse": rmse if math.isfinite(rmse) else None,
        "diverges": not mae <= DIVERGED * trivial,  # also when it is NaN
        "mean_mae": trivial,
        **coverage(run, targets, counted),
    }


def coverage(run: Run, targets: Floats, counted: slice) -> dict[str, float]:
    """Share of the rows with an interval whose target lies in it; where there are 5,000, also the extremes over so many."""
    if run.lower is None or run.upper is None:
        return {}
    known = ~np.isnan(run.lower[counted])
    inside = ((run.lower <= targets) & (targets <= run.upper))[counted][known]
    if not len(inside):
        return {}
    overall = {"coverage": float(inside.mean())}
    if len(inside) < COVERED_ROWS:
        return overall
    sums = np.cumsum(np.concatenate([[0], inside]))
    rolling = (sums[COVERED_ROWS:] - sums[:-COVERED_ROWS]) / COVERED_ROWS
    return overall | {"coverage_min": float(rolling.min()), "coverage_max": float(rolling.max())}


def recovery_rows(errors: Floats, drifts: tuple[int, ...]) -> list[int | None]:
    """Rows from each drift until the error is back: the mean of the last 500 within 1.2 times that of the 1,000 before.

    Args:
        errors: absolute errors, shape [records].
        drifts: rows (from 0) at which the world changes.

    Returns:
        For each drift, at least 500, as the 500 rows begin behind the drift; None where it does not come back
        before the next drift.

    >>> errors = np.concatenate([np.ones(1000), np.full(300, 9.0), np.ones(1000)])
    >>> recovery_rows(errors, (1000,))  # at 787, 13 of the 500 are nines: 1.208; at 788 12 of them: 1.192
    [788]
    """
    found: list[int | None] = []
    for drift, end in zip(drifts, [*drifts[1:], len(errors)], strict=True):
        allowed = RECOVERED * float(np.mean(errors[max(0, drift - BEFORE_ROWS) : drift]))
        sums = np.cumsum(np.concatenate([[0.0], errors[drift:end]]))
        back = np.flatnonzero((sums[AFTER_ROWS:] - sums[:-AFTER_ROWS]) / AFTER_ROWS <= allowed)
        found.append(int(back[0]) + AFTER_ROWS if len(back) else None)
    return found


def measure(learner: str, stream: Stream) -> dict[str, Any]:
    """All figures of one learner on one stream."""
    run = LEARNERS[learner](stream)
    figures = score(stream, run) | {"seconds": run.seconds, "records_per_s": len(stream.records) / run.seconds}
    if len(stream.records) > streams.SLOW_ROWS:
        figures["part"] = score(stream, run, streams.SLOW_ROWS)
    if stream.drifts and not figures["diverges"]:
        figures["recovery_rows"] = recovery_rows(np.abs(run.predictions - targets_of(stream)), stream.drifts)
    return figures | run.more


def main() -> None:
    """Run the learner that the command line names."""
    learner, name, rows, data = sys.argv[1:]
    stream = streams.load(name, int(rows) or None, Path(data))
    if learner in SLOW:
        stream = Stream(name, stream.records[: streams.SLOW_ROWS], stream.uncounted, _within(stream), stream.small)
    print(json.dumps(measure(learner, stream)))


def _within(stream: Stream) -> tuple[int, ...]:
    """The drifts within what slow learners are given, as far as there are rows enough behind them."""
    return tuple(drift for drift in stream.drifts if drift + AFTER_ROWS <= streams.SLOW_ROWS)


if __name__ == "__main__":
    main()
