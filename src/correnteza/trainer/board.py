"""What the server processes of one port tell each other, so that any of them can answer for all.

Each process has a file in a folder of the data folder, replaced as a whole: small, and lost without harm.

Invariants:
- A counter never goes back: not from one answering process to the next, because all add up what was
  published, their own part included; and not with the restart of a process, which goes on from its file.
- Counting costs the processes nothing; they publish ten times a second, and whenever they are asked.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from correnteza.metrics import Histogram
from correnteza.web.requests import Key, Requests, of_plain

PUBLISH_EVERY_S = 0.1


class Age(msgspec.Struct, frozen=True):
    """How far a memory of the stream is.

    Args:
        offset: of the last row of the log `memory` that it holds.
        rows_behind: rows of that log behind it, when it was read last.
        level_at: when it was level with that log last, in seconds of Unix time; None when it never was.
        reason: why it cannot be followed; empty when it can.
    """

    offset: int
    rows_behind: int
    level_at: float | None
    reason: str

    def plain(self, now: float) -> dict[str, Any]:
        """For `/status`.

        Args:
            now: seconds of Unix time.
        """
        behind_s = None if self.level_at is None else round(max(0.0, now - self.level_at), 3)
        return {"offset": self.offset, "rows_behind": self.rows_behind, "behind_s": behind_s, "reason": self.reason}


class Figures(msgspec.Struct):
    """The figures of one process, or the sum of several.

    Args:
        began: since when it counts, in seconds of Unix time.
        requests: answers by status, method and route, as `Requests.plain` tells.
        events: events by kind.
        served_rows: rows answered.
        dropped_rows: rows answered and not stored.
        learner: the process of the learner; empty where it is not kept.
        told: the last status of the learner; empty where it is not kept.
        pids: process ids by name of the process.
        memory: of the stream; None where it is not followed.
    """

    began: float = msgspec.field(default_factory=time.time)
    requests: dict[str, list[float]] = {}
    events: dict[str, int] = {}
    served_rows: int = 0
    dropped_rows: int = 0
    learner: dict[str, Any] = {}
    told: dict[str, Any] = {}
    pids: dict[str, int] = {}
    memory: Age | None = None

    def plus(self, other: Figures) -> Figures:
        """The sum; the learner's part is that of the second which has one, the memory the one that is further behind."""
        return Figures(
            min(self.began, other.began),
            _added(self.requests, other.requests),
            dict(Counter(self.events) + Counter(other.events)),
            self.served_rows + other.served_rows,
            self.dropped_rows + other.dropped_rows,
            other.learner or self.learner,
            other.told or self.told,
            {**self.pids, **other.pids},
            min(
                filter(None, (self.memory, other.memory)), key=lambda age: (age.level_at or 0.0, -age.rows_behind), default=None
            ),
        )


def _added(some: Mapping[str, list[float]], others: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """The sums, element by element."""
    both = {key: [a + b for a, b in zip(some[key], others[key], strict=True)] for key in some.keys() & others.keys()}
    return {**some, **others, **both}


def cleared(folder: Path) -> Path:
    """The folder, without what earlier processes published."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Board:
    """The files of all processes. Safe to use from several threads.

    Args:
        folder: where they are.
        slot: which of them is this process's; a process that takes its place goes on with it.
        own: the figures of this process since it began.
    """

    def __init__(self, folder: Path, slot: str, own: Callable[[], Figures]) -> None:
        self._folder = folder
        self._file = folder / f"{slot}.json"
        self._own = own
        self._before = _read(self._file)
        if self._before is not None:
            self._before.memory = None  # it went with the process that had it
        self._published = b""
        self._lock = threading.Lock()

    def publish(self) -> None:
        """Write this process's figures, if they are others than the last ones."""
        with self._lock:
            figures = self._own()
            content = msgspec.json.encode(self._before.plus(figures) if self._before else figures)
            if content == self._published:
                return
            draft = self._file.with_suffix(".tmp")
            draft.write_bytes(content)
            os.replace(draft, self._file)
            self._published = content

    def total(self) -> Figures:
        """The sum of all processes, this one up to now and the others as they published last."""
        self.publish()
        total = Figures()
        for file in self._folder.glob("*.json"):
            figures = _read(file)
            total = total.plus(figures) if figures else total
        return total


def _read(file: Path) -> Figures | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Figures)
    except (OSError, msgspec.MsgspecError):
        return None


class PortRequests(Requests):
    """Answers: counts those of this process, tells those of all.

    Args:
        total: the sum of all processes, as `Requests.plain` tells.
    """

    def __init__(self, total: Callable[[], Mapping[str, list[float]]]) -> None:
        super().__init__()
        self._total = total

    def all(self) -> Mapping[Key, Histogram]:
        """The answers of all processes."""
        return of_plain(self._total())


class Repeated:
    """Calls something again and again from a thread, and once more at the end.

    Args:
        call: what to call.
        every_s: seconds from one call to the next.
        passing: errors, beside those of the operating system, after which the next time will do.
    """

    def __init__(self, call: Callable[[], None], every_s: float, *passing: type[Exception]) -> None:
        self._call = call
        self._every_s = every_s
        self._passing: tuple[type[Exception], ...] = (OSError, *passing)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="repeated", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Call once more, then end."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(self._every_s)
            with suppress(*self._passing):
                self._call()
