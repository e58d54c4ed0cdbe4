"""Laws of the learner: test-then-train, the same evaluations however the log was cut and whoever was killed.

Each holds for versions that replace one another at once, and for those that are tested in shadow (`worlds.WAYS`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza import config
from correnteza.log.base import Claim
from correnteza.log.memory import MemoryStore
from correnteza.records import Schema
from correnteza.testing import read_all
from correnteza.trainer.conformal import Conformal
from correnteza.trainer.evaluation import EVALUATIONS, metrics
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.triggers import JUDGED_EVERY_ROWS
from correnteza.trainer.window import Window

from .worlds import AUTO, BY_ROWS, SCHEMA, Killed, Trainings, World, normalized, random_cuts, raw

pytestmark = pytest.mark.usefixtures("tested_early")

# Test-then-train


def test_no_row_is_predicted_by_a_version_that_was_trained_on_it(undisturbed: World) -> None:
    """Neither in service nor in shadow."""
    models = {row["version"]: row for row in undisturbed.models()}
    rows = undisturbed.evaluations()
    assert len(models) >= 5
    assert {row["model_version"] for row in rows} <= set(undisturbed.promoted())
    for row in rows:
        for version in (row["model_version"], row["challenger_version"]):
            assert version is None or models[version]["last_offset"] < row["normalized_offset"]


def test_versions_are_tested_in_shadow_unless_the_newest_is_to_be_in_service(undisturbed: World) -> None:
    tested = {row["challenger_version"] for row in undisturbed.evaluations()} - {None}
    versions = [row["version"] for row in undisturbed.models()]
    if undisturbed.settings.promotion == "newest":
        assert undisturbed.promoted() == versions
        assert not tested
    else:
        assert len(tested) >= 2
        assert {row["version"] for row in undisturbed.decisions() if json.loads(row["evidence"]).get("rows")} <= tested
        for row in undisturbed.evaluations():
            assert row["challenger_version"] is None or row["challenger_version"] > row["model_version"]


def test_every_labelled_row_after_the_first_version_is_evaluated_once_and_in_order(
    undisturbed: World, upstream_store: MemoryStore
) -> None:
    rows = [row for row in read_all(upstream_store.log("normalized", SCHEMA.normalized)) if row["price"] is not None]
    first = undisturbed.models()[0]["last_offset"]
    expected = [(row["offset"], row["raw_offset"], row["id"], row["price"]) for row in rows if row["offset"] > first]
    found = [(r["normalized_offset"], r["raw_offset"], r["id"], r["target"]) for r in undisturbed.evaluations()]
    assert found == expected


def labelled_offsets(store: MemoryStore) -> list[int]:
    """Offsets of the labelled rows; the n-th labelled row is at place n - 1."""
    return [row["offset"] for row in read_all(store.log("normalized", SCHEMA.normalized)) if row["price"] is not None]


def test_trainings_come_at_the_first_rows_and_then_at_fixed_distances(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world, offsets = World(tmp_path, upstream_store), labelled_offsets(upstream_store)
    world.run()
    due = range(BY_ROWS.min_rows, len(offsets) + 1, 90)
    assert [m["last_offset"] for m in world.models()] == [offsets[n - 1] for n in due]
    assert [m["rows"] for m in world.models()] == [min(n, BY_ROWS.window_rows) for n in due]


def test_a_training_is_put_off_by_a_test_and_brought_forward_by_a_drift_to_a_row_that_does_not_depend_on_cuts(
    undisturbed: World, upstream_store: MemoryStore
) -> None:
    offsets = labelled_offsets(upstream_store)
    rows = [offsets.index(m["last_offset"]) + 1 for m in undisturbed.models()]
    every = undisturbed.settings.retrain_every_rows
    assert rows[0] == undisturbed.settings.min_rows
    for before, row, model in zip(rows, rows[1:], undisturbed.models()[1:], strict=False):
        assert row - before == every or row % JUDGED_EVERY_ROWS == 0
        if model["reason"] != "the error had risen":
            assert model["reason"] == f"{row - before} labelled rows since the last training"
            assert row - before >= int(every or 0)
        assert model["rows"] <= min(row, undisturbed.settings.window_rows)


def served_predictions(world: World, version: int, records: pa.RecordBatch, rows: list[dict[str, Any]]) -> list[float]:
    """What clients get from a version, for the raw records of some evaluations."""
    predictor = Predictor(world.registry.model_bytes(version))
    taken = records.take([row["raw_offset"] - 1 for row in rows])
    numbers = np.empty((len(rows), len(predictor.numbers)))
    for place, name in enumerate(predictor.numbers):
        numbers[:, place] = taken[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    texts = np.array([[value or "" for value in taken[name].to_pylist()] for name in predictor.categories], object)
    answers: list[float] = predictor.predict(numbers, texts.reshape(-1, len(rows)).T).tolist()
    return answers


@pytest.mark.parametrize("names", [("size", "rooms", "kind"), ("size", "rooms"), ("kind",)])
def test_an_evaluation_is_what_the_served_model_answers_for_the_raw_record(
    tmp_path: Path, way: config.Trainer, names: tuple[str, ...]
) -> None:
    """No skew: the prediction that is scored is the one that a client would have got."""
    schema = Schema(tuple(f for f in SCHEMA.fields if f.name in names), SCHEMA.target)
    records = raw(700).select(schema.raw.names)
    world = World(tmp_path, normalized(records, schema), way, schema=schema)
    world.run()
    last = world.promoted()[-1]
    rows = [row for row in world.evaluations() if row["model_version"] == last]
    expected = served_predictions(world, last, records, rows)
    assert len(set(expected)) > 2
    assert [row["prediction"] for row in rows] == pytest.approx(expected, rel=1e-9)


def test_a_version_in_shadow_is_scored_by_what_it_would_answer_in_service(tmp_path: Path) -> None:
    records = raw(700)
    world = World(tmp_path, normalized(records), AUTO)
    world.run()
    tested = [row for row in world.evaluations() if row["challenger_version"] is not None]
    last = tested[-1]["challenger_version"]
    rows = [row for row in tested if row["challenger_version"] == last]
    expected = served_predictions(world, last, records, rows)
    assert [row["challenger_prediction"] for row in rows] == pytest.approx(expected, rel=1e-9)


def test_the_baselines_are_the_mean_of_all_targets_before_and_the_last_one(
    undisturbed: World, upstream_store: MemoryStore
) -> None:
    targets = {
        row["offset"]: row["price"]
        for row in read_all(upstream_store.log("normalized", SCHEMA.normalized))
        if row["price"] is not None
    }
    for row in undisturbed.evaluations()[::17]:
        before = [target for offset, target in targets.items() if offset < row["normalized_offset"]]
        assert row["baseline"] == pytest.approx(np.mean(before))
        assert row["last_value"] == before[-1]


def test_intervals_are_the_conformal_ones_of_the_errors_before(undisturbed: World) -> None:
    batch = undisturbed.store.log("evaluations", EVALUATIONS).read(None, 10_000).batch
    target, prediction, spread, lower, upper, multiplier = (
        batch[name].to_numpy(zero_copy_only=False)
        for name in ("target", "prediction", "spread", "lower", "upper", "multiplier")
    )
    expected, _ = Conformal(undisturbed.settings.level).extend(np.abs(target - prediction), spread)
    assert np.isfinite(expected[-1])
    assert (spread > 0).all()
    np.testing.assert_array_equal(multiplier, expected)
    np.testing.assert_array_equal(lower, prediction - expected * spread)
    np.testing.assert_array_equal(upper, prediction + expected * spread)


def test_a_version_carries_the_metrics_of_the_rows_before_it(undisturbed: World) -> None:
    rows = undisturbed.store.log("evaluations", EVALUATIONS).read(None, 10_000).batch
    model = undisturbed.models()[-1]
    before = rows.filter(pa.array(rows["normalized_offset"].to_numpy() <= model["last_offset"]))
    expected = metrics(before.slice(before.num_rows - undisturbed.settings.metric_rows))
    assert expected is not None
    assert json.loads(model["evaluation"])["mae"] == expected.mae


def test_rows_between_are_not_scored_when_only_every_third_is_asked_for(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world = World(tmp_path, upstream_store, AUTO.model_copy(update={"evaluate_every": 3}))
    world.run()
    assert len(world.models()) > 3
    assert {row["normalized_offset"] % 3 for row in world.evaluations()} == {0}


# Cuts, kills and restarts


@pytest.mark.parametrize("seed", range(6))
def test_nothing_depends_on_how_the_log_is_cut_into_batches(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World, seed: int
) -> None:
    world = World(tmp_path, upstream_store, undisturbed.settings, cuts=random_cuts(seed))
    world.run()
    assert world.everything() == undisturbed.everything()


@pytest.mark.parametrize("settings", [BY_ROWS, AUTO], ids=["newest", "auto"])
def test_nothing_depends_on_cuts_nor_kills_where_the_world_changes(
    tmp_path: Path, turned_store: MemoryStore, settings: config.Trainer
) -> None:
    worlds = [World(tmp_path / str(seed), turned_store, settings, cuts=random_cuts(seed)) for seed in range(3)]
    for world in worlds[:2]:
        world.run()
    killed_again_and_again(worlds[2])
    assert "the error had risen" in [row["reason"] for row in worlds[0].models()]
    assert worlds[1].everything() == worlds[0].everything()
    assert worlds[2].everything() == worlds[0].everything()


@pytest.mark.parametrize("when", ["kill_before", "kill_after", "busy_at"])
@pytest.mark.parametrize("commit", [1, 2, 4, 9, 20, 36])
def test_a_kill_or_a_busy_database_at_any_commit_changes_no_row(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World, when: str, commit: int
) -> None:
    world = World(tmp_path, upstream_store, undisturbed.settings)
    setattr(world.store, when, commit)
    try:
        world.run()
    except Killed:
        world.trainings = Trainings()
        world.run()
    assert world.store.commits > commit
    assert world.everything() == undisturbed.everything()


def killed_again_and_again(world: World) -> int:
    """Run to the end although the process is killed every few commits; the number of kills."""
    deaths, rng = 0, np.random.default_rng(8)
    while True:
        world.cuts, world.trainings = random_cuts(deaths), Trainings()
        setattr(world.store, str(rng.choice(["kill_before", "kill_after"])), world.store.commits + int(rng.integers(1, 6)))
        try:
            world.run()
        except Killed:
            deaths += 1
            continue
        return deaths


def test_kills_again_and_again_with_other_cuts_change_no_row(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World
) -> None:
    world = World(tmp_path, upstream_store, undisturbed.settings)
    assert killed_again_and_again(world) > 5
    assert world.everything() == undisturbed.everything()


def test_a_kill_while_the_version_is_written_leaves_no_trace_of_it(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, upstream_store, undisturbed.settings)
    write = world.registry.write

    def killed_after_writing(*arguments: Any) -> Any:
        write(*arguments)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(world.registry, "write", killed_after_writing)
        with pytest.raises(Killed):
            world.run()
    world.trainings = Trainings()
    world.run()
    assert world.everything() == undisturbed.everything()


def test_a_restart_has_the_window_that_it_had(tmp_path: Path, upstream_store: MemoryStore, way: config.Trainer) -> None:
    world = World(tmp_path, upstream_store, way)
    before, after = world.run(), world.learner()
    after.restore()
    assert windows_equal(before.window, after.window)
    assert len(after.window) >= way.window_rows
    assert after.labelled_rows == before.labelled_rows


def windows_equal(one: Window, other: Window) -> bool:
    def plain(window: Window) -> str:
        order = (window._added - len(window) + np.arange(len(window))) % window.capacity
        return repr([getattr(window, f"_{n}")[order].tolist() for n in ("features", "targets", "versions", "offsets")])

    return plain(one) == plain(other)


def test_a_window_of_rare_labels_is_read_back_from_as_far_as_needed(tmp_path: Path, way: config.Trainer) -> None:
    source = normalized(raw(700, labelled=lambda i: i % 20 == 0))
    settings = way.model_copy(update={"window_rows": 20, "min_rows": 10, "retrain_every_rows": 10})
    world = World(tmp_path, source, settings)
    before, after = world.run(), world.learner()
    after.restore()
    assert len(after.window) == min(after.window.capacity, 700 // 20) >= 20
    assert windows_equal(before.window, after.window)


def test_a_window_that_upstream_no_longer_has_is_told(tmp_path: Path, way: config.Trainer) -> None:
    source = normalized(raw(700))
    world = World(tmp_path, source, way)
    world.run()
    source.log("normalized", SCHEMA.normalized)._first = 650
    learner = world.learner()
    learner.restore()
    assert 0 < len(learner.window) < 60
    assert "window_short" in world.kinds()


def test_a_restart_serves_the_last_version_before_it_has_read_a_row(undisturbed: World) -> None:
    learner = undisturbed.learner()
    learner.restore()
    assert learner.stage.scorer is not None
    assert learner.stage.scorer.version == undisturbed.promoted()[-1]


def test_the_position_of_the_learner_is_that_of_its_last_commit(undisturbed: World, upstream_store: MemoryStore) -> None:
    claim: Claim = undisturbed.store._stages["learner"]
    assert claim.position == upstream_store.log("normalized", SCHEMA.normalized).cursor(700)
