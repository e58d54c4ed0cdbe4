"""Laws of the learner: test-then-train, the same evaluations however the log was cut and whoever was killed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza.log.base import Claim
from correnteza.log.memory import MemoryStore
from correnteza.records import Schema
from correnteza.testing import read_all
from correnteza.trainer.evaluation import EVALUATIONS, half_width, metrics, residuals
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.window import Window

from .worlds import BY_ROWS, SCHEMA, Killed, Trainings, World, normalized, random_cuts, raw

# Test-then-train


def test_no_row_is_predicted_by_a_version_that_was_trained_on_it(undisturbed: World) -> None:
    models = {row["version"]: row for row in undisturbed.models()}
    rows = undisturbed.evaluations()
    assert len(models) == 7
    assert {row["model_version"] for row in rows} == set(models)
    for row in rows:
        assert models[row["model_version"]]["last_offset"] < row["normalized_offset"]


def test_every_labelled_row_after_the_first_version_is_evaluated_once_and_in_order(
    undisturbed: World, upstream_store: MemoryStore
) -> None:
    rows = [row for row in read_all(upstream_store.log("normalized", SCHEMA.normalized)) if row["price"] is not None]
    first = undisturbed.models()[0]["last_offset"]
    expected = [(row["offset"], row["raw_offset"], row["id"], row["price"]) for row in rows if row["offset"] > first]
    found = [(r["normalized_offset"], r["raw_offset"], r["id"], r["target"]) for r in undisturbed.evaluations()]
    assert found == expected


def test_trainings_come_at_the_first_rows_and_then_at_fixed_distances(undisturbed: World, upstream_store: MemoryStore) -> None:
    rows = [row for row in read_all(upstream_store.log("normalized", SCHEMA.normalized)) if row["price"] is not None]
    due = range(BY_ROWS.min_rows, len(rows) + 1, 90)
    assert [m["last_offset"] for m in undisturbed.models()] == [rows[n - 1]["offset"] for n in due]
    assert [m["rows"] for m in undisturbed.models()] == [min(n, BY_ROWS.window_rows) for n in due]


def served_predictions(world: World, records: pa.RecordBatch, rows: list[dict[str, Any]]) -> list[float]:
    """What clients get from the version that is in service at the end, for the raw records of some evaluations."""
    predictor = Predictor(world.registry.model_bytes(world.promoted()[-1]))
    taken = records.take([row["raw_offset"] - 1 for row in rows])
    numbers = np.empty((len(rows), len(predictor.numbers)))
    for place, name in enumerate(predictor.numbers):
        numbers[:, place] = taken[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    texts = np.array([[value or "" for value in taken[name].to_pylist()] for name in predictor.categories], object)
    answers: list[float] = predictor.predict(numbers, texts.reshape(-1, len(rows)).T).tolist()
    return answers


@pytest.mark.parametrize("names", [("size", "rooms", "kind"), ("size", "rooms"), ("kind",)])
def test_an_evaluation_is_what_the_served_model_answers_for_the_raw_record(tmp_path: Path, names: tuple[str, ...]) -> None:
    """No skew: the prediction that is scored is the one that a client would have got."""
    schema = Schema(tuple(f for f in SCHEMA.fields if f.name in names), SCHEMA.target)
    records = raw(700).select(schema.raw.names)
    world = World(tmp_path, normalized(records, schema), schema=schema)
    world.run()
    rows = [row for row in world.evaluations() if row["model_version"] == world.promoted()[-1]]
    expected = served_predictions(world, records, rows)
    assert len(set(expected)) > 2
    assert [row["prediction"] for row in rows] == pytest.approx(expected, rel=1e-9)


def test_the_baseline_is_the_mean_of_all_targets_before(undisturbed: World, upstream_store: MemoryStore) -> None:
    targets = {
        row["offset"]: row["price"]
        for row in read_all(upstream_store.log("normalized", SCHEMA.normalized))
        if row["price"] is not None
    }
    for row in undisturbed.evaluations()[::17]:
        before = [target for offset, target in targets.items() if offset < row["normalized_offset"]]
        assert row["baseline"] == pytest.approx(np.mean(before))


def test_intervals_are_the_conformal_ones_of_the_errors_before(undisturbed: World) -> None:
    batch = undisturbed.store.log("evaluations", EVALUATIONS).read(None, 10_000).batch
    errors = residuals(batch)
    for place, row in enumerate(batch.to_pylist()):
        block = place - place % 50
        half = half_width(errors[max(0, block - BY_ROWS.metric_rows) : block], BY_ROWS.level)
        expected = (None, None) if half is None else (row["prediction"] - half, row["prediction"] + half)
        assert (row["lower"], row["upper"]) == expected


def test_a_version_carries_the_metrics_of_the_rows_before_its_promotion(undisturbed: World) -> None:
    rows = undisturbed.store.log("evaluations", EVALUATIONS).read(None, 10_000).batch
    model = undisturbed.models()[-1]
    before = rows.filter(pa.array(rows["normalized_offset"].to_numpy() <= model["last_offset"]))
    expected = metrics(before.slice(before.num_rows - BY_ROWS.metric_rows))
    assert expected is not None
    assert json.loads(model["evaluation"])["mae"] == expected.mae


def test_rows_between_are_not_scored_when_only_every_third_is_asked_for(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world = World(tmp_path, upstream_store, BY_ROWS.model_copy(update={"evaluate_every": 3}))
    world.run()
    assert {row["normalized_offset"] % 3 for row in world.evaluations()} == {0}


# Cuts, kills and restarts


@pytest.mark.parametrize("seed", range(6))
def test_nothing_depends_on_how_the_log_is_cut_into_batches(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World, seed: int
) -> None:
    world = World(tmp_path, upstream_store, cuts=random_cuts(seed))
    world.run()
    assert world.everything() == undisturbed.everything()


@pytest.mark.parametrize("when", ["kill_before", "kill_after", "busy_at"])
@pytest.mark.parametrize("commit", [1, 2, 3, 4, 9])
def test_a_kill_or_a_busy_database_at_any_commit_changes_no_row(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World, when: str, commit: int
) -> None:
    world = World(tmp_path, upstream_store)
    setattr(world.store, when, commit)
    try:
        world.run()
    except Killed:
        world.trainings = Trainings()
        world.run()
    assert world.store.commits > commit
    assert world.everything() == undisturbed.everything()


def test_kills_again_and_again_with_other_cuts_change_no_row(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World
) -> None:
    world, deaths = World(tmp_path, upstream_store), 0
    rng = np.random.default_rng(8)
    while True:
        world.cuts, world.trainings = random_cuts(deaths), Trainings()
        setattr(world.store, str(rng.choice(["kill_before", "kill_after"])), world.store.commits + int(rng.integers(1, 6)))
        try:
            world.run()
        except Killed:
            deaths += 1
            continue
        break
    assert deaths > 5
    assert world.everything() == undisturbed.everything()


def test_a_kill_while_the_version_is_written_leaves_no_trace_of_it(
    tmp_path: Path, upstream_store: MemoryStore, undisturbed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, upstream_store)
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


def test_a_restart_has_the_window_that_it_had(tmp_path: Path, upstream_store: MemoryStore) -> None:
    world = World(tmp_path, upstream_store)
    before, after = world.run(), world.learner()
    after.restore()
    assert windows_equal(before.window, after.window)
    assert after.labelled_rows == before.labelled_rows


def windows_equal(one: Window, other: Window) -> bool:
    def plain(window: Window) -> str:
        order = (window._added - len(window) + np.arange(len(window))) % window.capacity
        return repr(
            [getattr(window, f"_{n}")[order].tolist() for n in ("features", "targets", "versions", "offsets", "raw_offsets")]
        )

    return plain(one) == plain(other)


def test_a_window_of_rare_labels_is_read_back_from_as_far_as_needed(tmp_path: Path) -> None:
    source = normalized(raw(700, labelled=lambda i: i % 20 == 0))
    settings = BY_ROWS.model_copy(update={"window_rows": 20, "min_rows": 10, "retrain_every_rows": 10})
    world = World(tmp_path, source, settings)
    before, after = world.run(), world.learner()
    after.restore()
    assert len(after.window) == 20
    assert windows_equal(before.window, after.window)


def test_a_window_that_upstream_no_longer_has_is_told(tmp_path: Path) -> None:
    source = normalized(raw(700))
    world = World(tmp_path, source)
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
