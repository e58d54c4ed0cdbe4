"""The normalizer as a service: the generator's log in, `normalized`, `rejected`, `scalers` and `categories` out.

Invariants:
- `/status` and `/scalers/{version}` tell only what is committed: they read the logs, never the running stage.
- Retention never shortens `scalers` and `categories`: each row of `normalized` needs them to be understood.
"""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as Folder
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, FastAPI, Path
from starlette.responses import Response

from correnteza import events, lineages
from correnteza.codec import JSON
from correnteza.config import Settings
from correnteza.described import json_schema
from correnteza.events import Events
from correnteza.features import CATEGORIES, SCALERS
from correnteza.lineages import Lineage
from correnteza.log.base import Log, OwnedLog, Store
from correnteza.log.http import HttpLog
from correnteza.log.sql import SqlStore
from correnteza.memory import entries
from correnteza.metrics import Sample, sample
from correnteza.normalizer.ordering import InOrder
from correnteza.normalizer.reading import OUTCOMES, RecordsAndOutcomes
from correnteza.normalizer.remembering import Remembered
from correnteza.normalizer.stage import REJECTED, NormalizerStage, limits_of
from correnteza.records import INTEGER_LIMIT, empty, with_offsets
from correnteza.stage import GROUP_S, Figures, Runner, Source
from correnteza.tracing import opened
from correnteza.web import Service, create_app, problem, serve

NAME = "normalizer"
READ_ROWS = 10_000

Number = Annotated[int, Path(gt=0, le=INTEGER_LIMIT, description="Number of the version, from 1, which is the identity.")]

_NUMBER = {"type": "number"}
_STATISTICS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "mean": _NUMBER, "variance": _NUMBER, "scale": _NUMBER},
    "required": ["n", "mean", "variance", "scale"],
}
SCALER = {
    "type": "object",
    "properties": {
        "version": {"type": "integer"},
        "raw_offset": {"type": "integer"},
        "columns": {"type": "object", "additionalProperties": _STATISTICS},
    },
    "required": ["version", "raw_offset", "columns"],
}
"""JSON Schema of the answer of `GET /scalers/{version}`."""


def main(settings: Settings, listening: socket.socket) -> int:
    """Run the normalizer until it is told to stop; returns the exit code.

    Args:
        settings: of the pipeline.
        listening: the socket that clients connect to.

    Raises:
        CorrentezaError: the database cannot be taken.
    """
    import sklearn.preprocessing  # noqa: F401 - takes a second, which the first record should not wait for

    url = settings.services.url("generator")
    upstream = HttpLog(url, name="raw", schema=settings.schema_of_records.raw, reader=NAME)
    outcomes = HttpLog(url, name="outcomes", path="outcomes", schema=OUTCOMES, reader=NAME) if of_target(settings) else None
    lineage = lineages.current(settings)
    store = SqlStore(made(lineage.folder) / f"{NAME}.db")
    try:
        app, service = build(settings, store, upstream, outcomes, lineage)
        return serve(app, service, listening)
    finally:
        store.close()


def of_target(settings: Settings) -> bool:
    """Whether a feature remembers the target, so that outcomes are read too."""
    schema = settings.schema_of_model
    return schema.target in entries.sources_of(schema)


