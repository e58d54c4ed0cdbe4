"""Laws of what brings a training about, and how soon after the last one."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza import config
from correnteza.log.memory import MemoryStore
from correnteza.trainer import drift
from correnteza.trainer.books import Progress
from correnteza.trainer.conformal import Conformal
from correnteza.trainer.handover import REQUESTS
from correnteza.trainer.learning import Learner
from correnteza.trainer.series import FIRST_BLOCKS
from correnteza.trainer.state import Change, State
from correnteza.trainer.triggers import JUDGED_EVERY_ROWS, Triggers

from .worlds import BY_ROWS, World, normalized, raw

START = State(Conformal(0.9), drift.Monitor.of_errors(), drift.Monitors.start(()), drift.Monitor())


def by_seconds(tmp_path: Path, every_s: float) -> tuple[World, Learner, State]:
    """A learner that waits for the next training, with what it has read."""
    changed = {"retrain_every_rows": None, "retrain_every_s": every_s, "request_cooldown_s": 10.0}
    world = World(tmp_path, normalized(raw(200)), BY_ROWS.model_copy(update=changed))
    learner = world.run()
    state = learner.stage.load(world.state() or b"")
    for _ in range(2):
        learner.between(state)
    assert len(world.models()) == 1
    return world, learner, state


def asked(world: World, learner: Learner, state: State, at_s: float, requests: int) -> list[str]:
    """The reasons of the versions that there are, some time after somebody has asked."""
    world.clock = at_s
    for _ in range(requests):
        world.ask_for_a_training()
    for _ in range(3):
        learner.between(state)
    return [row["reason"] for row in world.models()[1:]]


def test_requests_within_the_cooldown_are_one_training_when_it_is_over(tmp_path: Path) -> None:
    world, learner, state = by_seconds(tmp_path, 1e6)
    assert asked(world, learner, state, 5.0, 3) == ["asked for"]
    assert learner.request_wait_s == 10.0
    assert asked(world, learner, state, 6.0, 2) == ["asked for"]
    assert asked(world, learner, state, 14.9, 1) == ["asked for"]
    assert learner.request_wait_s == pytest.approx(0.1)
    assert asked(world, learner, state, 15.0, 0) == ["asked for"] * 2
    assert asked(world, learner, state, 26.0, 0) == ["asked for"] * 2, "all of them were met"
    assert learner.request_wait_s == 0.0


def test_a_training_that_comes_by_itself_meets_the_requests_that_wait(tmp_path: Path) -> None:
    world, learner, state = by_seconds(tmp_path, 6.0)
    assert asked(world, learner, state, 5.0, 1) == ["asked for"]
    assert asked(world, learner, state, 6.0, 1) == ["asked for"]
    more = replace(state, rows=state.rows + 1)
    world.clock = 11.0
    learner.between(more)
    learner.between(more)
    assert [row["reason"] for row in world.models()[1:]] == ["asked for", "6 s since the last training"]
    assert asked(world, learner, more, 16.0, 0)[2:] == []


@settings(deadline=None)
@given(
    st.integers(0, 400),
    st.lists(st.integers(1, 150), max_size=12),
    st.sampled_from([{"retrain_every_rows": 10**6}, {"retrain_every_s": 1e6}]),
)
def test_every_rise_of_the_error_is_answered_and_answers_keep_their_distance(
    cooldown: int, gaps: list[int], trigger: dict[str, float]
) -> None:
    """A later rise takes the place of one that waits; by rows all that depends on rows alone."""
    own = config.Trainer.model_validate({"drift_cooldown_rows": cooldown, **trigger})
    triggers = Triggers(own, MemoryStore().log("requests", REQUESTS), lambda: 0.0)
    found = [100 + sum(gaps[: i + 1]) for i in range(len(gaps))]
    progress, answers = Progress(attempted=100), list[int]()
    for rows in range(100, 100 + sum(gaps) + cooldown + 2 * JUDGED_EVERY_ROWS):
        last = max((row for row in found if row <= rows), default=None)
        change = None if last is None else Change(last, max(1, last - 20))
        due = triggers.due(replace(START, rows=rows, change=change), progress, first=False, free=False)
        if due is not None:
            assert change is not None
            assert (due.reason, due.changed) == ("the error had risen", change.start)
            progress = due.progress
            answers.append(rows)
    assert all(later - earlier >= cooldown for earlier, later in pairwise(answers))
    assert (answers[-1] if answers else 0) >= (found[-1] if found else 0)
    if own.retrain_every_rows is not None:
        assert all(row % JUDGED_EVERY_ROWS == 0 for row in answers)


def test_the_default_cooldown_puts_off_no_answer_to_a_rise() -> None:
    """By rows an answer is never nearer to the last one; and the monitor tells no two rises so close together."""
    assert config.Trainer().drift_cooldown_rows <= JUDGED_EVERY_ROWS
    assert config.Trainer().drift_cooldown_rows < FIRST_BLOCKS * drift.ERROR_ROWS
