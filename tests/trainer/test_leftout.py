"""Who is left out of learning is counted, and told once and not again and again."""

from __future__ import annotations

import numpy as np

from correnteza.events import SCHEMA, Events
from correnteza.log.memory import MemoryStore
from correnteza.testing import read_all
from correnteza.trainer.leftout import LeftOut
from correnteza.trainer.window import Window


class Stream:
    """Targets of 1 to 9 in a window of 800 that a learner looks at, of which 400 are learned from."""

    def __init__(self) -> None:
        self.log = MemoryStore().log("events", SCHEMA)
        self.left_out = LeftOut(Events("learner", self.log), 400)
        self.window = Window(800, ["size"])
        self.rows = 0

    def add(self, count: int, absurd: int = 0) -> int:
        targets = (np.arange(count) % 9 + 1).astype(np.float64)
        targets[:absurd] *= 1e6
        self.window.add(np.zeros((count, 1)), np.ones(count, np.int64), targets, np.arange(count))
        self.rows += count
        return self.left_out.look(self.window, self.rows)

    def told(self) -> list[str]:
        return [row["reason"] for row in read_all(self.log) if row["kind"] == "targets_left_out"]


def test_nothing_is_said_of_a_stream_without_absurd_targets() -> None:
    stream = Stream()
    assert [stream.left_out.look(stream.window, 0), stream.add(100), stream.add(700)] == [0, 0, 0]
    assert stream.told() == []


def test_the_first_is_told_with_the_bounds_and_then_every_doubling() -> None:
    stream = Stream()
    stream.add(300)
    assert [stream.add(10, absurd) for absurd in (1, 0, 1, 1, 1, 0)] == [1, 1, 2, 3, 4, 4]
    assert [reason.split(" of ")[0] for reason in stream.told()] == ["1", "2", "4"]
    assert "not within -79 and 89, 10 times the range of the middle 96%" in stream.told()[0]


def test_those_that_no_version_learns_from_any_more_do_not_count_and_new_ones_are_told_again() -> None:
    stream = Stream()
    stream.add(100, 1)
    assert stream.add(400) == 0
    assert stream.add(100, 1) == 1
    assert len(stream.told()) == 2


def test_what_was_counted_is_not_counted_again_before_there_are_new_rows() -> None:
    stream = Stream()
    stream.add(200, 1)
    stream.window.add(np.zeros((1, 1)), np.ones(1, np.int64), np.array([1e9]), np.zeros(1, np.int64))
    assert stream.left_out.look(stream.window, stream.rows) == 1
    assert stream.left_out.look(stream.window, stream.rows + 1) == 2
