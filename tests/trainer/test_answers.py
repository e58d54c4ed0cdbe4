"""Laws of the log `predictions`: every answer is stored, and what cannot be is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import cycle
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from tests.tools import PATIENCE_S

from correnteza import events
from correnteza.codec import NDJSON
from correnteza.errors import LogError, LogUnavailableError
from correnteza.log.base import Appended
from correnteza.testing import read_all
from correnteza.trainer import answers as module
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.texts import texts_of

from .asking import Asking


@pytest.fixture
def world() -> Asking:
    world = Asking()
    world.serve(3, 10.0)
    return world


def test_every_answer_is_stored_with_what_was_asked(world: Asking) -> None:
    world.answers.start()
    answers = [world.ask(b'{"rooms": 2, "kind": "flat", "at": "2026-01-31T12:00:00Z", "note": null}')[2]]
    answers += world.ask(b'[{"rooms": 1}, {"id": "b"}]')[2]
    answers += world.ask(b'{"rooms": 9}\n', NDJSON)[2]
    world.answers.stop()
    rows = read_all(world.store.log("predictions", PREDICTIONS))
    assert [row["prediction_id"] for row in rows] == [a["id"] for a in answers]
    for row, answer in zip(rows, answers, strict=True):
        assert [row[k] for k in ("prediction", "lower", "upper", "model_version")] == [
            answer[k] for k in ("prediction", "lower", "upper", "model_version")
        ]
    records = [json.loads(row["record"]) for row in rows]
    assert records == [
        {"rooms": 2, "kind": "flat", "at": "2026-01-31T12:00:00Z"}, {"rooms": 1}, {"id": "b"}, {"rooms": 9},
    ]  # fmt: skip


class Unwilling:
    """A log that refuses so often with an error, then takes rows."""

    name = "predictions"
    schema = PREDICTIONS

    def __init__(self, error: LogError, times: int) -> None:
        self.error, self.times, self.taken = error, times, 0
        self.refused = threading.Event()

    def append(self, batch: pa.RecordBatch) -> Appended:
        if self.times:
            self.times -= 1
            self.refused.set()
            raise self.error
        self.taken += batch.num_rows
        return Appended(1, batch.num_rows)


def answering(log: Any, queue_rows: int = 100) -> Asking:
    world = Asking()
    world.serve(1)
    world.answers._log, world.answers._queue_rows = log, queue_rows
    return world


def events_of(world: Asking) -> list[tuple[str, int]]:
    told = read_all(world.store.log("events", events.SCHEMA))
    return [(row["kind"], json.loads(row["detail"])["rows"]) for row in told]


def test_a_log_that_cannot_answer_loses_no_row() -> None:
    log = Unwilling(LogUnavailableError("busy"), 1)
    world = answering(log)
    world.answers.start()
    world.ask(b"[{}, {}, {}]")
    assert log.refused.wait(PATIENCE_S)
    world.answers.stop()
    assert log.taken == 3
    assert events_of(world) == []


def test_rows_beyond_the_queue_are_answered_and_counted_as_not_stored() -> None:
    log = Unwilling(LogUnavailableError("busy"), 0)
    world = answering(log, queue_rows=4)
    assert [world.ask(b"[{}, {}, {}]")[0] for _ in range(3)] == [200] * 3
    world.answers.start()
    world.answers.stop()
    assert log.taken == 3
    assert events_of(world) == [("predictions_not_stored", 6)]
    assert world.answers.dropped_rows == 6


def test_rows_that_a_log_refuses_for_good_are_told() -> None:
    world = answering(Unwilling(LogError("no such table"), 1))
    world.ask(b"[{}, {}]")
    world.answers.start()
    world.answers.stop()
    assert events_of(world) == [("predictions_not_stored", 2)]


class Simulated:
    """A clock, a disk whose commits take their time by it, the event that ends it all, and clients that go on asking."""

    name = "predictions"
    schema = PREDICTIONS

    def __init__(self, commits_s: Iterable[float], throughout: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.steps, self.throughout = 0.0, 0, throughout
        self.commits_s = cycle(commits_s)
        self.answered: list[float] = []
        self.committed: list[float] = []
        self.world = answering(self)
        self.world.answers._stop = self  # type: ignore[assignment]
        self.world.answers._something.wait = lambda _: True  # type: ignore[method-assign, assignment, misc]
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def ask(self) -> None:
        self.answered.append(self.now)
        self.world.ask(b"{}")

    def append(self, batch: pa.RecordBatch) -> Appended:
        self.pass_by(next(self.commits_s), self.throughout)
        self.committed += [self.now] * batch.num_rows
        return Appended(1, batch.num_rows)

    def wait(self, seconds: float) -> None:
        self.pass_by(seconds, True)

    def pass_by(self, seconds: float, asking: bool) -> None:
        """Somebody may ask in the first moment of whatever takes time."""
        if asking and not self.is_set():
            self.ask()
        self.now += seconds
        self.steps += 1

    def is_set(self) -> bool:
        return self.steps > 50


@pytest.mark.parametrize("throughout", [True, False], ids=["asked throughout", "asked between commits"])
@pytest.mark.parametrize("commits_ms", [[0.1], [40], [50], [0.1, 50], [0.1, 0.1, 50]])
def test_on_a_disk_that_commits_in_50_ms_an_answer_is_stored_within_100_ms(
    commits_ms: list[float], throughout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise of the module, whenever the answer was given; by a clock of its own, so on a busy machine too."""
    simulated = Simulated([ms / 1e3 for ms in commits_ms], throughout, monkeypatch)
    simulated.ask()
    simulated.world.answers._run()
    assert len(simulated.committed) == len(simulated.answered) > 20
    waited_s = [end - begin for begin, end in zip(simulated.answered, simulated.committed, strict=True)]
    assert max(waited_s) <= 0.1 + 1e-9


def test_rows_left_when_the_service_ends_are_told() -> None:
    world = answering(Unwilling(LogUnavailableError("busy"), 100))
    world.ask(b"{}")
    world.answers.start()
    world.answers.stop()
    assert events_of(world) == [("predictions_not_stored", 1)]


def test_records_are_stored_as_json_without_missing_values_whatever_they_came_as() -> None:
    values = {
        "a b": [1.5, None, 3.0],
        "t": ['quo"te', "line\nbreak", None],
        "at": [None, None, datetime(2026, 1, 31, tzinfo=UTC)],
    }
    batch = pa.RecordBatch.from_pydict(values)
    expected = [{"a b": 1.5, "t": 'quo"te'}, {"t": "line\nbreak"}, {"a b": 3.0, "at": "2026-01-31T00:00:00Z"}]
    for records in (batch, batch.to_pylist()):
        assert [json.loads(text) for text in texts_of(records).to_pylist()] == expected
    assert texts_of(batch.select(["a b"]).slice(1, 1)).to_pylist() == ["{}"]
    assert texts_of([]).to_pylist() == []


def test_stored_numbers_are_those_asked_with_to_the_last_bit() -> None:
    drawn = np.frombuffer(np.random.default_rng(5).bytes(80_000))
    numbers = np.concatenate([drawn[np.isfinite(drawn)], [-0.0, 0.0, 37.0, 1e22, 1e-7, 5e-324, np.finfo(float).max]])
    decoder = msgspec.json.Decoder(dict[str, float])
    stored = [decoder.decode(text)["a"] for text in texts_of(pa.RecordBatch.from_pydict({"a": numbers})).to_pylist()]
    assert np.array(stored).tobytes() == numbers.tobytes()
