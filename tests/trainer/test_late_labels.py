"""Laws of late labels in the whole learner: what is counted, what is learned, and when, over the ledger.

The world of these tests has records that come without their target, and outcomes in a log of their own.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from correnteza import config
from correnteza.log.memory import MemoryStore
from correnteza.records import ID
from correnteza.testing import read_all
from correnteza.trainer import evaluation
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.labels import LOG
from correnteza.trainer.learning import Learner
from correnteza.trainer.ledger import Ledger
from correnteza.trainer.upstream import columns

from .late import ANSWER, ROWS, Late, asked, played
from .test_prequential import stage_of
from .worlds import BY_ROWS, SCHEMA, WAYS, random_cuts, upstream_of

pytestmark = pytest.mark.usefixtures("tested_early")

BY_SECONDS = BY_ROWS.model_copy(update={"retrain_every_rows": None, "retrain_every_s": 1.0})


def answer_of(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ANSWER}


# Outcomes alone


@pytest.mark.parametrize("settings", [*WAYS.values(), BY_SECONDS], ids=[*WAYS, "seconds"])
def test_outcomes_alone_are_learned_from_and_a_training_falls_due(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], settings: config.Trainer
) -> None:
    """No record comes any more, so the offset in `normalized` stands still while outcomes come."""
    world = Late(tmp_path, open_store, settings)
    world.arrive(300)
    learner = world.go_on()
    assert (learner.labelled_rows, len(learner.window), world.models()) == (0, 0, [])
    assert learner.learned_rows == 300
    versions = []
    for last in range(25, 301, 25):
        world.clock += 2.0
        world.tell_and_go_on(truths, last - 24, last)
        assert learner.labelled_rows == last
        assert len(learner.window) == min(last, learner.window.capacity)
        versions.append(len(world.models()))
    assert versions[1] == 0
    assert versions[2] >= 1
    assert versions[-1] >= 3
    assert learner.learned_rows == 300
    assert learner.window._targets[learner.window._places(25)].tolist() == truths[275:300]


# What is counted


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_the_error_that_counts_is_that_of_the_answer_at_arrival(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], way: str, restarted: bool
) -> None:
    """Not of the version in service when the label comes, with and without a restart in between."""
    world = Late(tmp_path, open_store, WAYS[way])
    world.arrive(300)
    world.go_on()
    world.tell_and_go_on(truths, 1, 100)
    world.arrive(100)
    world.go_on()
    at_arrival = world.promoted()[-1]
    world.tell_and_go_on(truths, 101, 300)
    assert world.promoted()[-1] > at_arrival
    if restarted:
        world.restart()
    answers = world.answers()
    world.tell_and_go_on(truths, 301, 400)
    rows = {row["normalized_offset"]: row for row in world.joined() if row["normalized_offset"] > 300}
    assert sorted(rows) == list(range(301, 401))
    assert {row["model_version"] for row in rows.values()} == {at_arrival}
    assert {offset: answer_of(row) for offset, row in rows.items()} == {offset: answers[offset] for offset in rows}
    assert {offset: row["target"] for offset, row in rows.items()} == {o: truths[o - 1] for o in rows}


@pytest.mark.parametrize("step", [7, 40])
def test_a_restart_remembers_every_answer_within_the_horizon(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], step: int
) -> None:
    """Also where labels are nearly as late as the horizon, and the log has their evaluations between the answers."""
    settings = BY_ROWS.model_copy(update={"label_horizon_rows": 150, "window_rows": 100})
    world, delay = Late(tmp_path, open_store, settings), 100
    world.arrive(delay)
    for last in range(step, ROWS - delay, step):
        world.arrive(step)
        world.tell_and_go_on(truths, last - step + 1, last)
        world.restart()
    answers, rows = world.answers(), world.joined()
    assert len(world.promoted()) >= 4
    assert len(rows) > 200
    late = [row for row in rows if row["normalized_offset"] in answers]
    assert len(late) > 150
    assert [answer_of(row) for row in late] == [answers[row["normalized_offset"]] for row in late]
    assert world.ledger.figures["effects"] == {"joined": last}


def test_the_error_of_a_prediction_is_that_of_the_answer_that_its_client_got(
    tmp_path: Path, open_store: MemoryStore, truths: list[float]
) -> None:
    world = Late(tmp_path, open_store)
    world.arrive(200)
    world.go_on()
    rows = [asked("p1", 1, 300.0, {"size": 90.0}), asked("p2", 1, 310.0, {})]
    world.predictions.append(pa.RecordBatch.from_pylist(rows, schema=PREDICTIONS))
    world.tell_and_go_on(truths, 1, 200)
    assert world.promoted()[-1] > 1
    world.restart()
    world.tell({"p2": 320.0, "p1": 290.0})
    world.go_on()
    found = {row[ID]: row for row in world.joined() if row[ID] in ("p1", "p2")}
    shown = ("model_version", "prediction", "lower", "upper", "target", "normalized_offset", "delay_s")
    assert [found["p1"][name] for name in shown] == [1, 300.0, 295.0, 305.0, 290.0, None, 10.0]
    assert [found["p2"][name] for name in shown] == [1, 310.0, 305.0, 315.0, 320.0, None, 10.0]


@pytest.mark.parametrize("every", [1, 3])
def test_a_corrected_label_restates_the_evaluation(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], every: int
) -> None:
    """The same answers are measured at the new targets, and those alone count; also where only some rows are scored."""
    world = Late(tmp_path, open_store, BY_ROWS.model_copy(update={"evaluate_every": every}))
    world.arrive(100)
    world.tell_and_go_on(truths, 1, 100)
    world.arrive(150)
    world.go_on()
    world.tell({f"r{offset - 1}": truths[offset - 1] + 1e4 for offset in range(101, 251)})
    world.go_on()
    wrong = metrics_of(world)
    world.arrive(50)
    world.restart()
    world.tell_and_go_on(truths, 101, 250)
    rows = [row for row in world.joined() if row["normalized_offset"] > 100]
    first, second = [row for row in rows if row["replaces"] is None], [row for row in rows if row["replaces"] is not None]
    assert [answer_of(row) for row in second] == [answer_of(row) for row in first]
    assert [row["replaces"] for row in second] == [row["label_offset"] for row in first]
    assert [row["target"] for row in second] == [truths[row["normalized_offset"] - 1] for row in second]
    assert [row["normalized_offset"] for row in first] == [offset for offset in range(101, 251) if offset % every == 0]
    restated = metrics_of(world)
    errors = [abs(row["prediction"] - row["target"]) for row in second]
    assert restated.rows == wrong.rows == len(second)
    assert restated.mae == pytest.approx(np.mean(errors))
    assert restated.mae < 1000 < wrong.mae


def metrics_of(world: Late) -> evaluation.Metrics:
    """Of all answers to records behind the hundredth."""
    rows = evaluation.last_rows(world.store.log("evaluations", EVALUATIONS), 10_000)
    found = evaluation.metrics(rows.filter(pa.array((row or 0) > 100 for row in rows["normalized_offset"].to_pylist())))
    assert found is not None
    return found


def test_a_record_that_nobody_answered_is_learned_from_and_not_counted(
    tmp_path: Path, open_store: MemoryStore, truths: list[float]
) -> None:
    """It came before the first version, or its label did: a correction would else be answered by what learned from it."""
    world = Late(tmp_path, open_store)
    world.arrive(200)
    world.go_on()
    world.tell_and_go_on(truths, 1, 150)
    world.tell({f"r{offset - 1}": truths[offset - 1] + 1.0 for offset in range(1, 151)})
    learner = world.go_on()
    assert len(world.models()) >= 3
    assert learner.labelled_rows == 300
    assert world.joined() == []


def test_rows_without_any_label_are_not_counted(tmp_path: Path, open_store: MemoryStore, truths: list[float]) -> None:
    """Of two records one never gets its label: it is answered, and neither scored nor learned from; then it is given up."""
    world = Late(tmp_path, open_store, BY_ROWS.model_copy(update={"label_horizon_rows": 200}))
    world.arrive(200)
    world.tell_and_go_on(truths, 1, 100)
    world.arrive(200)
    world.go_on()
    world.tell({f"r{offset - 1}": truths[offset - 1] for offset in range(202, 401, 2)})
    learner = world.go_on()
    assert learner.labelled_rows == 200
    assert metrics_of(world).rows == 100
    assert set(range(201, 401)) <= set(world.answers())
    assert world.ledger.figures["open"] == 100
    assert world.ledger.figures["open_share"] == 0.5
    assert world.ledger.figures["effects"] == {"joined": 200, "expired": 100}
    world.arrive(200)
    world.go_on()
    world.tell({"r200": 1.0})
    world.go_on()
    assert metrics_of(world).rows == 100
    assert world.ledger.figures["effects"] == {"joined": 200, "expired": 200, "late": 1}


# What is learned


def test_the_example_of_a_record_has_the_features_that_the_record_had(
    tmp_path: Path, open_store: MemoryStore, truths: list[float]
) -> None:
    """In the scaler version that the record was normalized with, not in that of the records that came since."""
    world = Late(tmp_path, open_store)
    world.arrive(400)
    world.go_on()
    learner = world.tell_and_go_on(truths, 11, 110)
    window, rows = learner.window, world.rows.slice(10, 100)
    order = window._places(100)
    expected = columns(rows, SCHEMA.features)
    np.testing.assert_array_equal(window._features[order], expected)
    assert window._versions[order].tolist() == rows["scaler_version"].to_pylist()
    assert len(set(window._versions[order].tolist())) > 1
    assert window._targets[order].tolist() == truths[10:110]


def test_the_example_of_a_prediction_has_the_features_that_were_asked(tmp_path: Path, open_store: MemoryStore) -> None:
    world = Late(tmp_path, open_store)
    world.arrive(400)
    world.go_on()
    record = {"size": 123.5, "rooms": 4, "kind": "k1"}
    rows = [asked("p1", 1, 300.0, record), asked("p2", 1, 310.0, {"kind": "never seen"})]
    world.predictions.append(pa.RecordBatch.from_pylist(rows, schema=PREDICTIONS))
    world.tell({"p1": 290.0, "p2": 320.0})
    learner = world.go_on()
    window = learner.window
    order, upstream = window._places(2), upstream_of(world.source)
    upstream.read(None, 10_000)
    scaler = upstream.scalers.versions[int(window._versions[order[0]])]
    features = window._features[order]
    np.testing.assert_allclose(scaler.restore(features[:, :2].copy()), [[123.5, 4.0], [np.nan, np.nan]])
    codes = upstream.codes(400)["kind"]
    assert features[:, 2].tolist() == [codes.index("k1") + 1, 0.0]
    assert window._targets[order].tolist() == [290.0, 320.0]


# Cuts, kills and restarts


@pytest.fixture(scope="module", params=WAYS)
def steady(
    request: pytest.FixtureRequest,
    open_store: MemoryStore,
    truths: list[float],
    tmp_path_factory: pytest.TempPathFactory,
    tested_early: None,
) -> Late:
    """A world that nobody disturbs."""
    return played(Late(tmp_path_factory.mktemp("steady"), open_store, WAYS[str(request.param)]), truths)


class Restless(Late):
    """A world whose learner starts anew each time that more has come."""

    def go_on(self) -> Learner:
        self.restart()
        return super().go_on()


def test_restarts_change_no_row(tmp_path: Path, open_store: MemoryStore, truths: list[float], steady: Late) -> None:
    world = played(Restless(tmp_path, open_store, steady.settings), truths)
    assert len(world.models()) >= 4
    assert world.everything() == steady.everything()


@pytest.mark.parametrize("when", ["kill_before", "kill_after"])
def test_kills_change_no_row(tmp_path: Path, open_store: MemoryStore, truths: list[float], steady: Late, when: str) -> None:
    """Of evaluations, labels, versions and decisions, at several commits of one life."""
    for commit in (3, 20, 33, 47):
        world = Late(tmp_path / str(commit), open_store, steady.settings)
        setattr(world.store, when, commit)
        played(world, truths)
        assert world.store.commits > commit
        assert world.everything() == steady.everything()


@pytest.mark.parametrize("seed", range(3))
def test_however_the_logs_are_cut_each_outcome_counts_once_and_by_the_answer_at_arrival(
    tmp_path: Path, open_store: MemoryStore, truths: list[float], seed: int
) -> None:
    """What falls between what is decided by the reads; what becomes of it is not."""
    world = played(Restless(tmp_path, open_store, cuts=random_cuts(seed)), truths)
    taken, rows, answers = read_all(world.labels), world.joined(), world.answers()
    learned = {row["label_offset"]: row for row in taken if row["effect"] in ("joined", "corrected")}
    assert Counter(row["label_offset"] for row in rows).most_common(1)[0][1] == 1
    answered = {o for o, row in learned.items() if row["of_offset"] in answers or row["prediction_offset"] is not None}
    begun = min(answers)
    assert {row["label_offset"] for row in rows} <= answered
    assert {o for o in answered if learned[o]["read_offset"] >= begun} <= {row["label_offset"] for row in rows}
    assert len(rows) > 300
    for row in rows:
        if row["normalized_offset"] is not None:
            assert answer_of(row) == answers[row["normalized_offset"]]


def test_the_stage_gives_the_same_evaluations_and_labels_for_any_cuts_and_restarts(
    upstream_store: MemoryStore, open_store: MemoryStore, truths: list[float], tmp_path: Path
) -> None:
    """Also where a record and its outcome are in one batch here, and in two there."""
    world = Late(tmp_path, open_store)
    stream = interleaved(world, truths)
    whole = stepped(open_store, stream, [])
    assert whole[0].num_rows > 400
    assert whole[0]["replaces"].null_count < whole[0].num_rows
    rng = np.random.default_rng(3)
    edges = [list(range(1, stream.num_rows)), *(sorted(rng.integers(1, stream.num_rows, 30).tolist()) for _ in range(3))]
    for cuts in edges:
        found = stepped(open_store, stream, cuts)
        assert found[0].to_pylist() == whole[0].to_pylist()
        assert found[1:] == whole[1:]


def world_ledger(world: Late) -> Ledger:
    """A ledger alone, which is never restarted."""
    upstream = upstream_of(world.source)
    return Ledger(upstream, world.outcomes, world.predictions, world.labels, SCHEMA, world.told, 100, lambda: 1.0)


def interleaved(world: Late, truths: list[float]) -> pa.RecordBatch:
    """Rows of a ledger, with outcomes close behind their records, and corrections."""
    parts: list[pa.RecordBatch] = []
    position, ledger = None, world_ledger(world)
    for done in range(0, 400, 8):
        world.arrive(8)
        world.tell({f"r{i}": truths[i] for i in range(done, done + 8, 2)})
        world.tell({f"r{i}": truths[i] + 1 for i in range(max(0, done - 16), done, 6)})
        part = ledger.read(position, 1000)
        parts.append(part.batch)
        position = part.next
    return pa.concat_batches(parts)


def stepped(store: MemoryStore, stream: pa.RecordBatch, cuts: list[int]) -> tuple[pa.RecordBatch, list[Any], bytes]:
    """Evaluations, labels and last state of the stage; at every cut it is a new one that knows what was committed."""
    made: list[pa.RecordBatch] = []
    labels: list[Any] = []
    blob = b""
    for start, stop in pairwise(sorted({0, *cuts, stream.num_rows})):
        stage = stage_of(store, 1)
        if made:
            stage.opened.restore(pa.concat_batches(made))
            stage.counted.restore(pa.concat_batches(made))
        step = stage.step(stage.load(blob) if blob else stage.initial(), stream.slice(start, stop - start))
        blob = stage.dump(step.state)
        made += [step.outputs["evaluations"]] if "evaluations" in step.outputs else []
        labels += step.outputs[LOG].to_pylist() if LOG in step.outputs else []
    return pa.concat_batches(made), labels, blob


def test_what_nobody_answered_is_tested_on_once_and_its_correction_is_not(
    tmp_path: Path, open_store: MemoryStore, truths: list[float]
) -> None:
    """Versions in service and in shadow have not learned from the first label, but may have by its correction."""
    world, stage = Late(tmp_path, open_store), stage_of(open_store, 1)
    world.arrive(20)
    ledger = world_ledger(world)
    arrived = ledger.read(None, 1000)
    scorer, stage.scorer = stage.scorer, None
    state = stage.step(stage.initial(), arrived.batch).state
    stage.scorer, position, tested = scorer, arrived.next, []
    for error in (0.0, 1.0):
        world.tell({f"r{i}": truths[i] + error for i in range(20)})
        part = ledger.read(position, 1000)
        step = stage.step(state, part.batch)
        state, position = step.state, part.next
        assert "evaluations" not in step.outputs or not step.outputs["evaluations"].num_rows
        assert state.trial is not None
        tested.append((state.trial.duel.plain(), state.scores))
    assert state.rows == 40
    assert tested[0][0]["rows"] > 0
    assert tested[1] == tested[0]
