"""Laws of the version of the lineage before: it goes only when the new one is not worse on the same records, or by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from correnteza import events, lineages
from correnteza.events import Events
from correnteza.log.memory import MemoryStore
from correnteza.trainer.elder import Elder, Errors
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.predict import Serving, as_asked

from .remembering import settings_in

OLD = dict.fromkeys(range(101, 201), 1.0)


class Changed:
    """A pipeline whose features were changed, with a version of the first lineage that had the errors `OLD`."""

    def __init__(self, folder: Path) -> None:
        lineages.current(settings_in(folder, ()))
        self.settings = settings_in(folder)
        before = lineages.current(self.settings).before
        assert before is not None
        self.store = MemoryStore()
        self.own = self.store.log("evaluations", EVALUATIONS)
        told = Events("trainer", self.store.log("events", events.SCHEMA))
        self.elder = Elder(self.settings, before, self.own, as_asked, told)
        self.elder.serving = Serving(7, None, None)  # type: ignore[arg-type]
        self.elder._own = Errors(self.own, OLD)

    def evaluated(self, first: int, last: int, error: float, target: float | None = 2.0, of_record: bool = True) -> None:
        rows: list[dict[str, Any]] = [
            {"normalized_offset": at if of_record else None, "raw_offset": at, "target": target, "prediction": 2.0 + error}
            for at in range(first, last + 1)
        ]
        self.own.append(pa.RecordBatch.from_pylist(rows, schema=EVALUATIONS))

    def kinds(self) -> list[str]:
        return list(self.store.log("events", events.SCHEMA).read(None, 100).batch["kind"].to_pylist())

    def took_over(self) -> bool:
        return lineages.current(self.settings).before is None


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    return Changed(tmp_path)


@pytest.mark.parametrize("error", [0.5, 1.0, -1.0])
def test_a_lineage_that_is_not_worse_on_the_same_records_takes_over(changed: Changed, error: float) -> None:
    """Errors on earlier records do not count: the new one began there with nothing."""
    changed.evaluated(1, 100, 50.0)
    changed.evaluated(101, 150, error)
    assert not changed.elder.look(ready=True, pinned=False), "not all those records yet"
    changed.evaluated(151, 200, error)
    assert not changed.elder.look(ready=False, pinned=False), "no version yet"
    assert changed.elder.look(ready=True, pinned=False)
    assert changed.elder.serving is None
    assert changed.took_over()
    assert changed.kinds() == ["lineage_took_over"]


def test_a_worse_lineage_waits_and_says_so_once_and_may_be_put_in_by_hand(changed: Changed) -> None:
    changed.evaluated(101, 200, 1.5)
    for _ in range(3):
        assert not changed.elder.look(ready=True, pinned=False)
    assert "MAE 1.5 against 1 on the same 100 records" in changed.elder.reason
    assert changed.elder.serving is not None
    assert not changed.took_over()
    assert changed.kinds() == ["lineage_worse"]
    assert changed.elder.look(ready=True, pinned=True)
    assert changed.took_over()


def test_answers_without_a_label_and_predictions_are_no_errors_of_records(changed: Changed) -> None:
    changed.evaluated(101, 200, 0.0, target=None)
    changed.evaluated(101, 200, 0.0, of_record=False)
    assert not changed.elder.look(ready=True, pinned=False), "labels may still come"
    changed.evaluated(201, 300, 0.0, target=None)
    assert changed.elder.look(ready=True, pinned=False)
    assert "cannot be compared" in lineages.read(changed.settings.pipeline.folder)[1]["took_over"]


def test_records_that_the_log_no_longer_has_do_not_hold_it_up_for_ever(changed: Changed) -> None:
    changed.evaluated(290, 310, 9.0)
    assert changed.elder.look(ready=True, pinned=False)


def test_where_there_was_no_version_nothing_is_waited_for(changed: Changed) -> None:
    changed.elder.serving = None
    assert changed.elder.look(ready=False, pinned=False)
    assert changed.took_over()
