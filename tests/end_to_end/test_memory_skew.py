"""The features that a prediction was made on are those that the normalizer writes for the record at the same place.

Records with keys are posted, some of them without their target, which is told later as an outcome. Whenever the stream
is level, a random record is asked for and posted right after it: what the server stored as predicted on
equals, bit for bit, what the normalizer wrote, expressed in the row's scaler version.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import requests
from tests.tools import PATIENCE_S

from .conftest import Pipeline

PROBES = 60
BURST = 40
TOML = """
[schema]
target = "y"
timestamp = "at"
fields = { at = "timestamp", station = "category", line = "integer", x = "float" }

[generator]
source = "none"

[normalizer]
block_rows = 64

[trainer]
params = { n_estimators = 5 }
retrain_every_rows = 5000
min_rows = 60
"""
DEFINITIONS = (
    'of = "y", how = "lag", rows = 1, by = "station"',
    'of = "y", how = "lag", seconds = 3600',
    'of = "y", how = "mean", rows = 5, by = "station"',
    'of = "y", how = "std", seconds = 7200, by = "line"',
    'of = "x", how = "ewm", rows = 3, by = "station"',
    'of = "x", how = "delta", rows = 1',
    'of = "x", how = "max", seconds = 1800, by = "station"',
    'of = "x", how = "count", rows = 7, by = "line"',
    'of = "at", how = "since", by = "station"',
    'of = "at", how = "hour_cyclic"',
    'of = "x", how = "log"',
)
NAMES = ("f0", "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9_sin", "f9_cos", "f10")


def test_the_vector_predicted_on_is_the_one_written_for_training(pipelines: Callable[[str, str], Pipeline]) -> None:
    features = ", ".join(f'{{ name = "f{i}", {one} }}' for i, one in enumerate(DEFINITIONS))
    pipeline = pipelines("memory", TOML)
    path = pipeline.folder / "correnteza.toml"
    path.write_text(f"features = [{features}]\n\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    pipeline.start("generator", "normalizer", "trainer")
    pipeline.wait(lambda: pipeline.get("generator", "/health/ready"), "the generator")
    stream = Stream(pipeline)
    for _ in range(4):
        stream.burst()
    pipeline.wait(lambda: pipeline.get("trainer", "/health/ready"), "the first version")
    asked = [stream.probe() for _ in range(PROBES)]
    stream.level()
    pipeline.wait(lambda: len(stored(pipeline)) == PROBES, "the stored predictions")
    predicted, written = stored(pipeline), normalized(pipeline)
    versions = set()
    for name in asked:
        row, vector = written[f"record {name}"], predicted[name]
        versions.add(row["scaler_version"])
        scaler = pipeline.get("normalizer", f"/scalers/{row['scaler_version']}")["columns"]
        for feature in NAMES:
            served = vector.get(feature)
            expressed = None if served is None else (served - scaler[feature]["mean"]) / scaler[feature]["scale"]
            assert row[feature] == expressed, (name, feature)
    assert len(versions) > 2, "one scaler version would show little"
    found = [predicted[name].get(feature) for name in asked for feature in NAMES]
    assert sum(value is not None for value in found) > len(found) / 2


class Stream:
    """Posts records, and tells some targets later."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._chance = random.Random(5)
        self._numbers = iter(range(1, 1_000_000))
        self._at = datetime(2026, 1, 1, tzinfo=UTC)
        self._open: list[str] = []
        self._sent = 0
        self._probes = 0

    def _record(self) -> dict[str, Any]:
        chance, level = self._chance, self._sent / 30
        self._at += timedelta(seconds=chance.choice([0, 1, 60, 600, 4000, -90]))
        return {
            "at": chance.choice([self._at.isoformat()] * 6 + [None]),
            "station": chance.choice(["a", "b", "ção/1", None]),
            "line": chance.choice([1, 2, None]),
            "x": chance.choice([None, chance.gauss(level, 1 + level), 0.0]),
        }

    def burst(self) -> None:
        """Records and outcomes, at once, and wait until the server has them in memory."""
        records = []
        for _ in range(self._chance.randint(1, BURST)):
            name, late = f"r{next(self._numbers)}", self._chance.random() < 0.3
            if late:
                self._open.append(name)
            records.append({"id": name, **self._record(), "y": None if late else self._chance.gauss(self._sent / 20, 5)})
        self.post("/records", records)
        self._sent += len(records)
        self._chance.shuffle(self._open)
        told, self._open = self._open[:5], self._open[5:]
        if told:
            self.post("/outcomes", [{"id": name, "target": self._chance.gauss(50, 20)} for name in told])
            self._sent += len(told)
        self.level()

    def probe(self) -> str:
        """Ask for a record, then post it; the id of the prediction."""
        self.burst()
        self._probes += 1
        record, name = self._record(), f"p{self._probes}"
        if record["at"] is None:  # a question without a time is one about now, which a record without a time is not
            record["at"] = self._at.isoformat()
        self.post("/predict", {"id": name, **record}, "trainer")
        self.post("/records", [{"id": f"record {name}", **record, "y": 1.0}])
        self._sent += 1
        return name

    def post(self, path: str, body: Any, service: str = "generator") -> None:
        answer = requests.post(self._pipeline.url(service, path), json=body, timeout=PATIENCE_S)
        assert answer.ok, answer.text

    def level(self) -> None:
        """Wait until what was sent is in the server's memory."""

        def known() -> bool:
            return bool((self._pipeline.get("trainer", "/status") or {}).get("memory", {}).get("offset") == self._sent)

        self._pipeline.wait(known, f"{self._sent} rows in the memory")


def stored(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """What was predicted on, by id."""
    return {row["prediction_id"]: json.loads(row["record"]) for row in pages(pipeline, "trainer", "/predictions")}


def normalized(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """What was written for training, by id."""
    return {row["id"]: row for row in pages(pipeline, "normalizer", "/records")}


def pages(pipeline: Pipeline, service: str, path: str) -> Iterator[dict[str, Any]]:
    answer = requests.get(pipeline.url(service, path), params={"limit": 100_000}, timeout=PATIENCE_S)
    assert answer.ok, answer.text
    yield from answer.json()["records"]
