"""Trainings, each a pure function of its job, in a child process of their own.

The child itself is `correnteza.trainer.child`; the two talk in pickles over two pipes that nobody else holds.

Invariants:
- `fit` is a function of the job alone: the same job gives the same model, wherever and whenever it runs.
- A training that raises, dies or is killed is a TrainingFailedError with the reason, and the next one starts afresh.
- The child never outlives its parent, and one thread of it works at the lowest priority that was asked for.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from correnteza.errors import ConfigError, TrainingFailedError
from correnteza.features import Codes, Floats, Ints, Scaler
from correnteza.records import Schema
from correnteza.trainer.recipe import Recipe

if TYPE_CHECKING:
    from correnteza.trainer.forest import Memo
    from correnteza.trainer.linear import Carried

PROBE_ROWS = 256
"""Rows of the window on which an export is compared with its estimator."""
CLOSE_S = 5.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


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
    texts = dict.fromkeys(f"{w.category.__name__}: {_line(w.message)}" for w in caught)
    answers = probe.taken(predictor, rows, job.scaler, job.codes, job.schema)
    checkpoint = _checkpoint(estimator, job) if job.checkpoint else b""
    return Trained(model, checkpoint, time.perf_counter() - began, tuple(texts), answers)


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
            f"{job.estimator} could not be fitted to {len(job.targets)} rows: {type(error).__name__}: {_line(error)}"
        ) from error


def _mixed(job: Job, memo: Memo) -> Any:
    from correnteza.trainer import forest

    assert job.recipe is not None  # noqa: S101 - the caller looked
    assert job.numbers is not None  # noqa: S101 - it comes with the recipe
    if job.warm:
        import joblib

        memo.remember(joblib.load(io.BytesIO(job.warm))["estimator"])
    derived = sum(len(one.columns) for one in job.schema.derived)
    rows = forest.Rows(job.numbers, job.features, job.targets, len(job.schema.numeric), derived, _carried(job))
    return forest.build(job.recipe, rows, job.estimator, job.params, memo, job.threads)


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


class Training(Protocol):
    """What runs one training at a time, as `TrainingProcess` does."""

    @property
    def fresh(self) -> bool:
        """Whether the next job goes to a process that remembers nothing of earlier versions."""

    def start(self, job: Job) -> None:
        """Begin a training and return at once."""

    def poll(self) -> Trained | None:
        """The outcome if it is there."""

    def kill(self, reason: str) -> None:
        """End the training under way."""


class TrainingProcess:
    """One long-lived child process that trains, one job at a time; started with the first job, or by `prepare`.

    The methods are for one thread at a time. A thread of its own feeds the child, so that no pipe
    can block the caller; it also starts the child, because Linux ends a child with the thread that made it.

    Args:
        nice: niceness of the child, from 0 to 19.
        memory_mb: megabytes that the child may take; None is without a bound.
    """

    def __init__(self, nice: int = 19, memory_mb: int | None = None) -> None:
        self._nice = nice
        self._memory_mb = memory_mb
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._outcomes: queue.SimpleQueue[Trained | str] = queue.SimpleQueue()
        self._outcome: Trained | str | None = None
        self._started_at: float | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._killed: str | None = None
        self._taught = False  # whether the child has had a job

    @property
    def busy(self) -> bool:
        """Whether a job was started whose outcome has not been taken with `poll` or `wait`."""
        return self._started_at is not None

    @property
    def started_at(self) -> float | None:
        """`time.monotonic()` when the job was started; None when there is none."""
        return self._started_at

    @property
    def fresh(self) -> bool:
        """Whether the next job goes to a process that remembers nothing of earlier versions."""
        return self._child is None or not self._taught or self._child.poll() is not None

    @property
    def pid(self) -> int | None:
        """Process id of the child; None when there is none."""
        return None if self._child is None else self._child.pid

    def prepare(self) -> None:
        """Start the child before the first job, which then need not wait for its imports."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="training", daemon=True)
            self._thread.start()

    def start(self, job: Job) -> None:
        """Begin a training and return at once.

        Raises:
            RuntimeError: the outcome of the last one has not been taken.
        """
        if self.busy:
            raise RuntimeError("a training is under way; take its outcome with poll or wait first")
        self.prepare()
        self._started_at = time.monotonic()
        self._jobs.put(job)

    def poll(self) -> Trained | None:
        """The outcome if it is there, else None; does not wait.

        Raises:
            TrainingFailedError: the training raised, died or was killed; a new job can be started.
        """
        if self._outcome is None:
            with contextlib.suppress(queue.Empty):
                self._outcome = self._outcomes.get_nowait()
        if self._outcome is None:
            return None
        outcome, self._outcome = self._outcome, None
        self._started_at = self._killed = None
        if isinstance(outcome, str):
            raise TrainingFailedError(outcome)
        return outcome

    def wait(self, timeout_s: float) -> Trained:
        """The outcome; a training that takes longer is killed.

        Raises:
            TrainingFailedError: as `poll`, or it took longer than `timeout_s` seconds.
            RuntimeError: no training was started.
        """
        if not self.busy:
            raise RuntimeError("no training is under way; start one first")
        if self._outcome is None:
            try:
                self._outcome = self._outcomes.get(timeout=timeout_s)
            except queue.Empty:
                self.kill(
                    f"the training took longer than {timeout_s:g} s and was killed; raise trainer.train_timeout_s, "
                    "or lower trainer.window_rows or trainer.params"
                )
        trained = self.poll()
        assert trained is not None  # noqa: S101 - the outcome is there
        return trained

    def kill(self, reason: str) -> None:
        """End the training under way; the next `poll` or `wait` raises TrainingFailedError with the reason.

        Does nothing when no training is under way or its outcome is there already.
        """
        if not self.busy or self._outcome is not None:
            return
        with self._lock:
            self._killed = reason
            if self._child is not None:
                self._child.kill()
                self._child.wait()
        self._outcomes.get()
        self._outcome = reason

    def close(self) -> None:
        """End the child, and a training under way with it."""
        self.kill("the trainer was stopped")
        self._outcome = self._started_at = self._killed = None
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        """The thread: one job after the other, then the end of the child."""
        with contextlib.suppress(OSError):  # the first job will say why there is none
            self._living_child()
        while (job := self._jobs.get()) is not None:
            self._outcomes.put(self._outcome_of(job))
        with self._lock:
            if self._child is not None:
                _end(self._child)
                self._child = None

    def _outcome_of(self, job: Job) -> Trained | str:
        try:
            child = self._living_child()
            if child is None:
                return "killed before it began"
            self._taught = True
            pickle.dump(job, _pipe(child.stdin), protocol=5)
            _pipe(child.stdin).flush()
            answer: Trained | str = pickle.load(_pipe(child.stdout))  # noqa: S301 - from our own child
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            return f"the training process {self._buried(error)}"
        except Exception as error:  # as a job that cannot be pickled; the caller must hear of it
            self._buried(error)  # half a job may be in the pipe
            return f"the training could not be started: {_line(error)}"
        return answer

    def _living_child(self) -> subprocess.Popen[bytes] | None:
        """The child, started if need be; None when the job was killed before there was one."""
        with self._lock:
            if self._killed is not None:
                return None
            if self._child is not None and self._child.poll() is not None:
                _end(self._child)
                self._child = None
            if self._child is None:
                self._child, self._taught = _spawn(self._nice, self._memory_mb), False
            return self._child

    def _buried(self, error: Exception) -> str:
        """Let a child go that does not answer, and say how it ended."""
        with self._lock:
            child, self._child = self._child, None
        if child is None:
            return f"could not be started: {_line(error)}"
        code = _end(child)
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}; was the memory too small for trainer.window_rows?"
        return f"ended with exit code {code}"


def _spawn(nice: int, memory_mb: int | None) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)  # what we can import, it can
    return subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-P", "-m", "correnteza.trainer.child", str(os.getpid()), str(nice), str(memory_mb or 0)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": path},
        # Ctrl-C is for the parent alone. Not a session of its own: Linux would then weigh it as
        # a group of its own (sched_autogroup), and its niceness would count for nothing.
        process_group=0 if os.name == "posix" else None,
    )


def _end(child: subprocess.Popen[bytes]) -> int:
    """Close the pipes, at which the child ends by itself, and return its exit code."""
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):
            _pipe(pipe).close()
    try:
        return child.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - it was asked for
    return pipe


def _line(error: object) -> str:
    return " ".join(str(error).split())[:500]
