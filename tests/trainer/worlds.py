"""What the learner's tests share: a stream, a normalizer's logs of it, and a learner that can be killed.

There are three ways to learn: `BY_ROWS` fits one tree anew to the window, and each version goes into service;
`TESTED` is as the settings are by default but for its size, so that versions are recipes and are tested in shadow;
`AUTO` trains as often as it is worth, too.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from correnteza import config, events
from correnteza.errors import LogUnavailableError, TrainingFailedError
from correnteza.events import Events
from correnteza.features import CATEGORIES, SCALERS
from correnteza.log.base import Appended, Slice
from correnteza.log.memory import MemoryStore
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import Field, Schema
from correnteza.stage import Runner
from correnteza.testing import read_all
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.forest import Memo
from correnteza.trainer.handover import REQUESTS
from correnteza.trainer.learning import Learner
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS
from correnteza.trainer.registry import MODELS, Registry
from correnteza.trainer.state import State
from correnteza.trainer.training import Job, Trained, fit, grow
from correnteza.trainer.upstream import Upstream

SCHEMA = Schema((Field("size", "float"), Field("rooms", "integer"), Field("kind", "category"), Field("note", "text")), "price")
KEY = b"k" * 32
TREE: Mapping[str, Any] = {"estimator": "sklearn.tree.DecisionTreeRegressor", "params": {"max_leaf_nodes": 12}}
SMALL: Mapping[str, Any] = {
    "window_rows": 150,
    "min_rows": 60,
    "metric_rows": 80,
    "batch_rows": 64,
    "keep_versions": 2,
    "keep_older": 0,
}
BY_ROWS = config.Trainer(**TREE, **SMALL, policy="plain", promotion="newest", retrain_every_rows=90)
FOREST: Mapping[str, Any] = {"params": {"n_estimators": 6, "min_samples_leaf": 3}}
TESTED = config.Trainer(**FOREST, **SMALL, retrain_every_rows=90)
AUTO = config.Trainer(**FOREST, **SMALL, retrain_every_rows="auto")
WAYS = {"newest": BY_ROWS, "tested": TESTED}


def raw(rows: int, labelled: Callable[[int], bool] = lambda i: i % 9 != 4, turned: float = math.inf) -> pa.RecordBatch:
    """Records whose scale drifts, so that there are several scaler versions, and new categories keep coming.

    From the record `turned` on, larger is cheaper.
    """
    rng = np.random.default_rng(5)
    found = []
    for i in range(rows):
        size = float(rng.normal(80 + i / 4, 10 + i / 40))
        kind = f"k{rng.integers(0, 2 + i // 60)}"
        price = (3 if i < turned else -5) * size + 20 * int(kind[1:]) + float(rng.normal(0, 4))
        row = {
            "id": f"r{i}",
            "size": size if i % 11 else None,
            "rooms": int(rng.integers(1, 9)),
            "kind": kind if i % 13 else None,
        }
        found.append({**row, "note": None, "price": price if labelled(i) else None})
    return pa.RecordBatch.from_pylist(found, schema=SCHEMA.raw)


def normalized(records: pa.RecordBatch, schema: Schema = SCHEMA) -> MemoryStore:
    """What the normalizer's store holds after it has seen the records."""
    stage = NormalizerStage(schema, config.Normalizer(block_rows=32, max_categories=5))
    store, source = MemoryStore(), MemoryStore().log("raw", schema.recorded.raw)
    for name, columns in stage.outputs.items():
        store.log(name, columns)
    source.append(records)
    step = stage.step(stage.initial(), source.read(None, records.num_rows).batch)
    for name, rows in step.outputs.items():
        store.log(name, stage.outputs[name]).append(rows)
    return store


def upstream_of(store: MemoryStore, schema: Schema = SCHEMA) -> Upstream:
    rows = store.log("normalized", schema.normalized)
    return Upstream(rows, store.log("scalers", SCALERS), store.log("categories", CATEGORIES), schema)


class Killed(BaseException):
    """Stands for kill -9 at one instant: nothing of what comes after it is done."""


class Trainings:
    """Trains at once and in this process; outcomes can be held back, spoilt, or be those of somebody who is killed."""

    def __init__(self, spoil: Mapping[int, str] | None = None, hold: bool = False) -> None:
        self.jobs: list[Job] = []
        self._released = threading.Event()
        self.hold = hold
        self.busy = False
        self._spoil = spoil or {}
        self._killed = ""
        self._grown = Memo()
        self._ahead: list[Job] = []

    @property
    def hold(self) -> bool:
        return not self._released.is_set()

    @hold.setter
    def hold(self, held: bool) -> None:
        (self._released.clear if held else self._released.set)()

    @property
    def fresh(self) -> bool:
        return not self._grown.parts

    def start(self, job: Job) -> None:
        assert not self.busy
        self.jobs.append(job)
        self.busy = True

    def settle(self, timeout_s: float) -> None:
        self._released.wait(timeout_s)

    def look_ahead(self, job: Job) -> None:
        self._ahead.append(job)

    def poll(self) -> Trained | None:
        reason = self._killed or self._spoil.get(len(self.jobs), "")
        if self.hold and not reason:
            return None
        self.busy, self._killed = False, ""
        if reason:
            raise TrainingFailedError(reason)
        trained = fit(self.jobs[-1], self._grown)
        while self._ahead:
            grow(self._ahead.pop(0), self._grown)
        return trained

    def kill(self, reason: str) -> None:
        self._killed = reason


