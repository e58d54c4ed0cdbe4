"""What happened out of the ordinary: a gap, a reject, a failed training, a refused model.

Invariant: nothing is skipped in silence. Every event goes three ways: into the log `events` of the
service's store, into the log output, and into the count by kind that the metrics show.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa
import structlog

from correnteza.errors import LogError
from correnteza.records import TIMESTAMP

SCHEMA = pa.schema(
    [
        pa.field("at", TIMESTAMP),
        pa.field("service", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
    ]
)
"""Columns of the log `events`; `detail` is a JSON object."""
TROUBLE = ("_failed", "_died", "_refused", "_not_stored", "_not_followed", "_not_sent", "_removed", "_short", "gap")
"""Endings of the kinds that are printed as warnings."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Args:
        kind: what, in a fixed word: `scaler_version`, `training_failed`, `rows_skipped`.
        reason: why, in one sentence.
        detail: values that belong to it, as plain JSON values.
    """

    kind: str
    reason: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class EventLog(Protocol):
    """What takes rows of `SCHEMA`: the log `events` of a store."""

    def append(self, batch: pa.RecordBatch) -> object:
        """Append rows."""


class Events:
    """Takes events of one service.

    Args:
        service: name of the service.
        log: the log `events` of its store; None keeps them out of a database.
    """

    def __init__(self, service: str, log: EventLog | None = None) -> None:
        self.service = service
        self.counts: Counter[str] = Counter()
        self._log = log
        self._lock = threading.Lock()
        self._out = structlog.get_logger(service)

    def emit(self, kind: str, reason: str, **detail: Any) -> None:
        """Store and announce one event; see `Event` for the parameters."""
        event = Event(kind, reason, detail)
        self.announce(event)
        if self._log is None:
            return
        try:
            self._log.append(self.rows([event]))
        except LogError as error:
            self._out.error("event_not_stored", service=self.service, event_kind=kind, reason=str(error))

    def announce(self, event: Event) -> None:
        """Count and print an event that is stored by somebody else, as the runner does in its commit."""
        with self._lock:
            self.counts[event.kind] += 1
        tell = self._out.warning if event.kind.endswith(TROUBLE) else self._out.info
        tell(event.kind, service=self.service, reason=event.reason, **event.detail)

    def announce_start(self, url: str) -> None:
        """Print that the service listens; of no interest afterwards, so it is not stored."""
        self._out.info("listening", service=self.service, url=url)

    def rows(self, events: Sequence[Event]) -> pa.RecordBatch:
        """The events as rows of the log `events`, at the time of this call."""
        now = datetime.now(UTC)
        rows = [
            {
                "at": now,
                "service": self.service,
                "kind": event.kind,
                "reason": event.reason,
                "detail": json.dumps(dict(event.detail), default=str),
            }
            for event in events
        ]
        return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
