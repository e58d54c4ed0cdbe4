"""What a server counts, alone or together with the other servers of its port.

Invariant: whichever server is asked, the figures are those of the port.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from correnteza.events import Events
from correnteza.trainer.answers import Answers
from correnteza.trainer.board import PUBLISH_EVERY_S, Board, Figures, PortRequests, Repeated
from correnteza.trainer.following import Following
from correnteza.trainer.keeper import Keeper
from correnteza.web.requests import Requests


@dataclass(frozen=True, slots=True)
class Place:
    """A server's place among several: the folder of their figures, and its name there."""

    folder: Path
    slot: str


class Count:
    """The figures of this process, or of all servers of the port where there are several.

    Args:
        told: the events of this process.
        answers: what it served.
        keeper: the learner, where this process keeps it.
        memory: what it follows of the stream.
        place: among the servers of the port; None where there is one.
    """

    def __init__(self, told: Events, answers: Answers, keeper: Keeper, memory: Following, place: Place | None) -> None:
        self._began = time.time()
        self._told = told
        self._answers = answers
        self._keeper = keeper
        self._memory = memory
        self._board = None if place is None else Board(place.folder, place.slot, self.own)
        self._name = "server" if place is None else f"server-{place.slot}"
        self.requests = Requests() if place is None else PortRequests(lambda: self.total().requests)

    def own(self) -> Figures:
        """The figures of this process."""
        child, told = self._keeper.learner, self._keeper.told
        learner = {} if child is None else {"process": child.state, "pid": child.pid, "deaths": child.deaths}
        served = (self._answers.served_rows, self._answers.dropped_rows)
        pids = {self._name: os.getpid()}
        return Figures(
            self._began, self.requests.plain(), dict(self._told.counts), *served, learner, told, pids, self._memory.age()
        )

    def total(self) -> Figures:
        """The figures of the port."""
        return self.own() if self._board is None else self._board.total()

    def repeated(self) -> list[Repeated]:
        """What has to run so that the other servers know this one's figures."""
        return [] if self._board is None else [Repeated(self._board.publish, PUBLISH_EVERY_S)]
