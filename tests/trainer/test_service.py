"""Laws of the trainer as a service: its routes, its swaps, its learner process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import requests
import uvicorn
from fastapi import FastAPI
from tests.ports import free_ports
from tests.tools import PATIENCE_S, until

from correnteza import config, events, stage
from correnteza.described import json_schema
from correnteza.events import Events
from correnteza.features import SCALERS, Scaler
from correnteza.log.base import Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.normalizer.stage import NormalizerStage
from correnteza.testing import read_all
from correnteza.trainer import handover
from correnteza.trainer import service as trainer
from correnteza.trainer.board import Figures
from correnteza.trainer.count import Count
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.handover import REQUESTS
from correnteza.trainer.labels import OUTCOMES
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.registry import Meta, Registry, load_key, model_rows, promotion_rows
from correnteza.trainer.training import Job, fit
from correnteza.web import Service, create_app

TREE = {"estimator": "sklearn.tree.DecisionTreeRegressor", "params": {"max_leaf_nodes": 8}}


def settings_in(folder: Path, port_base: int = 8000, **tables: Any) -> config.Settings:
    table: dict[str, Any] = {
        "pipeline": {"data_dir": str(folder)},
        "schema": {"target": "price", "fields": {"size": "float", "kind": "category"}},
        "services": {"port_base": port_base},
        "trainer": {**TREE, "min_rows": 60, "window_rows": 200, "retrain_every_rows": 100, "metric_rows": 100},
    }
    return config.load(overrides={**table, **tables})


@contextmanager
def served(app: FastAPI, service: Service, port: int = 0) -> Iterator[str]:
    """The application behind a port of this machine, its service started; gives its address."""
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    service.start()
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        service.stopping = server.should_exit = True
        thread.join(PATIENCE_S)
        service.stop()


class Trainer:
    """A trainer without a learner, whose versions the test makes itself: version n predicts about n * 1000."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.settings = settings_in(folder)
        self.store = store
        self.app, self.service = trainer.build(self.settings, store, None)
        self.registry = Registry(folder / "models", store, load_key(folder))
        self.epoch = store.claim("registry").epoch
        self.models = folder / "models"

    def add(self, version: int, promoted: bool = True) -> None:
        rng = np.random.default_rng(version)
        features = np.column_stack([rng.normal(size=90), rng.integers(0, 3, 90)])
        targets = 1000.0 * version + features[:, 0]
        scaler = Scaler(1, np.zeros(1), np.ones(1))
        schema = self.settings.schema_of_records
        job = Job(version, TREE["estimator"], TREE["params"], 1, features, targets, scaler, {"kind": ["a", "b"]}, schema)  # type: ignore[arg-type]
        trained = fit(job)
        now = datetime.now(UTC)
        meta = Meta(None, now, "test", "test", job.estimator, job.params, 1, 90, 1, 90, 1, "", {})
        outputs = {"models": model_rows(self.registry.write(version, trained, meta))}
        if promoted:
            outputs["promotions"] = promotion_rows(version, now, "test")
        self.store.commit("registry", self.epoch, None, b"{}", outputs)


@pytest.fixture
def made(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path, MemoryStore())


def predict(url: str, body: Any) -> requests.Response:
    return requests.post(f"{url}/predict", json=body, timeout=PATIENCE_S)


def version_of(url: str) -> int | None:
    answer = predict(url, {})
    return answer.json()["model_version"] if answer.ok else None


# Routes


def test_before_the_first_model_it_is_not_ready_and_says_how_far_it_is(made: Trainer) -> None:
    with served(made.app, made.service) as url:
        ready, answer = requests.get(f"{url}/health/ready", timeout=PATIENCE_S), predict(url, {})
        status = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
    assert (ready.status_code, answer.status_code) == (503, 503)
    assert ready.json()["detail"] == answer.json()["detail"] == "no model yet: 0 of 60 labelled rows"
    assert (status["ready"], status["model_version"], status["rolling"]) == (False, None, {})


def test_a_new_version_comes_into_service_and_answers_carry_it(made: Trainer) -> None:
    made.add(1)
    with served(made.app, made.service) as url:
        assert requests.get(f"{url}/health/ready", timeout=PATIENCE_S).status_code == 200
        answer = predict(url, {"size": 0.5, "kind": "a"}).json()
        assert answer["model_version"] == 1
        assert answer["prediction"] == pytest.approx(1000, abs=10)
        made.add(2)
        until(lambda: version_of(url) == 2, "version 2 in service")
        rows = until(lambda: requests.get(f"{url}/records", timeout=PATIENCE_S).json()["records"], "stored predictions")
    assert rows[0]["prediction_id"] == answer["id"]
    assert json.loads(rows[0]["record"]) == {"size": 0.5, "kind": "a"}


