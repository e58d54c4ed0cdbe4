"""Laws of what the learner writes down: one commit for all that belongs together, and pins that stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from correnteza import events
from correnteza.errors import FencedError
from correnteza.events import Event, Events
from correnteza.testing import read_all
from correnteza.trainer.books import Books, Progress
from correnteza.trainer.judging import Ruling
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS
from correnteza.trainer.registry import MODELS, Meta, Registry
from correnteza.trainer.training import Trained

from .worlds import Killed, Mortal

YES = Ruling(True, "not_worse", "not worse", {"rows": 40})
NO = Ruling(False, None, "worse", {"rows": 50, "champion_mae": 1.0, "challenger_mae": 2.0})
BACK = Ruling(False, "rollback", "version 2 was worse", {"rows": 60})
TRAINED = Trained(b"model", b"", 0.1)
META = Meta(
    parent=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    reason="",
    decision="",
    estimator="sklearn.linear_model.Ridge",
    params={},
    seed=1,
    rows=1,
    first_offset=1,
    last_offset=1,
    scaler_version=1,
    schema_sha256="",
    evaluation={},
)


class Meddling(Mortal):
    """A store in which somebody gets in between before one of the commits."""

    def __init__(self) -> None:
        super().__init__()
        self.meddle: Any = None

    def commit(self, *arguments: Any) -> Any:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return super().commit(*arguments)


class Office:
    """Books over a store in memory."""

    def __init__(self, folder: Path) -> None:
        self.store = Meddling()
        self.registry = Registry(folder, self.store, b"k" * 32)
        self.told = Events("learner", self.store.log("events", events.SCHEMA))
        self.books = self.opened()

    def opened(self) -> Books:
        books = Books(self.store, self.registry, self.told)
        books.claim()
        return books

    def add(self, ruling: Ruling | None, challenger: int | None = None, progress: Progress | None = None) -> str:
        version = self.registry.next_version()
        return self.books.register(version, TRAINED, META, ruling, challenger, progress or Progress(10 * version))

    def rows(self, name: str, schema: pa.Schema) -> list[dict[str, Any]]:
        return read_all(self.store.log(name, schema))

    def decisions(self) -> list[tuple[int, str]]:
        return [(row["version"], row["decision"]) for row in self.rows("decisions", DECISIONS)]

    def promotions(self) -> list[tuple[int, str, int | None]]:
        return [(row["version"], row["kind"], row["previous"]) for row in self.rows("promotions", PROMOTIONS)]

    def current(self) -> tuple[int, bool]:
        current = self.registry.current()
        assert current is not None
        return current.version, current.pinned

    def kinds(self) -> list[str]:
        return [row["kind"] for row in self.rows("events", events.SCHEMA)]


@pytest.fixture
def office(tmp_path: Path) -> Office:
    made = Office(tmp_path / "models")
    made.add(Ruling(True, "first", "the first version", {}))
    return made


# What becomes of a version


def test_the_first_version_is_promoted_and_has_none_before_it(office: Office) -> None:
    assert office.promotions() == [(1, "first", None)]
    assert office.decisions() == [(1, "promoted")]
    assert office.kinds() == ["model_version"]


def test_a_version_in_shadow_is_neither_promoted_nor_decided_about(office: Office) -> None:
    assert office.add(None) == "shadow"
    assert office.current() == (1, False)
    assert office.decisions() == [(1, "promoted")]
    assert office.kinds()[-1] == "model_challenger"


def test_a_challenger_that_has_proved_itself_is_decided_about_and_promoted_with_the_numbers(office: Office) -> None:
    office.add(None)
    office.books.decide(2, 1, YES)
    assert office.promotions()[-1] == (2, "not_worse", 1)
    assert office.decisions()[-1] == (2, "promoted")
    assert json.loads(office.rows("promotions", PROMOTIONS)[-1]["evidence"]) == {"rows": 40}


def test_a_challenger_that_is_refused_stays_out_of_service_and_the_numbers_are_kept(office: Office) -> None:
    office.add(None)
    office.books.decide(2, 1, NO)
    assert office.current() == (1, False)
    assert office.decisions()[-1] == (2, "refused")
    assert json.loads(office.rows("decisions", DECISIONS)[-1]["evidence"]) == NO.evidence
    assert office.kinds()[-1] == "model_not_promoted"


def test_a_newer_version_supersedes_the_challenger(office: Office) -> None:
    office.add(None)
    assert office.add(None, challenger=2) == "shadow"
    assert office.decisions()[-1] == (2, "superseded")
    assert office.add(YES, challenger=3) == "promoted"
    assert office.decisions()[-2:] == [(3, "superseded"), (4, "promoted")]


def test_a_rollback_puts_the_parent_back_and_says_so_of_both(office: Office) -> None:
    office.add(YES)
    office.books.roll_back(2, 1, BACK)
    assert office.promotions()[-1] == (1, "rollback", 2)
    assert office.decisions()[-1] == (2, "rolled_back")
    assert office.kinds()[-1] == "model_rolled_back"


def test_what_the_training_warned_of_is_told_with_the_version(office: Office) -> None:
    office.books.register(2, Trained(b"model", b"", 0.1, ("UserWarning: mind the gap",)), META, None, None, Progress(9))
    assert office.kinds()[-2:] == ["model_challenger", "training_warned"]


# One commit


@pytest.mark.parametrize("ruling", [None, YES])
def test_a_kill_before_the_commit_leaves_nothing_and_one_after_it_leaves_everything(
    office: Office, ruling: Ruling | None
) -> None:
    before = office.store.commits
    office.store.kill_before = before + 1
    with pytest.raises(Killed):
        office.add(ruling)
    assert (len(office.rows("models", MODELS)), office.decisions(), office.kinds()) == (1, [(1, "promoted")], ["model_version"])
    assert office.opened().progress == Progress(10)
    office.books = office.opened()
    office.registry.recover()
    office.store.kill_after = office.store.commits + 1
    with pytest.raises(Killed):
        office.add(ruling)
    assert len(office.rows("models", MODELS)) == 2
    assert len(office.decisions()) == len(office.promotions()) == (1 if ruling is None else 2)
    assert office.opened().progress == Progress(20)


@pytest.mark.parametrize("what", ["decide", "roll_back"])
def test_a_decision_and_its_promotion_are_one_commit(office: Office, what: str) -> None:
    office.add(YES if what == "roll_back" else None)
    before = len(office.decisions()), len(office.promotions()), len(office.kinds())
    office.store.kill_before = office.store.commits + 1
    with pytest.raises(Killed):
        office.books.decide(2, 1, YES) if what == "decide" else office.books.roll_back(2, 1, BACK)
    assert (len(office.decisions()), len(office.promotions()), len(office.kinds())) == before
    commits = office.store.commits
    office.books.decide(2, 1, YES) if what == "decide" else office.books.roll_back(2, 1, BACK)
    assert office.store.commits == commits + 1
    assert (len(office.decisions()), len(office.promotions())) == (before[0] + 1, before[1] + 1)


def test_a_decision_is_no_progress_of_trainings(office: Office) -> None:
    office.add(None, progress=Progress(70, 2, 30))
    office.books.decide(2, 1, YES)
    assert office.books.progress == office.opened().progress == Progress(70, 2, 30)


def test_who_has_been_replaced_writes_nothing(office: Office) -> None:
    replaced = office.books
    office.opened()
    with pytest.raises(FencedError):
        replaced.commit({}, [Event("training_failed", "", {})], Progress(99))
    assert office.kinds() == ["model_version"]
    assert replaced.progress == Progress(10)


def test_the_first_claim_of_all_begins_with_nothing_done(tmp_path: Path) -> None:
    assert Office(tmp_path / "models").books.progress == Progress(0, 0, 0)


# Pins


def test_while_a_version_is_pinned_no_other_goes_into_service(office: Office) -> None:
    office.registry.promote(1, "because", pinned=True)
    assert office.books.pinned() == 1
    assert office.add(YES) == "not_promoted"
    assert office.current() == (1, True)
    assert office.decisions()[-1][1] == "held"
    assert "version 1 is pinned" in office.rows("decisions", DECISIONS)[-1]["reason"]


@pytest.mark.parametrize("what", ["register", "decide", "roll_back"])
def test_a_pin_that_is_made_while_another_version_is_on_its_way_into_service_wins(office: Office, what: str) -> None:
    if what != "register":
        office.add(YES if what == "roll_back" else None)
    pinned = 2 if what == "roll_back" else 1
    office.store.meddle = lambda: office.registry.promote(pinned, "because", pinned=True)
    into_service: dict[str, Callable[[], object]] = {
        "register": lambda: office.add(YES),
        "decide": lambda: office.books.decide(2, 1, YES),
        "roll_back": lambda: office.books.roll_back(2, 1, BACK),
    }
    into_service[what]()
    assert office.current() == (pinned, True)


def test_a_pin_that_was_taken_away_again_in_between_does_not_win(office: Office) -> None:
    def meddle() -> None:
        office.registry.promote(1, "because", pinned=True)
        office.registry.promote(1, "no more", pinned=False)

    office.store.meddle = meddle
    office.add(YES)
    assert office.current() == (2, False)


def test_after_the_pin_was_taken_away_versions_go_into_service_again(office: Office) -> None:
    office.registry.promote(1, "because", pinned=True)
    office.registry.promote(1, "no more", pinned=False)
    assert office.books.pinned() is None
    assert office.add(YES) == "promoted"
    assert office.promotions()[-1] == (2, "not_worse", 1)
