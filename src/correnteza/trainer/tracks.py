"""The spans of trainings and versions: what follows from the learner's steps.

    step, step, ... --> train --> register --> promote
                          \\------------------> promote, refuse or roll back, when the test has decided

Invariant: a training follows from all steps since the last one began; what is decided about a version belongs to the
trace of its training, however much later it is decided.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from correnteza.tracing import NONE, Span, Tracer, Traces, current

VERSIONS = 32
"""Versions whose training is remembered."""


class Tracks:
    """Makes the spans; does nothing where nothing is traced. For the learner's thread.

    Args:
        tracer: makes spans, or None.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer
        self._steps = NONE
        self._training: Span | None = None
        self._trained: OrderedDict[int, str] = OrderedDict()

    def stepped(self) -> None:
        """Look whether a step was taken; the training that comes next follows from it."""
        span = current() if self._tracer is not None else None
        if span is not None:
            self._steps += Traces.of([span.context])

    def began(self, version: int, rows: int, reason: str) -> None:
        """A training began.

        Args:
            version: that it makes.
            rows: that it is given.
            reason: why it was begun.
        """
        if self._tracer is None:
            return
        self._training = self._tracer.begin("train", self._steps, {"model_version": version, "rows": rows, "reason": reason})
        self._steps = NONE
        self._trained[version] = self._training.context
        while len(self._trained) > VERSIONS:
            self._trained.popitem(last=False)

    def ended(self, outcome: str, failure: str = "") -> None:
        """The training came to its end.

        Args:
            outcome: `trained` or `failed`.
            failure: why it failed.
        """
        training, self._training = self._training, None
        if training is not None:
            training.note({"outcome": outcome})
            if failure:
                training.fail(failure)
            training.end()

    @contextmanager
    def deciding(self, name: str, version: int, reason: str) -> Iterator[None]:
        """Around a commit about a version.

        Args:
            name: what is done with it.
            version: its number.
            reason: why.
        """
        if self._tracer is None:
            yield
            return
        known = self._trained.get(version)
        step = current()
        causes = Traces.of([known] if known else [step.context] if step is not None else [])
        with self._tracer.begin(name, causes, {"model_version": version, "reason": reason}):
            yield
