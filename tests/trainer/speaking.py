"""The trainer's application with the protocols in front of real small models, for the tests that speak them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from starlette.routing import Route
from tests.tools import PATIENCE_S

from correnteza import config, events
from correnteza.events import Events
from correnteza.features import Scaler
from correnteza.log.memory import MemoryStore
from correnteza.testing import read_all
from correnteza.trainer import protocols
from correnteza.trainer.answers import PREDICTIONS, Answers
from correnteza.trainer.predict import Predict, Serving
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.registry import Meta, Registry, load_key, model_rows, promotion_rows
from correnteza.trainer.training import Job, fit
from correnteza.web import Service, create_app

NAME = "houses"
MODEL = f"/v2/models/{NAME}"
JSON_TYPE = "application/json"
TREE = "sklearn.tree.DecisionTreeRegressor"
FIELDS: Mapping[str, Any] = {
    "size": {"kind": "float", "min": 0, "max": 1000},
    "rooms": "integer",
    "kind": "category",
    "note": "text",
    "built": "timestamp",
}
KINDS = ("flat", "house")


@dataclass(frozen=True)
class Reply:
    """An answer: status, headers in lower case, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Speaking:
    """An application in memory; version n predicts about n * 1000."""

    def __init__(self, folder: Path, engine: protocols.Engine | None = None, fields: Mapping[str, Any] = FIELDS) -> None:
        table = {"pipeline": {"name": NAME, "data_dir": str(folder)}, "schema": {"target": "price", "fields": dict(fields)}}
        self.settings = config.load(overrides=table)
        self.schema = self.settings.schema_of_records
        self.folder = folder
        self.serving: Serving | None = None
        self.store = MemoryStore()
        self.epoch = self.store.claim("learner").epoch
        self.registry = Registry(folder / "models", self.store, load_key(folder))
        logs = {"records": self.store.log("predictions", PREDICTIONS), "events": self.store.log("events", events.SCHEMA)}
        self.told = Events("trainer", logs["events"])
        self.answers = Answers(logs["records"], self.told)
        service = Service("trainer", self.settings, {}, logs, self.told)
        predict = Predict(self.schema, lambda: self.serving, lambda: self.not_ready() or "", self.answers)
        self.app = create_app(service, None, [Route("/predict", predict, methods=["POST"])])
        asked = engine or predict
        protocols.install(self.app, self.settings, asked, self.registry, lambda: self.serving, self.not_ready, self.told)

    def not_ready(self) -> str | None:
        return "no model yet: 3 of 100 labelled rows" if self.serving is None else None

    def add(self, version: int) -> bytes:
        """Train and register a version; its file."""
        rng = np.random.default_rng(version)
        features = np.column_stack([rng.uniform(0, 200, 120), rng.integers(1, 9, 120), rng.integers(0, 3, 120)])
        targets = 1000.0 * version + features[:, 0] + 10 * features[:, 1] + 3 * features[:, 2]
        scaler = Scaler(1, np.array([100.0, 4.0]), np.array([50.0, 2.0]))
        codes: Any = {"kind": list(KINDS)}
        trained = fit(Job(version, TREE, {"max_leaf_nodes": 30}, 1, features, targets, scaler, codes, self.schema))
        now = datetime.now(UTC)
        meta = Meta(None, now, "test", "test", TREE, {}, 1, 120, 1, 120, 1, self.schema.fingerprint, {})
        row = self.registry.write(version, trained, meta)
        rows = {"models": model_rows(row), "promotions": promotion_rows(version, now, "test")}
        self.store.commit("learner", self.epoch, None, b"{}", rows)
        return trained.onnx

    def serve(self, version: int, half_width: float | None = None) -> None:
        """Put a version into service."""
        self.serving = Serving(version, Predictor(self.registry.model_bytes(version)), half_width)

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Reply:
        """One request through the whole application; a body that is no bytes is sent as JSON."""
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        found = {"content-type": JSON_TYPE, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return asyncio.run(self._call(method or ("GET" if body is None else "POST"), path, content, found))

    async def _call(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "", "scheme": "http",
            "query_string": b"", "http_version": "1.1", "server": ("x", 80), "client": ("x", 1),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items() if value],
        }  # fmt: skip
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        found = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))

    def predicted(self, records: list[Any]) -> list[Any]:
        """What `POST /predict` answers."""
        reply = self.ask("/predict", records)
        assert reply.status == 200, reply.body
        return list(reply.json)

    def stored(self) -> list[dict[str, Any]]:
        """What is in the log `predictions`, once everything that waits is stored."""
        self.answers.start()
        self.answers.stop()
        return read_all(self.store.log("predictions", PREDICTIONS))

    def kinds_of_events(self) -> list[str]:
        return [row["kind"] for row in read_all(self.store.log("events", events.SCHEMA))]

    @contextmanager
    def listening(self) -> Iterator[str]:
        """The application behind a port of this machine; gives its address without a scheme."""
        taken = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(self.app, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            yield f"127.0.0.1:{taken.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)


# The Open Inference Protocol


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data}


def asked(*tensors: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": list(tensors), **more}


def outputs(answer: Any) -> dict[str, list[Any]]:
    """Data of the outputs by name, whose shapes fit."""
    assert all(output["shape"] == [len(output["data"])] for output in answer["outputs"])
    return {output["name"]: output["data"] for output in answer["outputs"]}


def refused(world: Speaking, status: int, path: str, body: Any = None, **headers: str) -> str:
    """The message of a refusal, which has the protocol's form."""
    reply = world.ask(path, body, **headers)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json"), reply.body
    assert list(reply.json) == ["error"]
    assert int(reply.headers["content-length"]) == len(reply.body)
    return str(reply.json["error"])
