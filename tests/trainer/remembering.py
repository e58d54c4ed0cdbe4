"""A normalizer whose features remember, in memory, for tests of those who follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from correnteza import config, events
from correnteza.errors import LogUnavailableError
from correnteza.events import Events
from correnteza.log.base import Policy, Slice
from correnteza.log.memory import MemoryStore
from correnteza.memory import Limits
from correnteza.normalizer.remembering import Remembered
from correnteza.normalizer.stage import NormalizerStage
from correnteza.records import Schema
from correnteza.stage import Source
from correnteza.trainer.deriving import Deriving
from correnteza.trainer.following import Following

FEATURES = (
    {"name": "last", "of": "y", "how": "lag", "rows": 1, "by": "shop"},
    {"name": "mean", "of": "y", "how": "mean", "rows": 3, "by": "shop"},
    {"name": "day_ago", "of": "y", "how": "lag", "seconds": 86_400},
    {"name": "hour_sum", "of": "x", "how": "sum", "seconds": 3600, "by": "line"},
    {"name": "step", "of": "x", "how": "delta", "rows": 1, "by": "shop"},
    {"name": "seen", "of": "x", "how": "count", "rows": 9, "by": "shop"},
    {"name": "since", "of": "at", "how": "since", "by": "shop"},
    {"name": "hour", "of": "at", "how": "hour"},
    {"name": "ratio", "of": ["x", "line"], "how": "ratio"},
)
FIELDS = {"at": "timestamp", "shop": "category", "line": "integer", "x": "float"}
LIMITS = Limits(block_rows=8, snapshot_rows=16)
NOW_US = 1_790_000_000_000_000


def settings_in(folder: Path, features: Sequence[Mapping[str, Any]] = FEATURES, **tables: Any) -> config.Settings:
    """Settings of a stream of shops."""
    schema = {"target": "y", "timestamp": "at", "fields": FIELDS}
    table = {"pipeline": {"data_dir": str(folder)}, "schema": schema, "features": list(features)}
    return config.load(overrides={**table, **tables})


@dataclass
class Remembering:
    """The normalizer's logs, filled record by record."""

    settings: config.Settings
    down: bool = False
    store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.kept = Remembered(self.store, self.schema, LIMITS, None)
        self.stage = NormalizerStage(self.schema, self.settings.normalizer, self.kept.recall)
        self.stage.deriving._memory.limits = LIMITS
        for name, columns in self.stage.outputs.items():
            self.store.log(name, columns)
        self.state = self.stage.initial()
        self.raw = MemoryStore().log("raw", self.settings.schema_of_records.raw)
        self.epoch = self.store.claim("normalizer").epoch

    @property
    def schema(self) -> Schema:
        return self.settings.schema_of_model

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """One step over some records."""
        before = self.raw.bounds().next
        self.raw.append(pa.RecordBatch.from_pylist(list(records), schema=self.raw.schema))
        step = self.stage.step(self.state, self.raw.read(self.raw.cursor(before - 1), len(records)).batch)
        self.store.commit("normalizer", self.epoch, None, b"", step.outputs)
        self.state = step.state

    def forget(self) -> None:
        """Retention takes what lies before the last snapshot, though a follower may not have read it."""
        end = self.kept.entries.bounds().next - 1
        since = end - self.stage.deriving.snapshot_offset
        self.kept.entries.trim(Policy(rows=since, hard_rows=since), 0.0)

    def log(self) -> Source:
        """What `GET /memory` reads."""
        return _Up(self, lambda after, limit: self.kept.entries.read(after, limit))

    def snapshot(self) -> Source:
        """What `GET /memory/snapshot` answers."""
        return _Up(self, lambda _after, _limit: self._snapshot())

    def _snapshot(self) -> Slice:
        rows = self.kept.snapshot()
        offset = rows["memory_offset"][0].as_py() if rows.num_rows else 0
        return Slice(rows, self.kept.entries.cursor(offset), 0)


@dataclass
class _Up:
    """A source that answers while the normalizer does."""

    of: Remembering
    answer: Any

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        if self.of.down:
            raise LogUnavailableError("http://x does not answer; is the service running?")
        found: Slice = self.answer(after, limit)
        return found


@dataclass
class Followed:
    """A server's memory of such a stream, with a clock that the test moves."""

    of: Remembering
    now_us: int = NOW_US

    def __post_init__(self) -> None:
        self.log = MemoryStore().log("events", events.SCHEMA)
        told = Events("trainer", self.log)
        schema = self.of.schema
        self.memory = Following(schema, LIMITS, self.of.log(), self.of.snapshot(), told, lambda: self.now_us / 1e6)
        self.deriving = Deriving(schema, self.memory, lambda: self.now_us)

    def kinds(self) -> list[str]:
        return list(self.log.read(None, 1000).batch["kind"].to_pylist())
