"""Laws of when the learner trains, and of what comes into service."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza import config, events
from correnteza.log.memory import MemoryStore
from correnteza.stage import Runner
from correnteza.testing import read_all
from correnteza.trainer import learner as process
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.labels import LABELS, OUTCOMES
from correnteza.trainer.learning import Learner
from correnteza.trainer.ledger import Ledger
from correnteza.trainer.leftout import LeftOut
from correnteza.trainer.registry import PROMOTIONS
from correnteza.trainer.state import State

from .worlds import Killed, Trainings, World, normalized, raw

pytestmark = pytest.mark.usefixtures("tested_early")


def failures(world: World) -> list[dict[str, Any]]:
    return [row for row in read_all(world.store.log("events", events.SCHEMA)) if row["kind"] == "training_failed"]


def test_a_failed_training_is_told_and_the_old_version_stays(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World
) -> None:
    world = World(tmp_path, upstream_store, undisturbed.settings, trainings=Trainings(spoil={2: "it ran out of memory"}))
    world.run()
    assert [m["version"] for m in world.models()] == list(range(1, len(world.models()) + 1))
    assert [row["reason"] for row in failures(world)] == ["it ran out of memory"]
    offsets = [row["last_offset"] for row in undisturbed.models()]
    assert world.models()[0]["last_offset"] == offsets[0]
    second = world.models()[1]["last_offset"]
    assert second > offsets[1], "it was tried again after as many rows as lie between trainings"
    assert {r["model_version"] for r in world.evaluations() if offsets[0] < r["normalized_offset"] <= second} == {1}


@pytest.mark.parametrize("failing", [1, 3, 5])
def test_a_restart_after_a_failed_training_goes_on_as_the_process_would_have(
    tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer, failing: int
) -> None:
    """The next version begins anew, whoever makes it, also when the process ends only some trainings later."""
    lived = World(tmp_path / "lived", upstream_store, way, trainings=Trainings(spoil={failing: "no memory"}))
    lived.run()
    assert len(failures(lived)) == 1
    for later in (0, 1, 2):
        world = World(tmp_path / str(later), upstream_store, way, trainings=Trainings(spoil={failing: "no memory"}))

        def kill(state: State, world: World = world, later: int = later) -> None:
            if failures(world) and len(world.trainings.jobs) >= failing + later:
                raise Killed

        with pytest.raises(Killed):
            world.run(between=kill)
        world.trainings = Trainings()
        world.run()
        assert world.everything() == lived.everything()


def test_a_version_that_cannot_be_written_is_a_failed_training(
    tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, upstream_store, way)
    write = world.registry.write

    def no_space(version: int, *rest: Any) -> Any:
        if len(world.trainings.jobs) == 2:
            raise OSError(28, "No space left on device")
        return write(version, *rest)

    monkeypatch.setattr(world.registry, "write", no_space)
    world.run()
    assert len(world.trainings.jobs) > 4
    assert [m["version"] for m in world.models()] == list(range(1, len(world.trainings.jobs)))
    assert len(failures(world)) == 1


def test_a_training_that_takes_too_long_is_killed_and_told(
    tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer
) -> None:
    settings = way.model_copy(update={"retrain_every_rows": None, "retrain_every_s": 5.0, "train_timeout_s": 30.0})
    world = World(tmp_path, upstream_store, settings, trainings=Trainings(hold=True))
    learner = world.run()
    assert learner.training
    world.clock = 31.0
    state = learner.stage.load(world.state() or b"")
    learner.between(state)
    learner.between(state)
    assert "training_failed" in world.kinds()
    assert "train_timeout_s" in learner.failure


def by_seconds(tmp_path: Path, source: MemoryStore, way: config.Trainer, every_s: float) -> tuple[World, Learner, State]:
    """A learner whose versions go into service at once, so that no test puts a training off."""
    settings = way.model_copy(update={"retrain_every_rows": None, "retrain_every_s": every_s, "promotion": "newest"})
    world = World(tmp_path, source, settings)
    learner = world.run()
    return world, learner, learner.stage.load(world.state() or b"")


def settle(learner: Learner, state: State) -> None:
    """Let a training that is due begin, end and come into service."""
    for _ in range(3):
        learner.between(state)


def test_by_seconds_the_next_training_comes_in_time_and_only_with_new_rows(tmp_path: Path, way: config.Trainer) -> None:
    world, learner, state = by_seconds(tmp_path, normalized(raw(300)), way, 5.0)
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


def test_without_pause_it_trains_again_as_soon_as_it_is_done(tmp_path: Path, way: config.Trainer) -> None:
    world, learner, state = by_seconds(tmp_path, normalized(raw(200)), way, 0.0)
    made = len(world.models())
    for _ in range(6):
        learner.between(state)
    assert len(world.models()) > made + 3


def test_after_failures_the_pause_before_the_next_try_grows(tmp_path: Path, way: config.Trainer) -> None:
    world, learner, state = by_seconds(tmp_path, normalized(raw(200)), way, 0.0)
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


def test_a_request_is_met_once_also_after_a_restart(tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer) -> None:
    world = World(tmp_path, upstream_store, way)
    learner = world.run()
    made = len(world.models())
    world.ask_for_a_training()
    world.ask_for_a_training()
    learner.between(learner.stage.load(world.state() or b""))
    assert len(world.models()) == made + 1
    assert world.models()[-1]["reason"] == "asked for"
    world.run()
    assert len(world.models()) == made + 1


def test_a_request_without_enough_rows_is_refused_once(tmp_path: Path, way: config.Trainer) -> None:
    world = World(tmp_path, normalized(raw(30)), way)
    world.ask_for_a_training()
    world.run()
    world.run()
    assert world.kinds().count("training_refused") == 1
    assert world.models() == []


@pytest.mark.parametrize("shadow", [False, True])
def test_while_a_version_is_pinned_newer_ones_are_registered_and_not_promoted(
    tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer, shadow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when one is in shadow that nobody judges any more."""
    world, seen = World(tmp_path, upstream_store, way), list[int]()
    learner = world.learner()
    monkeypatch.setattr(learner._triggers, "_changed", lambda state, progress: None)  # a drift would bring a training by itself

    def pin(state: State) -> None:
        in_shadow = learner.stage.challenger is not None
        if not seen and world.promoted() == [1, 2] and in_shadow == (shadow and way.promotion == "tested"):
            world.registry.promote(1, "by hand", pinned=True)
            seen.extend([len(world.models()), state.offset])

    world.run(learner, between=pin)
    assert world.promoted() == [1, 2, 1]
    versions = [m["version"] for m in world.models()]
    assert len(versions) >= seen[0] + 3
    assert versions == list(range(1, len(versions) + 1))
    assert world.kinds().count("model_not_promoted") == len(versions) - seen[0]
    after = {r["model_version"] for r in world.evaluations() if r["normalized_offset"] > seen[1] + way.batch_rows}
    assert after == {1}


