"""Laws of a trainer whose features remember, over HTTP: what it answers, shows, refuses and says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import requests
from tests.ports import free_ports
from tests.tools import PATIENCE_S, until

from correnteza.client import Client
from correnteza.errors import InputError
from correnteza.features import Scaler
from correnteza.log.memory import MemoryStore
from correnteza.normalizer import service as normalizer
from correnteza.trainer import service as trainer
from correnteza.trainer.registry import Meta, Registry, load_key, model_rows, promotion_rows
from correnteza.trainer.training import Job, fit

from .remembering import settings_in
from .test_service import TREE, served

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = [
    {"id": f"r{i}", "at": START, "shop": "açaí/1" if i % 2 else "b", "line": i % 3, "x": 1.0, "y": float(i)} for i in range(40)
]
FORMS: list[tuple[str, Any]] = [
    ("/predict", {"shop": "b"}),
    ("/predict", [{"shop": "b"}, {"shop": "never seen"}]),
    ("/predict", {"columns": ["shop"], "rows": [["b"], [None]]}),
    ("/models/1/predict", {"shop": "b"}),
    ("/invocations", {"dataframe_records": [{"shop": "b"}]}),
    ("/v2/models/people/infer", {"inputs": [{"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["b"]}]}),
    ("/v2/models/people/versions/1/infer", {"inputs": [{"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["b"]}]}),
]


@dataclass
class Both:
    """A normalizer that can be stopped, and a trainer with a version, both behind ports."""

    url: str
    client: Client
    stop_normalizer: ExitStack

    def get(self, path: str, status: int = 200) -> Any:
        answer = requests.get(self.url + path, timeout=PATIENCE_S)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=PATIENCE_S)

    def memory(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/status")["memory"]
        return found


def a_version(folder: Path, schema: Any, store: Any) -> None:
    """Register and promote a version."""
    rng = np.random.default_rng(1)
    wide = len(schema.numeric)
    features = np.column_stack([rng.normal(size=(90, wide)), rng.integers(0, 3, 90)])
    scaler, codes = Scaler(1, np.zeros(wide), np.ones(wide)), {"shop": ["a", "b"]}
    job = Job(1, TREE["estimator"], TREE["params"], 1, features, 10 * features[:, 2], scaler, codes, schema)  # type: ignore[arg-type]
    trained, now = fit(job), datetime.now(UTC)
    meta = Meta(None, now, "test", "test", job.estimator, job.params, 1, 90, 1, 90, 1, "", {})
    registry = Registry(folder / "models", store, load_key(folder))
    outputs = {"models": model_rows(registry.write(1, trained, meta)), "promotions": promotion_rows(1, now, "test")}
    store.commit("registry", store.claim("registry").epoch, None, b"{}", outputs)


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    settings = settings_in(tmp_path, services={"port_base": free_ports()})
    raw, store = MemoryStore().log("raw", settings.schema_of_records.raw), MemoryStore()
    raw.append(pa.RecordBatch.from_pylist(ROWS, schema=raw.schema))
    outcomes = MemoryStore().log("outcomes", pa.schema([pa.field("id", pa.string()), pa.field("target", pa.float64())]))
    app, service = normalizer.build(settings, MemoryStore(), raw, outcomes)
    served_app, served_service = trainer.build(settings, store, None)
    a_version(tmp_path, settings.schema_of_model, store)
    (runner,) = service.runners
    with ExitStack() as stop, served(served_app, served_service) as url:
        up = stop.enter_context(ExitStack())
        up.enter_context(served(app, service, settings.services.port("normalizer")))
        runner.start(lambda error: None)
        up.callback(runner.stop)
        made = Both(url, Client({"trainer": url}), up)
        until(lambda: made.memory()["offset"] == len(ROWS), "the memory")
        yield made


def test_all_routes_take_raw_fields_and_answer(both: Both) -> None:
    for path, body in FORMS:
        answer = both.post(path, body)
        assert answer.status_code == 200, (path, answer.text)
    same = [both.post(path, FORMS[0][1]).json()["prediction"] for path in ("/predict", "/models/1/predict")]
    assert same[0] == same[1] == both.post(*FORMS[4]).json()["predictions"][0]
    rows = until(lambda: both.get("/predictions")["records"], "stored predictions")
    record = json.loads(rows[0]["record"])
    assert {"shop": "b", "last": 38.0, "mean": 36.0, "seen": 9.0}.items() <= record.items()


@pytest.mark.parametrize(
    "body",
    [
        {"shop": True},
        {"shop": 1.5},
        {"shop": ["b"]},
        {"line": "x"},
        {"line": 0.5},
        {"at": "yesterday"},
        {"last": 3.0},
        {"y": 1.0},
    ],
)
def test_what_is_no_key_time_or_raw_field_is_refused(both: Both, body: dict[str, Any]) -> None:
    answer = both.post("/predict", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == next(iter(body))


def test_the_vector_of_a_key_is_shown(both: Both) -> None:
    shown = both.client.features("açaí/1", by="shop", at="2026-01-01T05:00:00Z")
    assert (shown["key"], shown["by"], shown["known"]) == ("açaí/1", "shop", True)
    assert {"last": 39.0, "mean": 37.0, "hour": 5.0, "hour_sum": None, "ratio": None}.items() <= shown["features"].items()
    assert (shown["offset"], shown["rows_behind"]) == (len(ROWS), 0)
    assert shown["behind_s"] >= 0.0
    number = both.client.features(2, by="line", at="2026-01-01T00:30:00Z")
    assert (number["key"], number["features"]["hour_sum"]) == (2, 13.0)
    unknown = both.client.features("never seen", by="shop")
    assert (unknown["known"], unknown["features"]["last"], unknown["features"]["seen"]) == (False, None, 0.0)
    assert both.client.features()["features"]["last"] is None


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/features/b", 400, "keys of shop, line; say which with ?by=shop"),
        ("/features/b?by=x", 400, "no feature has it"),
        ("/features/b?by=line", 400, "a whole number"),
        (f"/features/{10**30}?by=line", 400, "a whole number"),
        ("/features/?by=shop", 400, "the key is empty"),
        ("/features/b?by=shop&at=soon", 400, "a time in ISO 8601"),
    ],
)
def test_a_question_for_no_key_says_what_was_expected(both: Both, path: str, status: int, said: str) -> None:
    assert said in both.get(path, status)["detail"]


def test_without_the_normalizer_answers_go_on_and_the_age_grows(both: Both) -> None:
    both.stop_normalizer.close()
    told = until(lambda: both.memory() if both.memory()["reason"] else None, "the reason")
    assert "does not answer" in told["reason"]
    assert both.post("/predict", {"shop": "b"}).status_code == 200
    until(lambda: both.memory()["behind_s"] > told["behind_s"], "a greater age")
    assert "memory_not_followed" in [row["kind"] for row in both.get("/events")["records"]]
    metrics = requests.get(f"{both.url}/metrics", timeout=PATIENCE_S).text
    assert "correnteza_memory_behind_seconds" in metrics
    assert "correnteza_memory_rows_behind 0.0" in metrics


def test_before_the_first_memory_it_is_not_ready(tmp_path: Path) -> None:
    settings, store = settings_in(tmp_path, services={"port_base": free_ports()}), MemoryStore()
    app, service = trainer.build(settings, store, None)
    a_version(tmp_path, settings.schema_of_model, store)
    with served(app, service) as url:
        for answer in (
            requests.get(f"{url}/health/ready", timeout=PATIENCE_S),
            requests.post(f"{url}/predict", json={}, timeout=PATIENCE_S),
            requests.post(f"{url}/models/1/predict", json={}, timeout=PATIENCE_S),
        ):
            assert answer.status_code == 503
            assert "no memory of the stream yet" in answer.json()["detail"]


def test_without_features_there_is_no_vector(tmp_path: Path) -> None:
    app, service = trainer.build(settings_in(tmp_path, ()), MemoryStore(), None)
    with served(app, service) as url, pytest.raises(InputError, match=r"no \[\[features\]\] are declared"):
        Client({"trainer": url}).features("b")
