"""What the server does beside answering: it takes up new versions, follows the errors, tends the learner.

Invariants:
- `serving` is replaced as a whole, by one assignment, by a version that has answered already.
- The rolling figures come from the log `evaluations`, so they are right after a restart and without a learner.
- A learner that dies is started again with back-off, and each death is an event.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from correnteza.children import Child
from correnteza.config import Trainer
from correnteza.errors import LogError
from correnteza.events import Events
from correnteza.log.base import OwnedLog
from correnteza.trainer import evaluation
from correnteza.trainer.champion import Follower
from correnteza.trainer.elder import Elder
from correnteza.trainer.evaluation import Report
from correnteza.trainer.handover import status_of
from correnteza.trainer.predict import Serving
from correnteza.trainer.questions import Question
from correnteza.trainer.rolling import Rolling

TICK_S = 0.1
REPORT_EVERY_S = 1.0
STOP_S = 5.0
"""How long the learner has to end in good order."""


class Keeper:
    """A thread that keeps what is served up to date.

    Args:
        settings: the section `[trainer]`.
        follower: loads the versions.
        evaluations: the log `evaluations`.
        events: where it is told what happened.
        learner: command line of the learner process; None where it is run by somebody else.
        complete: see `Serving.complete`.
        elder: the version of the lineage before, which answers until it is surpassed; None where there is none.

    Attributes:
        serving: what requests are answered with; None before the first model.
        report: the rolling figures, at most a second old.
        told: the last status of the learner.
    """

    def __init__(
        self,
        settings: Trainer,
        follower: Follower,
        evaluations: OwnedLog,
        events: Events,
        learner: Sequence[str] | None,
        complete: Callable[[Question], Question],
        elder: Elder | None = None,
    ) -> None:
        self._elder = elder
        self.serving: Serving | None = None
        self.report = Report()
        self.told: dict[str, Any] = {}
        self.follower = follower
        self.learner = None if learner is None else Child("learner", learner, self.take_line)
        self._complete = complete
        self._settings = settings
        self._evaluations = evaluations
        self._events = events
        self._rolling = self.rolling(settings.metric_rows)
        self._reported_at = 0.0
        self._reported = 0
        self._trouble = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Take up the version in service, then start the learner and the thread."""
        self.tick()
        if self.learner is not None:
            self.learner.start()
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the learner."""
        self._stop.set()
        self._thread.join(STOP_S)
        if self.learner is None:
            return
        self.learner.terminate()
        deadline = time.monotonic() + STOP_S
        while not self.learner.ended() and time.monotonic() < deadline:
            time.sleep(TICK_S / 4)
        self.learner.kill()

    def tick(self) -> None:
        """One round; errors of the database are told once and tried again at the next."""
        try:
            changed = self.follower.look()
            if changed or time.monotonic() - self._reported_at >= REPORT_EVERY_S:
                self._refresh()
            self._trouble = ""
        except LogError as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                self._events.emit("versions_not_followed", str(error))
        if self.learner is not None:
            self._tend(self.learner)

    @property
    def elder_serves(self) -> bool:
        """Whether the version of the lineage before is in service."""
        return self._elder is not None and self._elder.serving is not None

    @property
    def elder_reason(self) -> str:
        """Why the version of the lineage before is in service; empty where it is not."""
        return "" if self._elder is None else self._elder.reason

    def take_line(self, line: str) -> None:
        """A line of the learner's output: its status, or something for our own output."""
        status = status_of(line)
        if status is not None:
            self.told = status
            return
        with suppress(OSError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def rolling(self, rows: int) -> Rolling:
        """The last rows of the log `evaluations` that have a target, for somebody else to look at."""
        return Rolling(self._evaluations, rows, self._settings.label_horizon_rows)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            self.tick()

    def _refresh(self) -> None:
        """Take the figures and the interval anew, and put the version into service with them."""
        self._reported_at = time.monotonic()
        head = self._evaluations.bounds().next
        if head != self._reported:
            self._evaluations.register("metrics", self._evaluations.cursor(head - 1), self._settings.metric_rows)
            report = evaluation.report(self._rolling.look())
            self.report, self._reported = replace(report, multiplier=self._rolling.multiplier), head
        champion = self.follower.champion
        if self._elder is not None:
            if self._elder.look(champion is not None, self.follower.pinned()):
                self._elder = None
            else:
                self.serving = self._elder.serving
                return
        if champion is not None:
            self.serving = Serving(champion.version, champion.predictor, self.report.multiplier, self._complete)

    def _tend(self, learner: Child) -> None:
        death = learner.check()
        if death is not None:
            self.told = {}
            reason = f"the learner ended ({death.how}) after {death.uptime_s:.1f} s; it is started again in {death.pause_s:g} s"
            self._events.emit("learner_died", reason, deaths=death.deaths)
