"""The endpoint `POST /predict` behind a model that is none, in memory, for the tests that ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.routing import Route

from correnteza import events
from correnteza.codec import ARROW, NDJSON
from correnteza.config import Settings
from correnteza.events import Events
from correnteza.log.memory import MemoryStore
from correnteza.records import Field, Schema
from correnteza.tracing import Tracer
from correnteza.trainer.answers import PREDICTIONS, Answers
from correnteza.trainer.predict import Predict, Serving
from correnteza.web import Service, create_app

SCHEMA = Schema(
    (
        Field("at", "timestamp"),
        Field("select from", "float", minimum=0, maximum=200),
        Field("rooms", "integer"),
        Field("kind", "category"),
        Field("note", "text"),
    ),
    target="price",
    timestamp="at",
)
JSON_TYPE = "application/json"
SPREAD = 2.0


class Echo:
    """Stands for a model: the sum of the numbers that are there, plus the version; the spread is `SPREAD`."""

    numbers = SCHEMA.numeric
    categories = SCHEMA.categories
    by_row = True

    def __init__(self, version: int) -> None:
        self.version = version
        self.asked: list[tuple[np.ndarray, np.ndarray]] = []

    def predict_with_spread(self, numbers: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append((numbers, categories))
        return np.asarray(np.nansum(numbers, axis=1) + self.version), np.full(len(numbers), SPREAD)


@dataclass
class Asking:
    """An application with the endpoint, in memory."""

    serving: Serving | None = None
    store: MemoryStore = field(default_factory=MemoryStore)
    settings: Settings = field(default_factory=Settings)
    tracer: Tracer | None = None

    def __post_init__(self) -> None:
        logs = {"records": self.store.log("predictions", PREDICTIONS), "events": self.store.log("events", events.SCHEMA)}
        self.told = Events("trainer", logs["events"])
        self.answers = Answers(logs["records"], self.told)
        self.service = Service("trainer", self.settings, {}, logs, self.told, tracer=self.tracer)
        endpoint = Predict(SCHEMA, lambda: self.serving, lambda: "no model yet: 3 of 100 labelled rows", self.answers)
        self.app: FastAPI = create_app(self.service, None, [Route("/predict", endpoint, methods=["POST"])], endpoint)

    def serve(self, version: int, half_width: float | None = None) -> Echo:
        echo = Echo(version)
        multiplier = None if half_width is None else half_width / SPREAD
        self.serving = Serving(version, echo, multiplier)  # type: ignore[arg-type]
        return echo

    async def call(
        self, body: bytes, kind: str | None = JSON_TYPE, method: str = "POST", chunks: int = 1, accept: str | None = None
    ) -> tuple[int, Mapping[str, str], Any]:
        """One request, through the whole application."""
        size = max(1, -(-len(body) // chunks))
        parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
        messages = [{"type": "http.request", "body": part, "more_body": i + 1 < len(parts)} for i, part in enumerate(parts)]
        headers = [(b"content-type", kind.encode())] if kind is not None else []
        headers += [(b"accept", accept.encode())] if accept is not None else []
        scope = {
            "type": "http", "method": method, "path": "/predict", "raw_path": b"/predict", "root_path": "", "scheme": "http",
            "query_string": b"", "headers": headers, "http_version": "1.1", "server": ("x", 80), "client": ("x", 1),
        }  # fmt: skip
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        content = b"".join(m["body"] for m in sent[1:])
        return sent[0]["status"], found, content if found["content-type"] in (NDJSON, ARROW) else json.loads(content)

    def ask(self, body: bytes, kind: str | None = JSON_TYPE, **more: Any) -> tuple[int, Mapping[str, str], Any]:
        return asyncio.run(self.call(body, kind, **more))
