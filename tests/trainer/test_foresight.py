"""Laws of looking ahead: it changes nothing but the time, and nothing that it made is made again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from correnteza import offline
from correnteza.config import Normalizer, SchemaTable, Settings
from correnteza.trainer.growing import Grower
from correnteza.trainer.training import Trained, fit

from . import worlds
from .worlds import SCHEMA, Trainings, raw

ROWS = 900
TURN = 600
"""The row behind which the world is another one."""


class Ahead(Trainings):
    """Counts the trees of the versions by when they were grown: for a version that is due, or ahead of one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def prepare(self) -> None: ...

    def close(self) -> None: ...


TABLE = SchemaTable.model_validate({"target": SCHEMA.target, "fields": {field.name: field.kind for field in SCHEMA.fields}})
SETTINGS = Settings().model_copy(update={"schema_table": TABLE, "normalizer": Normalizer(block_rows=32, max_categories=5)})


def records() -> Iterator[pa.RecordBatch]:
    """Some have no target, their scale moves, and there is a drift."""
    made = raw(ROWS, turned=TURN)
    yield from (made.slice(start, 50) for start in range(0, ROWS, 50))


def run() -> offline.Result:
    return offline.run(records(), SETTINGS)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline._Normalizer, "coming", lambda self, offset, labelled: None)


def test_looking_ahead_changes_neither_versions_nor_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records without a target among them, over a drift, to the last record."""
    seeing = run()
    blind(monkeypatch)
    other = run()
    assert seeing.versions.num_rows > 40
    assert any(event["kind"] == "error_drift" for event in seeing.events.to_pylist())
    assert seeing.records == other.records == ROWS
    assert seeing.versions["sha256"].to_pylist() == other.versions["sha256"].to_pylist()
    assert seeing.evaluations.equals(other.evaluations)


def test_what_was_made_ahead_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grown: Counter[str] = Counter()
    phase = ["ahead"]
    grow = Grower.grow

    def counted(self: Grower, trees: int, *arguments: Any, **named: Any) -> list[Any]:
        grown[phase[0]] += trees
        return grow(self, trees, *arguments, **named)

    def due(*of: Any) -> Trained:
        phase[0] = "due"
        try:
            return fit(*of)
        finally:
            phase[0] = "ahead"

    monkeypatch.setattr(Grower, "grow", counted)
    monkeypatch.setattr(offline, "TrainingProcess", Ahead)
    monkeypatch.setattr(worlds, "fit", due)
    run()
    seen = Counter(grown)
    grown.clear()
    blind(monkeypatch)
    run()
    assert seen["due"] < 0.2 * grown["due"], "the first version, and what a drift brought about"
    assert seen["due"] + seen["ahead"] < 1.1 * grown["due"]


def test_no_more_rows_are_made_ahead_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However far away the next training is: memory does not grow with the stream."""
    monkeypatch.setattr(offline, "READ_ROWS", 100)
    source = offline._Normalizer(records(), SETTINGS)
    found = source.coming(0, 80)
    assert found is not None
    assert found.num_rows == 80
    assert source.coming(0, 500) is None
    assert source.records <= 150