@pytest.mark.parametrize("back", [1, 3])
def test_a_pin_that_crosses_a_promotion_wins(
    tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer, back: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody pins while the learner promotes a version, after it has looked whether one is pinned."""
    world = World(tmp_path, upstream_store, way)
    commit = world.store.commit

    def pinned_meanwhile(stage: str, epoch: int, position: str | None, state: bytes, outputs: Any) -> Any:
        if "promotions" in outputs and len(world.promoted()) == back:
            world.registry.promote(back, "by hand", pinned=True)
        return commit(stage, epoch, position, state, outputs)

    monkeypatch.setattr(world.store, "commit", pinned_meanwhile)
    world.run()
    current = world.registry.current()
    assert current is not None
    assert (current.version, current.pinned) == (back, True)
    assert world.promoted() == [*range(1, back + 1), back, back + 1, back]


def test_a_version_with_another_file_is_refused_and_the_old_one_stays(
    tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer
) -> None:
    world = World(tmp_path, upstream_store, way.model_copy(update={"keep_versions": 20}))
    learner = world.run()
    last, in_shadow = world.promoted()[-1], learner.stage.challenger
    loaded = (last, None if in_shadow is None else in_shadow.version)
    other = next(m["version"] for m in reversed(world.models()) if m["version"] not in loaded)
    file = tmp_path / "models" / str(other) / "model.onnx"
    file.write_bytes((tmp_path / "models" / str(last) / "model.onnx").read_bytes())
    world.promotions.append(pa.RecordBatch.from_pylist([{"version": other, "pinned": 0}], schema=PROMOTIONS))
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
    world = World(tmp_path, upstream_store, undisturbed.settings, trainings=Trainings(hold=True))
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
    world = World(tmp_path, upstream_store, undisturbed.settings, trainings=Trainings(hold=True))
    learner = world.learner()
    upstream, outcomes = learner._upstream, MemoryStore().log("outcomes", OUTCOMES)
    predictions, taken = world.store.log("predictions", PREDICTIONS), world.store.log("labels", LABELS)
    ledger = Ledger(upstream, outcomes, predictions, taken, world.schema, world.told)
    reader = Runner(
        learner.stage, upstream, world.store, world.told, batch_rows=64, limit=learner.limit, between=learner.between
    )
    left_out = LeftOut(world.told, world.settings.window_rows)
    assert process.run(learner, reader, ledger, world.told, world.stopping, lambda: learner.training, left_out) == 0
    assert reader.figures.state == "stopped"
    assert learner.labelled_rows == undisturbed.settings.min_rows
    world.trainings = Trainings()
    world.run()
    assert world.everything() == undisturbed.everything()
