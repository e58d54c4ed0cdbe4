"""What becomes of model versions: the rows of the logs `promotions` and `decisions`.

Invariants:
- The last row of `promotions` says which version is in service, whoever put it there.
- The last row of `decisions` about a version says what the trainer itself decided about it; what people do by
  hand stands in `promotions` alone.
- Rows are never changed. `evidence` is a JSON object of numbers; a number that is not finite stands there as null.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import pyarrow as pa

from correnteza.records import TIMESTAMP
from correnteza.trainer.artefacts import plain

Kind = Literal["first", "not_worse", "better", "drift", "young", "rollback", "by_hand", "unpinned", "newest"]
"""Why a version went into service: it is the first; a test found it not worse, or better; a drift was detected; its
successor was worse; somebody said so; somebody took the pin away; it is the newest, where nothing is tested. `young`:
it has learned from too few rows to be worth a test."""
Decision = Literal["promoted", "refused", "superseded", "held", "rolled_back"]
"""`superseded`: a newer challenger came before this one was decided about; `held`: another version was pinned."""

PROMOTIONS = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("at", TIMESTAMP),
        pa.field("reason", pa.string()),
        pa.field("pinned", pa.int64()),
        pa.field("previous", pa.int64()),
        pa.field("kind", pa.string()),
        pa.field("evidence", pa.string()),
    ]
)
"""Columns of the log `promotions`; `pinned` is 0 or 1, `previous` the version in service before (null for the first)."""

DECISIONS = pa.schema(
    [
        pa.field("version", pa.int64()),
        pa.field("at", TIMESTAMP),
        pa.field("decision", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("evidence", pa.string()),
    ]
)
"""Columns of the log `decisions`: a row per decision of the trainer about a version."""


@dataclass(frozen=True, slots=True)
class Current:
    """Which version is in service.

    Args:
        version: its number.
        pinned: whether newer versions must not replace it by themselves.
        reason: why it was promoted.
    """

    version: int
    pinned: bool
    reason: str


def promotion_rows(
    version: int,
    at: datetime,
    reason: str,
    pinned: bool = False,
    *,
    kind: Kind = "newest",
    previous: int | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> pa.RecordBatch:
    """A row for the log `promotions`.

    Args:
        version: what goes into service.
        at: when, with a time zone.
        reason: why, in words that can stand behind a colon.
        pinned: whether newer versions must not replace it by themselves.
        kind: why, in a fixed word.
        previous: the version in service before; None for the first.
        evidence: numbers behind it, as `rows`, `champion_mae`, `challenger_mae`, `log_wealth`. The challenger is the
            version that was judged: in a rollback the one that leaves.
    """
    row = {"version": version, "at": at, "reason": reason, "pinned": int(pinned), "previous": previous, "kind": kind}
    return pa.RecordBatch.from_pylist([{**row, "evidence": _text(evidence)}], schema=PROMOTIONS)


def decision_rows(
    version: int, at: datetime, decision: Decision, reason: str, evidence: Mapping[str, Any] | None = None
) -> pa.RecordBatch:
    """A row for the log `decisions`.

    Args:
        version: what was decided about.
        at: when, with a time zone.
        decision: in a fixed word.
        reason: why, in words that can stand behind a colon.
        evidence: numbers behind it, as for `promotion_rows`.
    """
    row = {"version": version, "at": at, "decision": decision, "reason": reason, "evidence": _text(evidence)}
    return pa.RecordBatch.from_pylist([row], schema=DECISIONS)


def _text(evidence: Mapping[str, Any] | None) -> str:
    return json.dumps(plain(dict(evidence or {})))
