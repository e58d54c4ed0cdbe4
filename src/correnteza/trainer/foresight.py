"""What a training will need is made before it is due, where the rows up to it are there already.

    the training process:  version n | the trees of version n + 1          | version n + 1 | ...
    the learner:                     | takes n, scores the rows up to n + 1 |               | ...

Invariant: nothing depends on it but time. A training that wants what was made has it remembered; one that wants something
else makes that.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from correnteza.trainer.jobs import Jobs
from correnteza.trainer.process import Training
from correnteza.trainer.recipe import Recipe
from correnteza.trainer.state import State
from correnteza.trainer.window import Window

Coming = Callable[[int, int], pa.RecordBatch | None]
"""Gives the next so many labelled rows of `normalized` behind an offset; None where there are not so many yet."""


class Foresight:
    """Looks ahead from each version.

    Args:
        coming: gives the rows.
        jobs: makes the jobs.
        training: runs them.
    """

    def __init__(self, coming: Coming, jobs: Jobs, training: Training) -> None:
        self._coming = coming
        self._jobs = jobs
        self._training = training

    def look(self, state: State, window: Window, recipe: Recipe, left: int | None) -> None:
        """Let the training process go on with the next version, when it has made one.

        Args:
            state: of the learner's stage.
            window: the labelled rows so far.
            recipe: of the version that is being made.
            left: labelled rows until the next training; None where it does not come by rows.
        """
        rows = self._coming(state.offset, left) if left else None
        job = None if rows is None else self._jobs.ahead(state, window, rows, recipe)
        if job is not None:
            self._training.look_ahead(job)
