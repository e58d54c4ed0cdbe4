"""A learner over records that come without their target, and outcomes in a log of their own; for several tests."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from correnteza.features import CATEGORIES, SCALERS
from correnteza.log.memory import MemoryStore
from correnteza.records import OFFSET
from correnteza.stage import Runner
from correnteza.testing import read_all
from correnteza.trainer.answers import PREDICTIONS
from correnteza.trainer.labels import LABELS, LOG, OUTCOMES
from correnteza.trainer.learning import Learner
from correnteza.trainer.ledger import Ledger

from .worlds import Ending, Killed, Trainings, World, upstream_of

ROWS = 600
ANSWER = ("model_version", "prediction", "lower", "upper", "spread", "multiplier")
"""What was said to a record, as `evaluations` has it."""


@dataclass
class Late(World):
    """A learner over a ledger: records, outcomes and predictions come when a test says so."""

    now_s: float = 5000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole, self.source = self.source, MemoryStore()
        for name, schema in (("scalers", SCALERS), ("categories", CATEGORIES)):
            rows = whole.log(name, schema).read(None, 10_000).batch
            self.source.log(name, schema).append(rows.select(schema.names))
        self.rows = whole.log("normalized", self.schema.normalized).read(None, 10_000).batch.drop_columns([OFFSET])
        self.normalized = self.source.log("normalized", self.schema.normalized)
        self.outcomes = self.source.log("outcomes", OUTCOMES)
        self.predictions = self.store.log("predictions", PREDICTIONS)
        self.labels = self.store.log(LOG, LABELS)
        self.arrived = 0
        self.alive: Learner | None = None

    def arrive(self, rows: int) -> None:
        self.normalized.append(self.rows.slice(self.arrived, rows))
        self.arrived += rows

    def tell(self, outcomes: dict[str, float]) -> None:
        rows = [{"id": key, "target": target} for key, target in outcomes.items()]
        self.outcomes.append(pa.RecordBatch.from_pylist(rows, schema=OUTCOMES))

    def learner(self) -> Learner:
        """A learner that has just been started, and a ledger with it."""
        upstream = upstream_of(self.source, self.schema)
        horizon = self.settings.label_horizon_rows
        self.ledger = Ledger(
            upstream, self.outcomes, self.predictions, self.labels, self.schema, self.told, horizon, lambda: self.now_s
        )
        return Learner(
            self.settings,
            self.schema,
            self.store,
            self.registry,
            upstream,
            self.trainings,
            self.told,
            threading.Event(),
            clock=lambda: self.clock,
            past=self.ledger.past,
        )

    def go_on(self) -> Learner:
        """Let the learner read to the end of all logs; the one that lives, or after a restart a new one."""
        if self.alive is None:
            self.alive = self.learner()
            self.alive.restore()
        learner = self.alive
        source = Ending(self.ledger, self.cuts)  # type: ignore[arg-type]
        runner = Runner(
            learner.stage,
            source,
            self.store,
            self.told,
            batch_rows=self.settings.batch_rows,
            limit=learner.limit,
            between=learner.between,
            wait_s=0.0,
        )
        source.end = runner.ask_to_stop
        runner.run()
        return learner

    def restart(self) -> None:
        """As after `kill -9`: only what was committed is known."""
        self.alive, self.trainings = None, Trainings()

    def tell_and_go_on(self, truths: list[float], first: int, last: int) -> Learner:
        """The truth of the records from one offset to another, and all that follows from it."""
        self.tell({f"r{offset - 1}": truths[offset - 1] for offset in range(first, last + 1)})
        return self.go_on()

    def answers(self) -> dict[int, dict[str, Any]]:
        """What was said to the records when they arrived, by offset."""
        rows = self.evaluations()
        return {row["normalized_offset"]: {n: row[n] for n in ANSWER} for row in rows if row["target"] is None}

    def joined(self) -> list[dict[str, Any]]:
        """The evaluations of outcomes."""
        return [row for row in self.evaluations() if row["label_offset"] is not None]

    def taken(self, effect: str) -> list[dict[str, Any]]:
        """The rows of `labels` with an effect."""
        return [row for row in read_all(self.labels) if row["effect"] == effect]

    def everything(self) -> dict[str, Any]:
        return {**super().everything(), "labels": read_all(self.labels)}


def asked(key: str, version: int, said: float, record: dict[str, Any]) -> dict[str, Any]:
    return {
        "prediction_id": key,
        "at": datetime.fromtimestamp(4990, UTC),
        "model_version": version,
        "prediction": said,
        "lower": said - 5.0,
        "upper": said + 5.0,
        "record": json.dumps({"id": key, **record}),
    }


def played(world: Late, truths: list[float]) -> Late:
    """Records and outcomes by turns: most labels 60 records late, some never, some corrected, some of predictions."""
    while world.arrived < ROWS:
        done = world.arrived
        world.arrive(40)
        known = range(max(0, done - 60), max(0, done - 20))
        world.tell({f"r{i}": truths[i] for i in known if i % 7})
        world.tell({f"r{i}": truths[i] + 1.0 for i in range(max(0, done - 100), max(0, done - 60)) if i % 5 == 1})
        world.tell({f"p{done}": 300.0, "nobody": 1.0})
        rows = [asked(f"p{done}", 1, 300.0 + done, {"size": 90.0})]
        world.predictions.append(pa.RecordBatch.from_pylist(rows, schema=PREDICTIONS))
        while True:
            try:
                world.go_on()
                break
            except Killed:
                world.restart()
    return world