def made(folder: Folder) -> Folder:
    """A folder, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def build(
    settings: Settings, store: Store, source: Source, outcomes: Source | None = None, lineage: Lineage | None = None
) -> tuple[FastAPI, Service]:
    """The application and the service behind it, not started.

    Args:
        settings: of the pipeline.
        store: where its logs, state and position are kept.
        source: the raw log.
        outcomes: the log of outcomes, read when a feature remembers the target.
        lineage: of the definitions of features; None where there is no other.
    """
    schema = settings.schema_of_model
    kept = _remembered(settings, store)
    stage = NormalizerStage(schema, settings.normalizer, None if kept is None else kept.recall)
    logs = {
        "records": store.log("normalized", schema.normalized),
        "rejected": store.log("rejected", REJECTED),
        "scalers": store.log("scalers", SCALERS, bounded=False),
        "categories": store.log("categories", CATEGORIES, bounded=False),
        "events": store.log("events", events.SCHEMA),
        **({} if kept is None else {entries.LOG: kept.entries}),
    }
    told = Events(NAME, logs["events"])
    tracer = opened(settings.tracing.endpoint, settings.tracing.sample, NAME, settings.pipeline.name, told.emit)
    records = InOrder(source, schema, settings.normalizer)
    figures = Committed(
        logs["records"], logs["rejected"], logs["scalers"], logs["categories"], schema.numeric, schema.categories
    )
    runner = Runner(
        stage,
        records if outcomes is None else RecordsAndOutcomes(records, outcomes, told),
        store,
        told,
        batch_rows=settings.normalizer.batch_rows,
        group_s=GROUP_S,
        tracer=tracer,
        between=None if kept is None else lambda _: kept.trim(stage.deriving.snapshot_offset),
    )
    backfill = None if lineage is None or lineage.number == 1 else Backfill(lineage, runner.figures, told, figures.rows())
    service = Service(
        name=NAME,
        settings=settings,
        schema=json_schema(with_offsets(empty(schema.normalized), 1).schema, "normalized"),
        logs=logs,
        events=told,
        store=store,
        runners=(runner,),
        tracer=tracer,
        status=lambda: {
            **figures.status(),
            **records.figures,
            **({} if kept is None else {"memory": kept.status()}),
            **({} if backfill is None else backfill.status(figures.rows())),
        },
        samples=_samples,
    )
    routes = routes_of(figures)
    if kept is not None:
        routes.include_router(kept.routes())
    return create_app(service, routes), service


def _remembered(settings: Settings, store: Store) -> Remembered | None:
    """The logs of the memory, where a feature has one."""
    schema = settings.schema_of_model
    if not any(one.remembers for one in schema.derived):
        return None
    return Remembered(store, schema, limits_of(settings.normalizer), settings.retention.hard_rows)


def _samples(status: Mapping[str, Any]) -> Iterator[Sample]:
    yield sample("correnteza_scaler_version", status["scaler_version"])
    for field, codes in status["categories"].items():
        yield sample("correnteza_category_codes", codes, field)


class Committed:
    """What the logs of the normalizer say about it. Safe to use from several threads.

    Args:
        normalized: the log `normalized`.
        rejected: the log `rejected`.
        scalers: the log `scalers`.
        categories: the log `categories`.
        numeric: names of the numeric fields, in order.
        encoded: names of the category fields, in order.
    """

    def __init__(
        self,
        normalized: OwnedLog,
        rejected: OwnedLog,
        scalers: OwnedLog,
        categories: OwnedLog,
        numeric: Sequence[str],
        encoded: Sequence[str],
    ) -> None:
        self._normalized = normalized
        self._rejected = rejected
        self._scalers = scalers
        self._categories = categories
        self._numeric = numeric
        self._counts = Counter(dict.fromkeys(encoded, 0))
        self._position: str | None = None
        self._lock = threading.Lock()

    def status(self) -> dict[str, Any]:
        """What is particular to the normalizer in `/status`: rows since the pipeline began, version, codes per field."""
        rejected = _ever(self._rejected)
        return {
            "raw_rows": self.rows(),
            "rejected_rows": rejected,
            "scaler_version": self._version(),
            "categories": self._codes(),
        }

    def rows(self) -> int:
        """Raw rows since the lineage began."""
        return _ever(self._normalized) + _ever(self._rejected)

    def scaler(self, version: int) -> dict[str, Any] | None:
        """One version with its statistics by field, or None when there is none of that number."""
        if not 1 <= version <= self._version():
            return None
        if not self._numeric:
            return {"version": version, "raw_offset": 0, "columns": {}}
        # Every version has a row for each field and none is ever removed, so the place of its rows is known.
        before = self._scalers.cursor((version - 1) * len(self._numeric))
        rows = self._scalers.read(before, len(self._numeric)).batch.to_pylist()
        columns = {row["field"]: {name: row[name] for name in ("n", "mean", "variance", "scale")} for row in rows}
        return {"version": version, "raw_offset": rows[0]["raw_offset"], "columns": columns}

    def _version(self) -> int:
        """The latest version; 0 before the first row."""
        if not self._numeric:
            return int(_ever(self._normalized) + _ever(self._rejected) > 0)
        return _ever(self._scalers) // len(self._numeric)

    def _codes(self) -> dict[str, int]:
        """How many codes each category field has; reads only what came since the last call."""
        with self._lock:
            while True:
                part = self._categories.read(self._position, READ_ROWS)
                self._counts.update(part.batch.column("field").to_pylist())
                self._position = part.next
                if not part.lag_rows:
                    return dict(self._counts)


class Backfill:
    """How far a lineage that began later than the stream has made its outputs anew.

    Args:
        lineage: which one.
        figures: of the stage.
        told: where it is told that it began.
        rows: raw rows that it has seen so far.
    """

    def __init__(self, lineage: Lineage, figures: Figures, told: Events, rows: int) -> None:
        self._number = lineage.number
        self._figures = figures
        self._over = False
        if lineage.before is not None and not rows:
            reason = (
                f"[[features]] changed: {lineages.changes(lineage.before, lineage)}; lineage {lineage.number} begins, and its "
                "outputs are made anew from the generator's log as far as that is kept"
            )
            told.emit("lineage_began", reason, lineage=lineage.number, before=lineage.before.number)

    def status(self, rows: int) -> dict[str, Any]:
        """For `/status`: the lineage, and while it is made anew how far it is.

        Args:
            rows: raw rows that it has seen so far.
        """
        behind = self._figures.lag_rows
        self._over = self._over or (bool(rows) and not behind)
        share = 1.0 if self._over else rows / max(1, rows + behind)
        told: dict[str, Any] = {"lineage": {"number": self._number, "backfill": round(share, 4)}}
        if not self._over and not self._figures.reason:
            told["reason"] = f"lineage {self._number} is made anew from the log: {share:.0%} of {rows + behind:,} records"
        return told


def _ever(log: Log) -> int:
    """How many rows were ever appended to a log, those that retention removed included."""
    return log.bounds().next - 1


def routes_of(figures: Committed) -> APIRouter:
    """The routes that only the normalizer has."""
    routes = APIRouter(tags=["scalers"])

    @routes.get(
        "/scalers/{version}",
        summary="One version of the statistics, by field",
        responses={200: {"content": {JSON: {"schema": SCALER}}}},
        response_class=Response,
    )
    def scaler(version: Number) -> Response:
        found = figures.scaler(version)
        if found is None:
            return problem(404, f"there is no scaler version {version}; GET /scalers lists them all")
        return Response(msgspec.json.encode(found), media_type=JSON)

    return routes
