"""One training, as a pure function of its job.

Invariant: `fit` is a function of the job alone: the same job gives the same model, wherever and whenever it runs.
"""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from correnteza.errors import ConfigError, TrainingFailedError
from correnteza.features import Codes, Floats, Ints, Scaler
from correnteza.records import Schema
from correnteza.trainer.recipe import Recipe

if TYPE_CHECKING:
    from correnteza.trainer.forest import Memo, Rows
    from correnteza.trainer.linear import Carried

PROBE_ROWS = 256
"""Rows of the window on which an export is compared with its estimator."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training.

    Args:
        version: number of the model version that it makes; also varies the seed.
        estimator: import path of the regressor.
        params: its parameters.
        seed: of the pipeline; `random_state` is derived from it and `version`.
        features: in the version of `scaler`, NaN is missing, shape [rows, features].
        targets: in the target's unit, shape [rows].
        scaler: the version that the features are in.
        codes: of the category fields, as far as the rows use them.
        schema: of the records.
        recipe: of an adaptive forest; None is the plain policy: the estimator is fitted to all rows.
        numbers: with a recipe, which labelled row of the stream each row is, ascending, shape [rows].
        warm: checkpoint of the version that it goes on from, for a process that may not remember that; trusted.
        checkpoint: whether the trained estimator itself is wanted, beside the ONNX model.
        threads: that large trainings use.
        ahead: whether only the parts of the recipe are wanted, to be remembered for a job to come; see `grow`.
    """

    version: int
    estimator: str
    params: Mapping[str, Any]
    seed: int
    features: Floats
    targets: Floats
    scaler: Scaler
    codes: Codes
    schema: Schema
    recipe: Recipe | None = None
    numbers: Ints | None = None
    warm: bytes = b""
    checkpoint: bool = True
    threads: int = 1
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training made.

    Args:
        onnx: the model, as `onnx.export` describes it.
        checkpoint: joblib bytes of a dict: the fitted `estimator`, `scaler`, `codes` and `schema`; empty if not wanted.
        train_s: seconds that fitting and exporting took.
        warnings: what the estimator warned of, each text once.
        probe: what `probe.taken` returned.
    """

    onnx: bytes
    checkpoint: bytes
    train_s: float
    warnings: tuple[str, ...] = ()
    probe: Mapping[str, Any] = field(default_factory=dict)


def fit(job: Job, memo: Memo | None = None) -> Trained:
    """Train, export and compare the export with the estimator.

    Args:
        job: what to train.
        memo: parts of earlier versions, so that only what is new has to be grown.

    Raises:
        ConfigError: the estimator or its parameters are wrong.
        TrainingFailedError: it cannot be fitted to these rows, cannot be exported, or the export answers otherwise.
    """
    from correnteza.trainer import onnx, probe

    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator = _fitted(job, memo)
        rows = job.features[:: max(1, len(job.features) // PROBE_ROWS)]
        model, predictor = onnx.exported(estimator, job.scaler, job.codes, job.schema, rows)
    texts = dict.fromkeys(f"{w.category.__name__}: {line_of(w.message)}" for w in caught)
    answers = probe.taken(predictor, rows, job.scaler, job.codes, job.schema)
    checkpoint = _checkpoint(estimator, job) if job.checkpoint else b""
    return Trained(model, checkpoint, time.perf_counter() - began, tuple(texts), answers)


def grow(job: Job, memo: Memo) -> None:
    """Make the parts of a recipe that are not remembered, and remember them: a job that wants the same has less to do.

    Args:
        job: with a recipe.
        memo: parts of earlier versions; is filled.

    Raises:
        ConfigError, TrainingFailedError: as `fit`.
    """
    from correnteza.trainer import forest

    assert job.recipe is not None  # noqa: S101 - the caller looked
    forest.grow(job.recipe, _rows(job), job.estimator, job.params, memo, job.threads)


def _fitted(job: Job, memo: Memo | None) -> Any:
    """The fitted estimator, or the mixture of an adaptive forest."""
    from correnteza.trainer import estimators, forest

    seed = derived_seed(job.seed, job.version)
    estimator = estimators.build(job.estimator, job.params, seed)
    try:
        if job.recipe is None:
            rows, targets = forest.sound(job.features, job.targets)
            features = estimators.prepared(estimator, rows)
            return estimators.servable(estimator.fit(features, targets), features, seed)
        return _mixed(job, forest.Memo() if memo is None else memo)
    except (ConfigError, TrainingFailedError, MemoryError):
        raise
    except Exception as error:
        raise TrainingFailedError(
            f"{job.estimator} could not be fitted to {len(job.targets)} rows: {type(error).__name__}: {line_of(error)}"
        ) from error


def _mixed(job: Job, memo: Memo) -> Any:
    from correnteza.trainer import forest

    assert job.recipe is not None  # noqa: S101 - the caller looked
    if job.warm:
        import joblib

        memo.remember(joblib.load(io.BytesIO(job.warm))["estimator"])
    return forest.build(job.recipe, _rows(job), job.estimator, job.params, memo, job.threads)


def _rows(job: Job) -> Rows:
    from correnteza.trainer import forest

    assert job.numbers is not None  # noqa: S101 - it comes with the recipe
    derived = sum(len(one.columns) for one in job.schema.derived)
    return forest.Rows(job.numbers, job.features, job.targets, len(job.schema.numeric), derived, _carried(job))


def _carried(job: Job) -> Carried | None:
    """The feature that is the last known target, where one was defined."""
    from correnteza.trainer.linear import Carried

    schema = job.schema
    lags = (one for one in schema.derived if one.how == "lag" and one.rows == 1 and one.source == schema.target)
    last = next(lags, None)
    if last is None:
        return None
    place = schema.numeric.index(last.name)
    return Carried(place, float(job.scaler.mean[place]), float(job.scaler.scale[place]))


def derived_seed(seed: int, version: int) -> int:
    """The `random_state` of a version: different from version to version, the same in every run.

    >>> derived_seed(1, 2) == derived_seed(1, 2) != derived_seed(1, 3)
    True
    """
    return int(np.random.SeedSequence([seed, version]).generate_state(1)[0])


def _checkpoint(estimator: Any, job: Job) -> bytes:
    import joblib

    buffer = io.BytesIO()
    content = {"estimator": estimator, "scaler": job.scaler, "codes": job.codes, "schema": job.schema}
    joblib.dump(content, buffer)
    return buffer.getvalue()


def line_of(error: object) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:500]
