"""Laws of the whole loop where the world changes: it adapts, it is never hurt, and the same log gives the same versions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from correnteza import config
from correnteza.errors import TrainingFailedError
from correnteza.features import Floats
from correnteza.records import Field, Schema
from correnteza.testing import read_all
from correnteza.trainer import prequential, training
from correnteza.trainer.forest import Memo, Mixture
from correnteza.trainer.process import TrainingProcess
from correnteza.trainer.promotions import DECISIONS
from correnteza.trainer.state import Change
from correnteza.trainer.training import Job, Trained, fit

from .worlds import Killed, Trainings, World, normalized, random_cuts

SCHEMA = Schema((Field("u", "float"), Field("v", "float"), Field("kind", "category")), "y")
SETTINGS = config.Trainer(
    params={"n_estimators": 10, "min_samples_leaf": 5}, window_rows=1500, min_rows=20, retrain_every_rows=75, batch_rows=500
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
            raise TrainingFailedError(killed)
        self._memo = Memo() if self._memo is None else self._memo
        with pytest.MonkeyPatch.context() as patch:
            if self.spoiling is not None:
                fitted = training._fitted
                patch.setattr(training, "_fitted", lambda job, memo: self._spoilt(job, fitted(job, memo)))
            return fit(self.jobs[-1], self._memo)

    def _spoilt(self, job: Job, mixture: Mixture) -> Mixture:
        assert self.spoiling is not None
        return self.spoiling(job, mixture)


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
    return run(tmp_path_factory.mktemp("abrupt"), records(2500, switching(1500)))


# Drift


def test_an_abrupt_drift_is_found_answered_and_forgotten(abrupt: World) -> None:
    told = [row for row in read_all(abrupt.store.logs()["events"]) if row["kind"] == "error_drift"]
    assert told
    assert [row["reason"] for row in abrupt.models()].count("the error had risen") >= 1
    before = errors(abrupt, 1000, 1500)
    assert errors(abrupt, 1500, 1550) > 3 * before
    assert errors(abrupt, 1800, 2200) < 1.5 * before
    assert errors(abrupt, 2200, 2500) < 1.2 * before


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> World:
    return run(tmp_path_factory.mktemp("calm"), records(1200, lambda i, x: steps(x)))


def test_a_stream_without_drift_is_learned_ever_better(calm: World) -> None:
    assert errors(calm, 800, 1200) < errors(calm, 20, 200)


@pytest.mark.parametrize("at", [400, 1300])
def test_a_false_alarm_costs_nearly_nothing(tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = records(at + 400, lambda i, x: steps(x))
    calm = run(tmp_path / "calm", stream)
    step = prequential.LearnerStage.step

    def alarmed(self: Any, state: Any, batch: Any) -> Any:
        made = step(self, state, batch)
        past = state.rows < at <= made.state.rows
        return replace(made, state=replace(made.state, change=Change(at, at - 30))) if past else made

    monkeypatch.setattr(prequential.LearnerStage, "step", alarmed)
    nervous = run(tmp_path / "nervous", stream)
    assert [row["reason"] for row in nervous.models()].count("the error had risen") == 1
    assert errors(nervous, at, at + 400) < 1.05 * errors(calm, at, at + 400)


def test_a_world_that_comes_back_is_learned_again_at_least_as_soon(tmp_path: Path) -> None:
    made = run(tmp_path, records(2200, switching(900, 1800)))
    news, again = errors(made, 900, 1300), errors(made, 1800, 2200)
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
    return next(int(row["version"]) for row in decisions(of) if "rows" in str(row["evidence"]))


def test_a_worse_challenger_never_comes_into_service_and_is_refused_with_numbers(abrupt: World, tmp_path: Path) -> None:
    bad = first_tested(abrupt)
    made = run(tmp_path, records(2500, switching(1500)), Child(spoiling(bad)))
    assert bad not in {row["model_version"] for row in made.evaluations()}
    assert bad not in made.promoted()
    (decision,) = [row for row in decisions(made) if row["version"] == bad]
    assert decision["decision"] == "refused"
    assert decision["reason"].startswith("worse by more than")
    assert '"rows"' in decision["evidence"]
    assert "training_failed" not in made.kinds()
    assert any(row["version"] > bad for row in decisions(made) if row["decision"] == "promoted")


def test_a_worse_version_that_came_into_service_at_once_is_rolled_back_to_its_parent(tmp_path: Path) -> None:
    """The young are not tested; the next ones are made from the parent, and are good again."""
    stream = records(900, lambda i, x: steps(x))
    made = run(tmp_path / "bad", stream, Child(spoiling(3)), retrain_every_rows=150)
    assert made.promoted()[:4] == [1, 2, 3, 2]
    assert ("rolled_back", 3) in [(row["decision"], row["version"]) for row in decisions(made)]
    assert "model_rolled_back" in made.kinds()
    assert "training_failed" not in made.kinds()
    assert made.promoted()[-1] > 3
    assert errors(made, 600, 900) < 1.1 * errors(run(tmp_path / "good", stream, retrain_every_rows=150), 600, 900)


def test_a_restart_does_not_save_a_version_that_is_worse_than_its_parent(tmp_path: Path) -> None:
    made = world(tmp_path, records(700, lambda i, x: steps(x)), Child(spoiling(3)), retrain_every_rows=150)

    def killed(_: Any) -> None:
        if made.promoted()[-1] == 3:
            raise Killed

    with pytest.raises(Killed):
        made.run(between=killed)
    made.trainings = Child()
    made.run()
    assert made.promoted()[:4] == [1, 2, 3, 2]


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


def held(rows: list[dict[str, Any]]) -> float:
    """The share of the targets that lay within their interval."""
    return float(np.mean([row["lower"] <= row["target"] <= row["upper"] for row in rows if row["lower"] is not None]))


@pytest.mark.parametrize(
    "absurd", [lambda y: 1e6 * y, lambda y: 1e9, lambda y: -1e300], ids=["a million times", "1e9", "-1e300"]
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_absurd_target_in_a_hundred_does_not_hurt_the_others(
    calm: World, tmp_path: Path, absurd: Callable[[float], float]
) -> None:
    """Neither their error nor their intervals; nor is it taken for a drift, nor does it decide what comes into service."""
    stream = records(1200, lambda i, x: steps(x))
    soiled = [absurd(value) if i % 100 == 42 else value for i, value in enumerate(stream["y"].to_pylist())]
    made = run(tmp_path, stream.set_column(stream.schema.get_field_index("y"), stream.schema.field("y"), pa.array(soiled)))
    assert not {"training_failed", "error_drift", "target_drift"} & {*made.kinds()}
    clean, before = ([r for r in of.evaluations() if r["normalized_offset"] % 100 != 43] for of in (made, calm))
    for first in (0, 500):
        error, expected = (np.mean([abs(r["target"] - r["prediction"]) for r in of[first:]]) for of in (clean, before))
        assert error < 1.1 * expected
    assert abs(held(clean) - held(before)) < 0.02
    refused, usual = (sum(row["decision"] == "refused" for row in decisions(of)) for of in (made, calm))
    assert refused <= usual + 1


# The same log gives the same versions


def sha256s(of: World) -> list[str]:
    return [row["sha256"] for row in of.models()]


@pytest.mark.parametrize("seed", range(2))
def test_the_same_log_gives_the_same_versions_however_it_is_cut_with_drift_and_tests(
    abrupt: World, tmp_path: Path, seed: int
) -> None:
    made = World(tmp_path, abrupt.source, SETTINGS, trainings=Child(), schema=SCHEMA, cuts=random_cuts(seed))
    made.run()
    assert sha256s(made) == sha256s(abrupt)
    assert made.everything() == abrupt.everything()


def test_the_same_log_gives_the_same_versions_however_it_is_cut_when_nothing_is_tested(tmp_path: Path) -> None:
    stream = records(800, switching(500))
    whole, cut = (world(tmp_path / name, stream, promotion="newest") for name in ("whole", "cut"))
    cut.cuts = random_cuts(2)
    whole.run()
    cut.run()
    assert "error_drift" in whole.kinds()
    assert cut.everything() == whole.everything()


def test_the_same_log_gives_the_same_versions_however_it_is_cut_when_they_come_as_they_are_worth_it(tmp_path: Path) -> None:
    stream = records(100, switching(60))
    whole, cut = (world(tmp_path / name, stream, retrain_every_rows="auto") for name in ("whole", "cut"))
    cut.cuts = random_cuts(3)
    whole.run()
    cut.run()
    assert len(sha256s(whole)) > 10
    assert cut.everything() == whole.everything()


def test_the_death_of_the_training_process_between_trainings_changes_no_byte(abrupt: World, tmp_path: Path) -> None:
    child = Child()
    made = World(tmp_path, abrupt.source, SETTINGS, trainings=child, schema=SCHEMA)
    turns = count()
    made.run(between=lambda _: child.die() if next(turns) % 3 == 0 else None)
    assert child.deaths > 5
    assert sha256s(made) == sha256s(abrupt)
    assert made.everything() == abrupt.everything()


def test_a_training_process_that_is_really_killed_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    source = normalized(records(250, lambda i, x: steps(x)), SCHEMA)
    expected = World(tmp_path / "undisturbed", source, SETTINGS, trainings=Child(), schema=SCHEMA)
    expected.run()
    process = TrainingProcess(nice=0)
    killed: list[int] = []

    def kill(_: Any) -> None:
        if process.pid is not None and not killed:
            killed.append(process.pid)
            child = psutil.Process(process.pid)
            child.kill()
            psutil.wait_procs([child])

    made = World(tmp_path / "killed", source, SETTINGS, trainings=process, schema=SCHEMA)  # type: ignore[arg-type]
    try:
        made.run(between=kill)
        assert process.pid not in {None, *killed}
    finally:
        process.close()
    assert sha256s(made) == sha256s(expected)
    assert made.everything() == expected.everything()


@pytest.fixture(scope="module")
def restarted(abrupt: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Killed before or after any commit, in calm and in drift, with challengers in shadow and parents in waiting."""
    made = World(tmp_path_factory.mktemp("restarted"), abrupt.source, SETTINGS, trainings=Child(), schema=SCHEMA)
    rng, deaths = np.random.default_rng(4), 0
    while True:
        setattr(made.store, str(rng.choice(["kill_before", "kill_after"])), made.store.commits + int(rng.integers(3, 20)))
        try:
            made.run()
        except Killed:
            deaths += 1
            made.trainings = Child()
            continue
        assert deaths > 5
        return made


