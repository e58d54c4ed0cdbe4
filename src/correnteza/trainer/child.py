"""The child process of `process.TrainingProcess`: `python -m correnteza.trainer.child PARENT NICE MEGABYTES`.

Invariants:
- It ends when its parent ends or closes the pipe, also in the middle of a training.
- On standard output there is nothing but one pickle per job.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import IO

from correnteza.errors import ConfigError, ModelError
from correnteza.trainer.forest import Memo
from correnteza.trainer.training import Job, Trained, fit, grow

PR_SET_PDEATHSIG = 1
"""Of Linux' prctl(2)."""

LOWEST = 19
"""Niceness that asks for the lowest priority there is: Linux then gives a wakened server the processor at once."""


def run_child(parent: int, nice: int, memory_mb: int) -> None:
    """What the child process does: train what comes on standard input until that is closed.

    Args:
        parent: process id of the parent, without which there is nothing to live for.
        nice: niceness.
        memory_mb: megabytes that it may take; 0 is without a bound.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with(parent)
    if hasattr(os, "nice"):
        os.nice(nice)
    if nice == LOWEST and hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    _bound_memory(memory_mb)
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs, waiting), daemon=True).start()
    _import_all()
    memo = Memo()
    while True:
        pickle.dump(_answer(waiting.get(), memo), answers, protocol=5)
        answers.flush()


def _import_all() -> None:
    """What every training needs, before the first one waits for it; what cannot be imported is for that one to tell."""
    with suppress(Exception):
        import sklearn.ensemble  # noqa: F401

        import correnteza.trainer.onnx
        import correnteza.trainer.probe  # noqa: F401


def _receive(jobs: IO[bytes], waiting: queue.SimpleQueue[Job]) -> None:
    """Take jobs as they come; end the process, in the middle of a training too, when the parent has gone."""
    try:
        while True:
            waiting.put(pickle.load(jobs))  # noqa: S301 - from our own parent
    except (EOFError, OSError):
        os._exit(0)
    except BaseException:  # a job that this process cannot read: the parent sees the exit code
        traceback.print_exc()
        os._exit(1)


def _answer(job: Job, memo: Memo) -> Trained | str | None:
    """What is told of a job: nothing of one that looks ahead; what fails there fails again in the job that wants it."""
    if not job.ahead:
        return _attempt(job, memo)
    with suppress(Exception):
        grow(job, memo)
    return None


def _attempt(job: Job, memo: Memo) -> Trained | str:
    try:
        return fit(job, memo)
    except (ConfigError, ModelError) as error:
        return str(error)
    except MemoryError:
        memo.parts.clear()
        return "the training needs more memory than trainer.train_memory_mb; raise that, or lower trainer.window_rows"
    except Exception as error:  # whatever an estimator raises is a failed training
        return f"the training failed: {type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _bound_memory(memory_mb: int) -> None:
    """Have what goes beyond it fail here, before the machine has none left for those who answer."""
    if memory_mb and sys.platform == "linux":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        size = memory_mb * 2**20
        bound = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))


def _die_with(parent: int) -> None:
    """Ask Linux to end this process with its parent, which also works while native code holds the interpreter."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has gone before we could ask
        os._exit(0)


if __name__ == "__main__":
    run_child(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
