"""Laws of when the learner trains, and of what comes into service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza import events
from correnteza.log.memory import MemoryStore
from correnteza.stage import Runner
from correnteza.testing import read_all
from correnteza.trainer import learner as process
from correnteza.trainer.learning import Learner
from correnteza.trainer.state import State
from correnteza.trainer.registry import PROMOTIONS

from .worlds import BY_ROWS, Killed, Trainings, World, normalized, raw


def test_a_failed_training_is_told_and_the_old_version_stays(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world = World(tmp_path, upstream_store, trainings=Trainings(spoil={2: "it ran out of memory"}))
    world.run()
    assert [m["version"] for m in world.models()] == [1, 2, 3, 4, 5, 6]
    failed = [row for row in read_all(world.store.log("events", events.SCHEMA)) if row["kind"] == "training_failed"]
    assert [row["reason"] for row in failed] == ["it ran out of memory"]
    first, second = (m["last_offset"] for m in world.models()[:2])
    assert {r["model_version"] for r in world.evaluations() if first < r["normalized_offset"] <= second} == {1}


def test_a_version_that_cannot_be_written_is_a_failed_training(
    tmp_path: Path, upstream_store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, upstream_store)
    write = world.registry.write

    def no_space(version: int, *rest: Any) -> Any:
        if len(world.trainings.jobs) == 2:
            raise OSError(28, "No space left on device")
        return write(version, *rest)

    monkeypatch.setattr(world.registry, "write", no_space)
    world.run()
    assert [m["version"] for m in world.models()] == [1, 2, 3, 4, 5, 6]
    assert world.kinds().count("training_failed") == 1


def test_a_training_that_takes_too_long_is_killed_and_told(tmp_path: Path, upstream_store: MemoryStore) -> None:
    settings = BY_ROWS.model_copy(update={"retrain_every_rows": None, "retrain_every_s": 5.0, "train_timeout_s": 30.0})
    world = World(tmp_path, upstream_store, settings, trainings=Trainings(hold=True))
    learner = world.run()
    assert learner.training
    world.clock = 31.0
    state = learner.stage.load(world.state() or b"")
    learner.between(state)
    learner.between(state)
    assert "training_failed" in world.kinds()
    assert "train_timeout_s" in learner.failure


def by_seconds(tmp_path: Path, source: MemoryStore, every_s: float) -> tuple[World, Learner, State]:
    settings = BY_ROWS.model_copy(update={"retrain_every_rows": None, "retrain_every_s": every_s})
    world = World(tmp_path, source, settings)
    learner = world.run()
    return world, learner, learner.stage.load(world.state() or b"")


def settle(learner: Learner, state: State) -> None:
    """Let a training that is due begin, end and come into service."""
    for _ in range(3):
        learner.between(state)


def test_by_seconds_the_next_training_comes_in_time_and_only_with_new_rows(tmp_path: Path) -> None:
    world, learner, state = by_seconds(tmp_path, normalized(raw(300)), 5.0)
    settle(learner, state)
    assert len(world.models()) == 1
    assert world.models()[0]["rows"] < state.rows, "more rows came after the training was begun"
    world.clock = 4.9
    settle(learner, state)
    assert len(world.models()) == 1, "too early"
    world.clock = 5.0
    settle(learner, state)
    assert len(world.models()) == 2
    world.clock = 20.0
    settle(learner, state)
    assert len(world.models()) == 2, "no new rows"
    settle(learner, replace(state, rows=state.rows + 1))
    assert len(world.models()) == 3


def test_without_pause_it_trains_again_as_soon_as_it_is_done(tmp_path: Path) -> None:
    world, learner, state = by_seconds(tmp_path, normalized(raw(200)), 0.0)
    made = len(world.models())
    for _ in range(6):
        learner.between(state)
    assert len(world.models()) > made + 3


def test_after_failures_the_pause_before_the_next_try_grows(tmp_path: Path) -> None:
    world, learner, state = by_seconds(tmp_path, normalized(raw(200)), 0.0)
    world.trainings._spoil = dict.fromkeys(range(1000), "no")
    tries = []
    for tick in range(400):
        world.clock = tick / 10
        before = len(world.trainings.jobs)
        learner.between(state)
        if len(world.trainings.jobs) > before:
            tries.append(world.clock)
    gaps = np.diff(tries)
    assert gaps[1] >= 1.0
    assert gaps[-1] > 2 * gaps[1]


def test_a_request_is_met_once_also_after_a_restart(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world = World(tmp_path, upstream_store)
    learner = world.run()
    made = len(world.models())
    world.ask_for_a_training()
    world.ask_for_a_training()
    learner.between(learner.stage.load(world.state() or b""))
    assert len(world.models()) == made + 1
    assert world.models()[-1]["reason"] == "asked for"
    world.run()
    assert len(world.models()) == made + 1


def test_a_request_without_enough_rows_is_refused_once(tmp_path: Path) -> None:
    world = World(tmp_path, normalized(raw(30)))
    world.ask_for_a_training()
    world.run()
    world.run()
    assert world.kinds().count("training_refused") == 1
    assert world.models() == []


def test_while_a_version_is_pinned_newer_ones_are_registered_and_not_promoted(
    tmp_path: Path, upstream_store: MemoryStore
) -> None:
    world = World(tmp_path, upstream_store)

    def pin(state: State) -> None:
        if world.promoted() == [1, 2]:
            world.registry.promote(1, "by hand", pinned=True)

    world.run(between=pin)
    assert world.promoted() == [1, 2, 1]
    assert [m["version"] for m in world.models()] == [1, 2, 3, 4, 5, 6, 7]
    assert world.kinds().count("model_not_promoted") == 5
    pinned_at = world.models()[1]["last_offset"]
    assert {r["model_version"] for r in world.evaluations() if r["normalized_offset"] > pinned_at + BY_ROWS.batch_rows} == {1}


def test_a_pin_that_crosses_a_promotion_wins(
    tmp_path: Path, upstream_store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody pins while the learner writes the next version, after it has looked whether one is pinned."""
    world = World(tmp_path, upstream_store)
    write = world.registry.write

    def pinned_meanwhile(version: int, *rest: Any) -> Any:
        if version == 3:
            world.registry.promote(1, "by hand", pinned=True)
        return write(version, *rest)

    monkeypatch.setattr(world.registry, "write", pinned_meanwhile)
    world.run()
    current = world.registry.current()
    assert current is not None
    assert (current.version, current.pinned) == (1, True)