def test_restarts_of_the_learner_change_no_version_and_no_evaluation(abrupt: World, restarted: World) -> None:
    assert sha256s(restarted) == sha256s(abrupt)
    assert restarted.promoted() == abrupt.promoted()
    assert restarted.evaluations() == abrupt.evaluations()


def test_restarts_of_the_learner_change_nothing_in_its_state(abrupt: World, restarted: World) -> None:
    assert restarted.state() == abrupt.state()


def test_a_version_that_was_refused_while_its_descendant_was_being_made_has_no_descendant(tmp_path: Path) -> None:
    """Somebody asks for a training while a version is on trial; the version is refused before the training ends."""
    child = Child(lambda job, mixture: upside_down(mixture) if job.recipe is not None and job.recipe.at > 1000 else mixture)
    settings = {"retrain_every_s": 150.0, "retrain_every_rows": None, "batch_rows": 5}
    made = world(tmp_path, records(1300, lambda i, x: steps(x)), child, **settings)
    asked: list[int] = []

    def between(state: Any) -> None:
        made.clock += 5.0
        if state.trial is not None and state.trial.duel.verdict is None and not asked:
            asked.append(state.trial.version)
            made.ask_for_a_training()
            child.hold = True
        if asked and (asked[0], "refused") in [(row["version"], row["decision"]) for row in decisions(made)]:
            child.hold = False

    made.run(between=between)
    assert (asked[0], "refused") in [(row["version"], row["decision"]) for row in decisions(made)]
    registered = {row["version"] for row in made.models()}
    refused = next(job for job in child.jobs if job.version == asked[0])
    for job in child.jobs:
        if job.version > asked[0] and job.version in registered:
            assert max(lasts(refused)) not in lasts(job)


def lasts(job: Job) -> set[int]:
    assert job.recipe is not None
    return {cohort.last for expert in job.recipe.experts for cohort in expert.cohorts}
