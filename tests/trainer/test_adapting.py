"""Laws of the whole loop where the world changes: it adapts, it is never hurt, and the same log gives the same versions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza import config
from correnteza.features import Floats
from correnteza.log.memory import MemoryStore
from correnteza.records import Field, Schema
from correnteza.testing import read_all
from correnteza.trainer.forest import Memo, Mixture
from correnteza.trainer import training
from correnteza.trainer.promotions import DECISIONS
from correnteza.trainer.training import Job, Trained, fit

from .worlds import Killed, Trainings, World, normalized, random_cuts

SCHEMA = Schema((Field("u", "float"), Field("v", "float"), Field("kind", "category")), "y")
SETTINGS = config.Trainer(
    params={"n_estimators": 10, "min_samples_leaf": 5}, window_rows=1500, min_rows=20, retrain_every_rows="auto", batch_rows=500
)


class Child(Trainings):
    """Trains at once, in this process, and remembers as the training process does; it can be killed, and spoil versions."""

    def __init__(self, spoil: Callable[[Job, Mixture], Mixture] | None = None) -> None:
        super().__init__()
        self.spoiling = spoil
        self.deaths = 0
        self._memo: Memo | None = None

    @property
    def fresh(self) -> bool:
        return self._memo is None

    def die(self) -> None:
        """Forget everything, as a process that was killed between two trainings."""
        self.deaths += self._memo is not None
        self._memo = None

    def poll(self) -> Trained | None:
        if self.hold and not self._killed:
            return None
        self.busy, killed, self._killed = False, self._killed, ""
        if killed:
            raise training.TrainingFailedError(killed)
        self._memo = Memo() if self._memo is None else self._memo
        with pytest.MonkeyPatch.context() as patch:
            if self.spoiling is not None:
                fitted = training._fitted
                patch.setattr(training, "_fitted", lambda job, memo: self._spoilt(job, fitted(job, memo)))
            return fit(self.jobs[-1], self._memo)

    def _spoilt(self, job: Job, mixture: Mixture) -> Mixture:
        assert self.spoiling is not None
        return self.spoiling(job, mixture)


Target = Callable[[int, Floats, Floats, np.random.Generator], float]


def steps(x: Floats) -> float:
    return float(6.0 * (x[0] > 0) + 3.0 * (x[1] > 0) + 2.0 * x[0])


def records(rows: int, target: Callable[[int, Floats], float | None], seed: int = 1) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(rows):
        x, noise = rng.normal(size=2), float(rng.normal())
        said = target(i, x)
        y = None if said is None else said + 0.5 * noise
        found.append({"id": str(i), "u": float(x[0]), "v": float(x[1]), "kind": f"k{i % 3}", "y": y})
    return pa.RecordBatch.from_pylist(found, schema=SCHEMA.raw)


def world(folder: Path, stream: pa.RecordBatch, child: Child | None = None, **changes: Any) -> World:
    return World(
        folder, normalized(stream, SCHEMA), SETTINGS.model_copy(update=changes), trainings=child or Child(), schema=SCHEMA
    )


def run(folder: Path, stream: pa.RecordBatch, child: Child | None = None, **changes: Any) -> World:
    made = world(folder, stream, child, **changes)
    made.run()
    return made


def errors(of: World, first: int, last: int) -> float:
    """Mean absolute error of the rows `first` to `last`, from 0."""
    rows = [r for r in of.evaluations() if first < r["normalized_offset"] <= last]
    assert rows
    return float(np.mean([abs(r["target"] - r["prediction"]) for r in rows]))


def decisions(of: World) -> list[dict[str, Any]]:
    return read_all(of.store.log("decisions", DECISIONS))


def switching(*at: int) -> Callable[[int, Floats], float]:
    """Two worlds in turn: the second is the first one upside down."""
    return lambda i, x: (-1.0) ** sum(i >= row for row in at) * steps(x)


@pytest.fixture(scope="module")
def abrupt(tmp_path_factory: pytest.TempPathFactory) -> World:
    return run(tmp_path_factory.mktemp("abrupt"), records(3000, switching(1500)))


# Drift


def test_an_abrupt_drift_is_found_answered_and_forgotten(abrupt: World) -> None:
    told = [row for row in read_all(abrupt.store.logs()["events"]) if row["kind"] == "error_drift"]
    assert told
    assert [row["reason"] for row in abrupt.models()].count("the error had risen") >= 1
    before = errors(abrupt, 1000, 1500)
    assert errors(abrupt, 1500, 1550) > 3 * before
    assert errors(abrupt, 1800, 2300) < 1.5 * before
    assert errors(abrupt, 2500, 3000) < 1.2 * before


def test_a_stream_without_drift_is_learned_ever_better(tmp_path: Path) -> None:
    made = run(tmp_path, records(2000, lambda i, x: steps(x)))
    assert errors(made, 1500, 2000) < errors(made, 20, 200)


@pytest.mark.parametrize("at", [600])
def test_a_false_alarm_costs_nearly_nothing(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from correnteza.trainer import prequential

    stream = records(1500, lambda i, x: steps(x))
    calm = run(tmp_path / "calm", stream)
    step = prequential.LearnerStage.step

    def alarmed(self: Any, state: Any, batch: Any) -> Any:
        made = step(self, state, batch)
        past = state.rows < at <= made.state.rows
        return replace(made, state=replace(made.state, change=prequential.Change(at, at - 30))) if past else made

    monkeypatch.setattr(prequential.LearnerStage, "step", alarmed)
    nervous = run(tmp_path / "nervous", stream)
    assert [row["reason"] for row in nervous.models()].count("the error had risen") == 1
    assert errors(nervous, at, 1500) < 1.05 * errors(calm, at, 1500)


def test_a_world_that_comes_back_is_learned_again_at_least_as_soon(tmp_path: Path) -> None:
    made = run(tmp_path, records(3500, switching(1000, 2000, 3000)))
    news, again = errors(made, 1000, 1400), errors(made, 3000, 3400)
    assert again < 1.1 * news


# Promotion that cannot hurt


def upside_down(mixture: Mixture) -> Mixture:
    """A version that says the opposite."""
    recipe = mixture.recipe
    experts = tuple(replace(expert, weight=-expert.weight) for expert in recipe.experts)
    local = recipe.local and replace(recipe.local, weight=-recipe.local.weight)
    return replace(mixture, recipe=replace(recipe, experts=experts, local=local))


def spoiling(*versions: int) -> Callable[[Job, Mixture], Mixture]:
    return lambda job, mixture: upside_down(mixture) if job.version in versions else mixture


def first_tested(of: World) -> int:
    """The first version that had to prove itself."""
    return next(row["version"] for row in decisions(of) if "rows" in str(row["evidence"]))


def test_a_worse_challenger_never_comes_into_service_and_is_refused_with_numbers(abrupt: World, tmp_path: Path) -> None:
    bad = first_tested(abrupt)
    made = run(tmp_path, records(3000, switching(1500)), Child(spoiling(bad)))
    assert bad not in {row["model_version"] for row in made.evaluations()}
    assert bad not in made.promoted()
    (decision,) = [row for row in decisions(made) if row["version"] == bad]
    assert decision["decision"] == "refused"
    assert "worse by more than 2 %" in decision["reason"]
    assert '"rows"' in decision["evidence"]
    assert "training_failed" not in made.kinds()
    assert any(row["version"] > bad for row in decisions(made) if row["decision"] == "promoted")


def test_a_worse_version_that_came_into_service_at_once_is_rolled_back_to_its_parent(tmp_path: Path) -> None:
    """The young are not tested; the next ones are made from the parent, and are good again."""
    stream = records(900, lambda i, x: steps(x))
    made = run(tmp_path, stream, Child(spoiling(3)), retrain_every_rows=150)
    assert made.promoted()[:4] == [1, 2, 3, 2]
    assert ("rolled_back", 3) in [(row["decision"], row["version"]) for row in decisions(made)]
    assert "model_rolled_back" in made.kinds()
    assert "training_failed" not in made.kinds()
    assert made.promoted()[-1] > 3
    assert errors(made, 600, 900) < 1.1 * errors(run(tmp_path / "good", stream, retrain_every_rows=150), 600, 900)


# Bad input


def test_a_field_that_is_suddenly_missing_everywhere_is_survived(tmp_path: Path) -> None:
    stream = records(1600, lambda i, x: steps(x))
    u = pa.array([None if i >= 800 else value for i, value in enumerate(stream["u"].to_pylist())], pa.float64())
    made = run(tmp_path, stream.set_column(stream.schema.get_field_index("u"), stream.schema.field("u"), u))
    assert "training_failed" not in made.kinds()
    assert len(made.evaluations()) > 1500
    rows = made.evaluations()[-400:]
    spread = np.std([row["target"] for row in rows])
    assert np.mean([abs(row["target"] - row["prediction"]) for row in rows]) < spread
    assert "input_drift" in made.kinds()


def test_labels_that_come_all_at_once_after_a_gap_are_learned_from(tmp_path: Path) -> None:
    made = run(tmp_path, records(1800, lambda i, x: None if 300 <= i < 1000 else steps(x)))
    assert len({row["normalized_offset"] for row in made.evaluations()}) == len(made.evaluations())
    assert errors(made, 1400, 1800) < errors(made, 20, 300)


def test_a_target_that_is_constant_and_then_is_not(tmp_path: Path) -> None:
    stream = records(1200, lambda i, x: steps(x))
    y = pa.array([5.0 if i < 500 else value for i, value in enumerate(stream["y"].to_pylist())])
    made = run(tmp_path, stream.set_column(stream.schema.get_field_index("y"), stream.schema.field("y"), y))
    assert "training_failed" not in made.kinds()
    assert errors(made, 100, 500) < 1e-9
    assert errors(made, 900, 1200) < 1.5


@pytest.mark.parametrize("absurd", [1e9, 1e300])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_absurd_target_now_and_then_does_not_hurt(tmp_path: Path, absurd: float) -> None:
    stream = records(1200, lambda i, x: steps(x))
    y = stream["y"].to_pylist()
    soiled = pa.array([absurd if i % 100 == 42 else value for i, value in enumerate(y)])
    made = run(tmp_path / "soiled", stream.set_column(stream.schema.get_field_index("y"), stream.schema.field("y"), soiled))
    clean = run(tmp_path / "clean", stream)
    assert "training_failed" not in made.kinds()
    found = [abs(r["target"] - r["prediction"]) for r in made.evaluations() if r["target"] != absurd]
    assert np.mean(found[500:]) < 1.1 * errors(clean, 520, 1200)


# The same log gives the same versions


def same(one: World, other: World) -> bool:
    return one.everything() == other.everything()


def sha256s(of: World) -> list[str]:
    return [row["sha256"] for row in of.models()]


@pytest.mark.parametrize("seed", range(2))
def test_the_same_log_gives_the_same_versions_however_it_is_cut_with_drift_and_tests(
    abrupt: World, tmp_path: Path, seed: int
) -> None:
    made = World(tmp_path, abrupt.source, SETTINGS, trainings=Child(), schema=SCHEMA, cuts=random_cuts(seed))
    made.run()
    assert sha256s(made) == sha256s(abrupt)
    assert same(made, abrupt)


def test_the_death_of_the_training_process_between_trainings_changes_no_byte(abrupt: World, tmp_path: Path) -> None:
    child = Child()
    made = World(tmp_path, abrupt.source, SETTINGS, trainings=child, schema=SCHEMA)
    turns = iter(range(10**9))
    made.run(between=lambda _: child.die() if next(turns) % 3 == 0 else None)
    assert child.deaths > 5
    assert sha256s(made) == sha256s(abrupt)
    assert same(made, abrupt)


def test_restarts_of_the_learner_change_no_byte(abrupt: World, tmp_path: Path) -> None:
    """Killed before or after any commit, in calm and in drift, with challengers in shadow and parents in waiting."""
    made, deaths = World(tmp_path, abrupt.source, SETTINGS, trainings=Child(), schema=SCHEMA), 0
    rng = np.random.default_rng(4)
    while True:
        setattr(made.store, str(rng.choice(["kill_before", "kill_after"])), made.store.commits + int(rng.integers(3, 30)))
        try:
            made.run()
        except Killed:
            deaths += 1
            made.trainings = Child()
            continue
        break
    assert deaths > 5
    assert sha256s(made) == sha256s(abrupt)
    assert made.promoted() == abrupt.promoted()
    assert made.evaluations() == abrupt.evaluations()
    assert made.state() == abrupt.state()
