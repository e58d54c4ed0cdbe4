"""Trainings in a child process of their own, one after the other.

The child itself is `correnteza.trainer.child`; the two talk in pickles over two pipes that nobody else holds.

Invariants:
- A training that raises, dies or is killed is a TrainingFailedError with the reason, and the next one starts afresh.
- The child never outlives its parent, and one thread of it works at the lowest priority that was asked for.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Protocol

from correnteza.errors import TrainingFailedError
from correnteza.trainer.training import Job, Trained, line_of

CLOSE_S = 5.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Training(Protocol):
    """What runs one training at a time, as `TrainingProcess` does."""

    @property
    def fresh(self) -> bool:
        """Whether the next job goes to a process that remembers nothing of earlier versions."""

    def start(self, job: Job) -> None:
        """Begin a training and return at once."""

    def look_ahead(self, job: Job) -> None:
        """Make parts for a job to come, after those before it, and return at once."""

    def settle(self, timeout_s: float) -> None:
        """Wait until the outcome is there, or so many seconds have passed."""

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

    def look_ahead(self, job: Job) -> None:
        """Let the child make parts for a job to come; that one waits until it is done. What fails here is for that one to tell.

        Args:
            job: with `ahead`.
        """
        self.prepare()
        self._jobs.put(job)

    def settle(self, timeout_s: float) -> None:
        """Wait until the outcome of the training under way is there, or so many seconds have passed."""
        if self._outcome is None:
            with contextlib.suppress(queue.Empty):
                self._outcome = self._outcomes.get(timeout=timeout_s)

    def poll(self) -> Trained | None:
        """The outcome if it is there, else None; does not wait.

        Raises:
            TrainingFailedError: the training raised, died or was killed; a new job can be started.
        """
        self.settle(0.0)
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
        self.settle(timeout_s)
        if self._outcome is None:
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
            if job.ahead and self.fresh:
                continue  # nobody remembers what it would go on from
            outcome = self._outcome_of(job)
            if not job.ahead:
                self._outcomes.put(outcome)
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
            return f"the training could not be started: {line_of(error)}"
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
            return f"could not be started: {line_of(error)}"
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