class Mortal(MemoryStore):
    """A store whose process is killed before or after one of its commits, or that cannot answer for once."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.kill_before = self.kill_after = self.busy_at = -1

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        self.commits += 1
        if self.commits == self.busy_at:
            raise LogUnavailableError("busy")
        if self.commits == self.kill_before:
            raise Killed
        appended = super().commit(stage, epoch, position, state, outputs)
        if self.commits == self.kill_after:
            raise Killed
        return appended


@dataclass
class World:
    """A learner over logs in memory and model files in a folder."""

    folder: Path
    source: MemoryStore
    settings: config.Trainer = BY_ROWS
    store: Mortal = field(default_factory=Mortal)
    trainings: Trainings = field(default_factory=Trainings)
    cuts: Iterator[int] | None = None
    clock: float = 0.0
    schema: Schema = SCHEMA

    def __post_init__(self) -> None:
        for name, schema in (("events", events.SCHEMA), ("evaluations", EVALUATIONS), ("models", MODELS)):
            self.store.log(name, schema)
        self.promotions = self.store.log("promotions", PROMOTIONS)
        self.requests = self.store.log("requests", REQUESTS)
        self.registry = Registry(self.folder / "models", self.store, KEY)
        self.told = Events("learner", self.store.log("events", events.SCHEMA))

    def learner(self) -> Learner:
        """A learner that has just been started, not restored yet."""
        self.stopping = threading.Event()
        return Learner(
            self.settings,
            self.schema,
            self.store,
            self.registry,
            upstream_of(self.source, self.schema),
            self.trainings,
            self.told,
            self.stopping,
            clock=lambda: self.clock,
        )

    def run(self, learner: Learner | None = None, between: Callable[[State], None] | None = None) -> Learner:
        """Start a learner and let it read to the end of the log."""
        learner = learner or self.learner()
        source = Ending(learner._upstream, self.cuts)

        def both(state: State) -> None:
            learner.between(state)
            if between is not None:
                between(state)

        runner = Runner(
            learner.stage,
            source,
            self.store,
            self.told,
            batch_rows=self.settings.batch_rows,
            limit=learner.limit,
            between=both,
            wait_s=0.0,
        )
        source.end = runner.ask_to_stop
        learner.restore()
        runner.run()
        return learner

    def ask_for_a_training(self) -> None:
        self.requests.append(pa.RecordBatch.from_pylist([{"at": None, "reason": "POST /train"}], schema=REQUESTS))

    def evaluations(self) -> list[dict[str, Any]]:
        return read_all(self.store.log("evaluations", EVALUATIONS))

    def models(self) -> list[dict[str, Any]]:
        """Rows of `models` without what a clock says."""
        rows = read_all(self.store.log("models", MODELS))
        return [{k: v for k, v in row.items() if k not in ("created_at", "train_s", "size_bytes")} for row in rows]

    def promoted(self) -> list[int]:
        return [row["version"] for row in read_all(self.promotions)]

    def decisions(self) -> list[dict[str, Any]]:
        """What was decided about versions, without when."""
        rows = read_all(self.store.log("decisions", DECISIONS))
        return [{k: v for k, v in row.items() if k != "at"} for row in rows]

    def kinds(self) -> list[str]:
        return [row["kind"] for row in read_all(self.store.log("events", events.SCHEMA))]

    def state(self) -> bytes | None:
        return self.store._stages["learner"].state

    def everything(self) -> dict[str, Any]:
        """All that must be the same however the run went."""
        promotions = [{k: v for k, v in row.items() if k != "at"} for row in read_all(self.promotions)]
        found = {"rows": self.evaluations(), "models": self.models(), "state": self.state()}
        return {**found, "promotions": promotions, "decisions": self.decisions()}


class Ending:
    """A source that cuts its batches as told, and tells when there is nothing more."""

    def __init__(self, source: Upstream, cuts: Iterator[int] | None) -> None:
        self._source = source
        self._cuts = cuts
        self.end: Callable[[], None] = lambda: None

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        part = self._source.read(after, limit if self._cuts is None else min(limit, next(self._cuts)), wait_s, back)
        if not part.batch.num_rows:
            self.end()
        return part


def random_cuts(seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.choice([1, 2, 7, 40, 1000]))
