"""What brings a training about, and how soon after the last one.

| trigger | cooldown |
|---|---|
| seconds or labelled rows have passed | they are it (`schedule`) |
| the error has risen | `drift_cooldown_rows` labelled rows since the last rise that was answered |
| somebody asks | `request_cooldown_s` seconds since the last training that was asked for |

What comes within a cooldown is not lost: it is answered when that is over. Requests are merged into the next
training, whatever brought that about.

Invariant: with a trigger by rows all but requests depends on numbers of labelled rows alone, so the same log gives the
same trainings. Requests come by somebody's clock, and so their cooldown goes by a clock as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from correnteza.config import Trainer
from correnteza.log.base import OwnedLog
from correnteza.trainer.books import Progress
from correnteza.trainer.schedule import schedule_of
from correnteza.trainer.state import State

JUDGED_EVERY_ROWS = 100
"""With a trigger by rows, versions are judged after every so many labelled rows, and drifts answered then."""


@dataclass(frozen=True, slots=True)
class Due:
    """A training that is due.

    Args:
        reason: why, as it is stored with the version.
        progress: what it will have answered.
        asked: whether somebody asked for it, and nothing else would have brought it about.
        changed: number of the first labelled row of a new world, when the error has risen.
    """

    reason: str
    progress: Progress
    asked: bool = False
    changed: int | None = None


class Triggers:
    """Says when a training is due. For the learner's thread; `request_wait_s` may be looked at from any.

    Args:
        settings: the section `[trainer]`.
        requests: the log `requests`.
        clock: monotonic time in seconds.

    Attributes:
        schedule: of the trainings that come by themselves.
    """

    def __init__(self, settings: Trainer, requests: OwnedLog, clock: Callable[[], float]) -> None:
        self.schedule = schedule_of(settings, clock)
        self._settings = settings
        self._requests = requests
        self._clock = clock
        self._asked_until = clock()

    def limit(self, rows: int, progress: Progress) -> int:
        """Most rows of the next batch, so that it ends where a training by rows is due, or a version is judged."""
        left = self.left(rows, progress)
        if left is None:
            return self._settings.batch_rows
        judged = JUDGED_EVERY_ROWS - rows % JUDGED_EVERY_ROWS
        return min(left or judged, judged)

    def left(self, rows: int, progress: Progress) -> int | None:
        """Labelled rows until the next training, if that is by rows and nothing else brings one about."""
        return self.schedule.rows_left(rows, progress.attempted, progress.worth)

    def judged(self, rows: int) -> bool:
        """Whether versions may be judged and drifts be answered after so many labelled rows."""
        return not self.schedule.waits or rows % JUDGED_EVERY_ROWS == 0  # elsewhere a batch need not end

    def request_wait_s(self) -> float:
        """Seconds until a request is answered at the earliest."""
        return max(0.0, self._asked_until - self._clock())

    def due(self, state: State, progress: Progress, first: bool, free: bool) -> Due | None:
        """The training that is due, or None.

        Args:
            state: of the learner's stage.
            progress: what trainings have answered.
            first: whether no version has come into service yet.
            free: whether a training may begin that nobody asked for, and no drift.
        """
        answered = replace(progress, attempted=state.rows, requested=self._requests.bounds().next - 1)
        changed = None if first else self._changed(state, progress)
        if changed is not None:
            return Due("the error had risen", replace(answered, changed=state.rows), changed=changed)
        if answered.requested > progress.requested and not self.request_wait_s():
            return Due("asked for", answered, asked=True)
        if free and self.schedule.due(state.rows, progress.attempted, progress.worth):
            return Due(self._why(state, progress, first), answered)
        return None

    def started(self, due: Due) -> None:
        """A training was started."""
        self.schedule.started()
        if due.asked:
            self._asked_until = self._clock() + self._settings.request_cooldown_s

    def _changed(self, state: State, progress: Progress) -> int | None:
        """Number of the first row of a new world that no training has answered yet."""
        if state.change is None or state.change.found <= progress.changed or not self.judged(state.rows):
            return None
        cooling = progress.changed and state.rows < progress.changed + self._settings.drift_cooldown_rows
        return None if cooling else state.change.start

    def _why(self, state: State, progress: Progress, first: bool) -> str:
        if first:
            return f"the first {state.rows} labelled rows are there"
        if self.schedule.waits:
            return f"{state.rows - progress.attempted} labelled rows since the last training"
        return f"{self._settings.retrain_every_s:g} s since the last training"