def test_under_load_swaps_fail_and_mix_no_answer(made: Trainer) -> None:
    """Every row of an answer is near its version's own level, and the versions only go up."""
    made.add(1)
    found: list[list[dict[str, Any]]] = []
    done = threading.Event()

    def ask(url: str) -> None:
        session = requests.Session()
        while not done.is_set():
            answer = session.post(f"{url}/predict", json=[{}, {"size": 1.0}, {"kind": "b"}], timeout=PATIENCE_S)
            found.append(answer.json() if answer.ok else [{"status": answer.status_code}])

    with served(made.app, made.service) as url:
        askers = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for asker in askers:
            asker.start()
        for version in range(2, 7):
            made.add(version)
            until(lambda wanted=version: version_of(url) == wanted, "the new version")  # type: ignore[misc]
        done.set()
        for asker in askers:
            asker.join()
    for answer in found:
        version = answer[0]["model_version"]
        assert [a["model_version"] for a in answer] == [version] * 3
        assert all(abs(a["prediction"] - 1000 * version) < 10 for a in answer)
    assert {answer[0]["model_version"] for answer in found} == set(range(1, 7))


def test_the_registry_is_listed_and_a_promotion_pins_until_it_is_undone(made: Trainer) -> None:
    for version in (1, 2, 3):
        made.add(version)
    with served(made.app, made.service) as url:
        promoted = requests.post(f"{url}/models/2/promote", timeout=PATIENCE_S).json()
        assert (promoted["version"], promoted["pinned"]) == (2, True)
        until(lambda: version_of(url) == 2, "version 2 in service")
        models = requests.get(f"{url}/models", timeout=PATIENCE_S).json()
        assert [(m["version"], m["in_service"], m["pinned"]) for m in models] == [
            (1, False, False),
            (2, True, True),
            (3, False, False),
        ]
        one = requests.get(f"{url}/models/3", timeout=PATIENCE_S).json()
        assert (one["files"], one["manifest"]["version"]) == ("verified", 3)
        assert requests.post(f"{url}/models/unpin", timeout=PATIENCE_S).json()["version"] == 3
        until(lambda: version_of(url) == 3, "version 3 in service")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/models/9", 404),
        ("POST", "/models/9/promote", 404),
        ("GET", "/models/x", 422),
        ("GET", "/models/0", 422),
        ("GET", "/models/99999999999999999999", 422),
        ("POST", "/models/unpin", 503),
        ("GET", "/nowhere", 404),
        ("GET", "/train", 405),
    ],
)
def test_what_is_not_there_is_a_problem(made: Trainer, method: str, path: str, status: int) -> None:
    with served(made.app, made.service) as url:
        answer = requests.request(method, url + path, timeout=PATIENCE_S)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert answer.json()["detail"]


def test_a_damaged_version_is_refused_with_an_event_and_the_old_one_answers_on(made: Trainer) -> None:
    made.add(1)
    with served(made.app, made.service) as url:
        made.add(2, promoted=False)
        file = made.models / "2" / "model.onnx"
        file.write_bytes(b"?" + file.read_bytes()[1:])
        assert requests.post(f"{url}/models/2/promote", timeout=PATIENCE_S).status_code == 409
        assert "model.onnx" in requests.get(f"{url}/models/2", timeout=PATIENCE_S).json()["files"]
        made.store.log("promotions", promotion_rows(2, datetime.now(UTC), "").schema).append(
            promotion_rows(2, datetime.now(UTC), "")
        )
        status = until(lambda: _refused(url), "the refusal")
        assert version_of(url) == 1
        assert (status["ready"], status["model_version"]) == (True, 1)
        told = requests.get(f"{url}/events", timeout=PATIENCE_S).json()["records"]
    assert "model_refused" in [row["kind"] for row in told]


def _refused(url: str) -> dict[str, Any] | None:
    status: dict[str, Any] = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
    return status if "refused" in status["reason"] else None


def test_a_restart_with_a_damaged_version_falls_back_to_the_one_before(tmp_path: Path) -> None:
    first = Trainer(tmp_path, MemoryStore())
    first.add(1)
    first.add(2)
    (tmp_path / "models" / "2" / "model.onnx").unlink()
    app, service = trainer.build(first.settings, first.store, None)
    with served(app, service) as url:
        assert version_of(url) == 1


def test_a_request_for_a_training_is_put_before_the_learner(made: Trainer) -> None:
    with served(made.app, made.service) as url:
        answer = requests.post(f"{url}/train", timeout=PATIENCE_S)
    assert (answer.status_code, answer.json()) == (
        202,
        {"accepted": True, "request": 1, "earliest_in_s": 0.0, "training": False},
    )
    assert len(read_all(made.store.log("requests", REQUESTS))) == 1