def test_a_version_with_another_file_is_refused_and_the_old_one_stays(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world = World(tmp_path, upstream_store)
    learner = world.run()
    last = world.promoted()[-1]
    file = tmp_path / "models" / str(last - 1) / "model.onnx"
    file.write_bytes((tmp_path / "models" / str(last) / "model.onnx").read_bytes())
    world.promotions.append(pa.RecordBatch.from_pylist([{"version": last - 1, "pinned": 0}], schema=PROMOTIONS))
    learner.between(learner.stage.load(world.state() or b""))
    assert learner.stage.scorer is not None
    assert learner.stage.scorer.version == last
    assert world.kinds().count("model_refused") == 1
    restarted = world.learner()
    restarted.restore()
    assert restarted.stage.scorer is not None
    assert restarted.stage.scorer.version == last


def test_a_stop_ends_a_reader_that_waits_for_a_training_and_the_training_comes_after_the_restart(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World
) -> None:
    world = World(tmp_path, upstream_store, trainings=Trainings(hold=True))
    learner = world.learner()

    def stop(state: State) -> None:
        raise Killed

    world.stopping.set()
    with pytest.raises(Killed):
        world.run(learner, between=stop)
    assert world.models() == []
    world.trainings = Trainings()
    world.run()
    assert world.everything() == undisturbed.everything()


def test_a_reader_is_asked_to_stop_before_the_training_it_waits_for_is_given_up(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World
) -> None:
    """Otherwise it would read on past the row at which the training is due."""
    world = World(tmp_path, upstream_store, trainings=Trainings(hold=True))
    learner = world.learner()
    reader = Runner(
        learner.stage, learner._upstream, world.store, world.told, batch_rows=64, limit=learner.limit, between=learner.between
    )
    assert process.run(learner, reader, world.told, world.stopping, lambda: learner.training) == 0
    assert reader.figures.state == "stopped"
    assert learner.labelled_rows == BY_ROWS.min_rows
    world.trainings = Trainings()
    world.run()
    assert world.everything() == undisturbed.everything()
