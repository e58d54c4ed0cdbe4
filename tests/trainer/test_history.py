"""The story of the versions is told whole, in order, and once."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from correnteza import events
from correnteza.log.memory import MemoryStore
from correnteza.trainer.history import sentences, story
from correnteza.trainer.promotions import decision_rows, promotion_rows
from correnteza.trainer.registry import MODELS, ModelRow, Registry, model_rows

NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
EVIDENCE = {"rows": 240, "champion_mae": 655.0, "challenger_mae": 641.2}
KEY = b"k" * 32


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def model(version: int, seconds: float, parent: int | None = None) -> dict[str, Any]:
    return {"version": version, "parent": parent, "created_at": at(seconds), "reason": "10 s had passed", "rows": 3120}


def promotion(version: int, seconds: float, reason: str, pinned: bool = False, **more: Any) -> dict[str, Any]:
    return dict(promotion_rows(version, at(seconds), reason, pinned, **more).to_pylist()[0])


def decision(version: int, seconds: float, what: Any, reason: str, **evidence: float) -> dict[str, Any]:
    return dict(decision_rows(version, at(seconds), what, reason, evidence).to_pylist()[0])


def event(kind: str, seconds: float, reason: str) -> dict[str, Any]:
    return {"at": at(seconds), "service": "learner", "kind": kind, "reason": reason, "detail": "{}"}


def test_a_training_its_trial_and_its_end_are_one_sentence() -> None:
    found = sentences(
        [model(6, 0), model(7, 11, 6)],
        [
            promotion(6, 1, "it is the first", kind="first"),
            promotion(7, 20, "not worse by more than 2 %", kind="not_worse", previous=6, evidence=EVIDENCE),
        ],
        [
            decision(6, 1, "promoted", "it is the first"),
            decision(7, 20, "promoted", "not worse by more than 2 %", **EVIDENCE),
        ],
        [],
    )
    assert found == [
        "2026-03-01 12:00:00 version 6 was trained on 3,120 rows (10 s had passed) and was put into service: it is the first",
        "12:00:11 version 7 was trained on 3,120 rows (10 s had passed); it answered 240 records beside version 6 "
        "(MAE 641.2 against 655) and was put into service: not worse by more than 2 %",
    ]


def test_refused_superseded_and_undecided_versions_say_so() -> None:
    models = [model(version, version, 1) for version in (2, 3, 4)]
    numbers = {"rows": 180, "champion_mae": 650.0, "challenger_mae": 702.0}
    decisions = [decision(2, 5, "refused", "worse", **numbers), decision(3, 6, "superseded", "version 4 came")]
    refused, superseded, undecided = sentences(models, [], decisions, [])
    assert refused.endswith("; it answered 180 records beside version 1 (MAE 702 against 650) and was refused: worse")
    assert superseded.endswith("rows (10 s had passed) and was superseded: version 4 came")
    assert undecided.endswith("; it is not in service, and nothing is decided about it yet")


def test_what_people_do_and_what_is_rolled_back_are_sentences_of_their_own() -> None:
    numbers = {"rows": 180, "champion_mae": 650.0, "challenger_mae": 702.0}
    promotions = [
        promotion(2, 1, "better", kind="better", previous=1),
        promotion(1, 2, "it is better", kind="rollback", previous=2, evidence=numbers),
        promotion(2, 3, "promoted by hand", pinned=True, kind="by_hand", previous=1),
        promotion(3, 4, "unpinned by hand", kind="unpinned", previous=2),
        promotion(2, 5, "better again", kind="better", previous=3),
    ]
    decisions = [decision(2, 1, "promoted", "better"), decision(2, 2, "rolled_back", "it is better", **numbers)]
    found = sentences([model(2, 0)], promotions, decisions, [])
    assert [sentence.split(" ", 1)[1] for sentence in found[1:]] == [
        "version 2 was rolled back (MAE 702 against 650 over 180 records), version 1 is in service again: it is better",
        "version 2 was put into service by hand and pinned",
        "the pin was removed, and version 3 was put into service",
        "version 2 was put into service: better again",
    ]


def test_troubles_and_drifts_are_told_where_they_belong_and_other_events_are_not() -> None:
    happened = [
        event("training_failed", 5, "the memory was too small"),
        event("error_drift", 20, "the error has doubled"),
        event("rows_skipped", 21, "not about models"),
    ]
    found = sentences([model(1, 0), model(2, 10, 1)], [], [], happened)
    assert [sentence.split(" ", 1)[1][:25] for sentence in found[1:]] == [
        "a training failed: the me",
        "version 2 was trained on ",
        "error drift: the error ha",
    ]


def test_the_date_stands_where_the_day_begins() -> None:
    found = sentences([model(1, 0), model(2, 60), model(3, 86_400), model(4, 86_401)], [], [], [])
    assert [sentence.partition(" version")[0] for sentence in found] == [
        "2026-03-01 12:00:00",
        "12:01:00",
        "2026-03-02 12:00:00",
        "12:00:01",
    ]


def test_evidence_that_is_not_finite_is_told_without_the_numbers() -> None:
    row = decision(2, 5, "refused", "it answers nonsense", rows=3, champion_mae=1.0, challenger_mae=float("inf"))
    assert json.loads(row["evidence"]) == {"rows": 3, "champion_mae": 1.0, "challenger_mae": None}
    (found,) = sentences([model(2, 0, 1)], [], [row], [])
    assert found.endswith("; it answered 3 records beside version 1 and was refused: it answers nonsense")


def test_a_story_of_the_last_versions_leaves_out_what_was_before_them(tmp_path: Path) -> None:
    store = MemoryStore()
    registry = Registry(tmp_path, store, KEY)
    for version in (1, 2, 3):
        values: dict[str, Any] = {**model(version, 10 * version), "estimator": "x", "first_offset": 1, "last_offset": 9}
        row = ModelRow(**values, scaler_version=1, train_s=0.1, size_bytes=1, sha256="", evaluation={})
        store.log("models", MODELS).append(model_rows(row))
        rows = promotion_rows(version, at(10 * version + 1), "the newest version")
        store.log("promotions", rows.schema).append(rows)
    failed = pa.RecordBatch.from_pylist([event("training_failed", 40, "too slow")], schema=events.SCHEMA)
    store.log("events", events.SCHEMA).append(failed)
    assert len(story(store, registry, 9)) == 4
    last = story(store, registry, 2)
    assert [sentence.split(" was ")[0].split(" ", 2)[-1] for sentence in last[:1]] == ["version 2"]
    assert len(last) == 3