def test_who_asks_for_a_training_is_told_how_long_the_learner_waits(made: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"request_wait_s": 0.73214, "training": True}
    monkeypatch.setattr(Count, "total", lambda _: Figures(told=told))
    with served(made.app, made.service) as url:
        answer = requests.post(f"{url}/train", timeout=PATIENCE_S).json()
    assert (answer["earliest_in_s"], answer["training"]) == (0.732, True)


def test_the_errors_since_the_stream_began_are_those_that_the_learner_tells(
    made: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With null in place of what is not known; without a learner there are none."""
    total = {"overall": {"rows": 3, "mae": 1.5, "baseline_mae": float("nan")}, "versions": []}
    with served(made.app, made.service) as url:
        assert requests.get(f"{url}/evaluation", timeout=PATIENCE_S).json()["total"] is None
        monkeypatch.setattr(Count, "total", lambda _: Figures(told={"total": total}))
        answer = requests.get(f"{url}/evaluation", timeout=PATIENCE_S).json()["total"]
    assert answer == {"overall": {"rows": 3, "mae": 1.5, "baseline_mae": None}, "versions": []}


def test_the_interval_and_the_figures_come_from_the_evaluations(made: Trainer) -> None:
    """An interval reaches as many spreads, as the model tells them, as the last evaluation says."""
    made.add(1)
    targets = np.arange(100.0)
    errors = np.random.default_rng(1).permutation(np.arange(1.0, 101.0))
    multipliers = np.append(np.full(99, 1.0), 1.5)
    columns = {"id": [""] * 100, "model_version": np.ones(100, np.int64), "target": targets, "prediction": targets + errors}
    known = {**columns, "normalized_offset": np.arange(100), "raw_offset": np.arange(100), "multiplier": multipliers}
    unknown = {field.name: pa.nulls(100, field.type) for field in EVALUATIONS if field.name not in known}
    rows = pa.RecordBatch.from_pydict(known | unknown, schema=EVALUATIONS)
    predictor = Predictor(made.registry.model_bytes(1))
    missing = np.full((1, len(predictor.numbers)), np.nan), np.full((1, len(predictor.categories)), "", object)
    half = 1.5 * float(predictor.predict_with_spread(*missing)[1][0])
    made.store.log("evaluations", EVALUATIONS).append(rows)
    with served(made.app, made.service) as url:
        answer = predict(url, {}).json()
        evaluation = requests.get(f"{url}/evaluation", timeout=PATIENCE_S).json()
        status = requests.get(f"{url}/status", timeout=PATIENCE_S).json()
        metrics = requests.get(f"{url}/metrics", timeout=PATIENCE_S).text
        listed = requests.get(f"{url}/evaluations?limit=3", timeout=PATIENCE_S).json()["records"]
    assert answer["upper"] - answer["prediction"] == pytest.approx(half)
    assert answer["prediction"] - answer["lower"] == pytest.approx(half)
    assert evaluation["multiplier"] == status["multiplier"] == 1.5
    assert evaluation["rolling"]["mae"] == status["rolling"]["mae"] == 50.5
    assert [v["model_version"] for v in evaluation["versions"]] == [1]
    assert "correnteza_evaluation_mae 50.5" in metrics
    assert len(listed) == 3


def test_the_challenger_that_the_learner_tells_of_is_a_metric_and_none_is_none(tmp_path: Path) -> None:
    line = handover.status_line({**stage.Figures().plain(), "challenger": 7})
    learner = [sys.executable, "-c", f"print({line!r}, flush=True); input()"]
    store = MemoryStore()
    with served(*trainer.build(settings_in(tmp_path), store, learner)) as url:
        until(lambda: "correnteza_model_challenger_version 7.0" in text_of(f"{url}/metrics"), "the challenger")
    with served(*trainer.build(settings_in(tmp_path), store, None)) as url:
        assert "\ncorrenteza_model_challenger_version" not in text_of(f"{url}/metrics")


def text_of(url: str) -> str:
    return str(requests.get(url, timeout=PATIENCE_S).text)


def test_the_document_describes_predict(made: Trainer) -> None:
    path = made.app.openapi()["paths"]["/predict"]["post"]
    assert {"requestBody", "responses", "summary"} <= set(path)
    assert set(path["responses"]) == {"200", "4XX", "503"}


def test_the_serving_process_imports_neither_sklearn_nor_joblib(tmp_path: Path) -> None:
    """Also not after it has loaded a version and answered with it."""
    store = SqlStore(tmp_path / "trainer.db")
    Trainer(tmp_path, store).add(1)
    store.close()
    program = f"""
import asyncio, sys
from pathlib import Path
from correnteza.trainer import service
from correnteza.config import loads
from correnteza.log.sql import SqlStore
settings = loads({config.dumps(settings_in(tmp_path))!r})
app, made = service.build(settings, SqlStore(Path({str(tmp_path / "trainer.db")!r})), None)
made.start()
sent = []
async def receive(): return {{"type": "http.request", "body": b"{{}}"}}
async def send(message): sent.append(message)
scope = dict(type="http", method="POST", path="/predict", root_path="", query_string=b"", headers=[], scheme="http")
asyncio.run(app(scope, receive, send))
made.stop()
assert sent[0]["status"] == 200, sent
print([name for name in ("sklearn", "joblib", "onnx", "pickle5", "faker") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert found.stdout.strip() == "[]", found.stderr


# The learner process


def test_settings_reach_the_learner_as_they_are(tmp_path: Path) -> None:
    settings = settings_in(
        tmp_path, generator={"source": "none", "records_per_second": float("inf")}, retention={"rows": None, "age_s": 5.5}
    )
    assert config.loads(config.dumps(settings)).model_dump() == settings.model_dump()


class Normalizer:
    """A normalizer's logs behind a port, filled by the test."""

    def __init__(self, settings: config.Settings) -> None:
        self.settings, self.store = settings, MemoryStore()
        self.stage = NormalizerStage(settings.schema_of_records, settings.normalizer)
        self.state = self.stage.initial()
        self.source = MemoryStore().log("raw", settings.schema_of_records.raw)
        logs = {name: self.store.log(name, schema) for name, schema in self.stage.outputs.items()}
        logs = {"records": logs["normalized"], "events": self.store.log("events", events.SCHEMA), **logs}
        told = Events("normalizer", logs["events"])
        self.service = Service("normalizer", settings, json_schema(SCALERS, "x"), logs, told)
        self.app = create_app(self.service)

    def add(self, rows: int) -> None:
        start = self.source.bounds().next
        rng = np.random.default_rng(start)
        records = [
            {"id": f"r{start + i}", "size": float(rng.normal(50, 9)), "kind": f"k{i % 3}", "price": float(rng.normal(i % 3, 1))}
            for i in range(rows)
        ]
        self.source.append(pa.RecordBatch.from_pylist(records, schema=self.settings.schema_of_records.raw))
        batch = self.source.read(self.source.cursor(start - 1), rows).batch
        step = self.stage.step(self.state, batch)
        self.state = step.state
        for name in ("scalers", "categories", "normalized"):
            if name in step.outputs:
                self.store.log(name, self.stage.outputs[name]).append(step.outputs[name])


class Generator:
    """A generator's logs behind a port, without any outcome."""

    def __init__(self, settings: config.Settings) -> None:
        store = MemoryStore()
        raw, outcomes = store.log("raw", settings.schema_of_records.raw), store.log("outcomes", OUTCOMES)
        told = Events("generator", store.log("events", events.SCHEMA))
        logs = {"records": raw, "events": store.log("events", events.SCHEMA), "outcomes": outcomes}
        self.service = Service("generator", settings, {}, logs, told)
        self.app = create_app(self.service)


def test_a_learner_process_learns_survives_a_kill_and_ends_with_its_server(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, port_base=free_ports())
    normalizer, generator = Normalizer(settings), Generator(settings)
    store = SqlStore(tmp_path / "trainer.db")
    app, service = trainer.build(settings, store, trainer.learner_command(settings))
    with (
        served(normalizer.app, normalizer.service, settings.services.port("normalizer")),
        served(generator.app, generator.service, settings.services.port("generator")),
        served(app, service) as url,
    ):
        normalizer.add(200)
        until(lambda: version_of(url) == 2, "two versions")
        pid = until(lambda: _learner(url)["pid"], "the learner's pid")
        os.kill(pid, signal.SIGKILL)
        until(lambda: _learner(url)["deaths"] == 1, "the death")
        assert version_of(url) == 2, "the last version answers without a learner"
        normalizer.add(100)
        until(lambda: version_of(url) == 3, "the third version, from a learner that was started again")
        again = until(lambda: _learner(url)["pid"], "the new learner's pid")
        rows = read_all(store.log("evaluations", EVALUATIONS))
        told = requests.get(f"{url}/events", timeout=PATIENCE_S).json()["records"]
    assert [row["normalized_offset"] for row in rows][:200] == list(range(61, 261))
    assert {row["model_version"] for row in rows[100:199]} == {2}
    assert "learner_died" in [row["kind"] for row in told]
    assert again != pid
    assert not psutil.pid_exists(again)
    store.close()


def _learner(url: str) -> dict[str, Any]:
    learner: dict[str, Any] = requests.get(f"{url}/status", timeout=PATIENCE_S).json()["learner"]
    return learner
