"""Where the learner's stage stands between two batches, and as bytes.

Invariant: what `load` makes of what `dump` wrote is equal to it, bit for bit; Python writes floats so that they
read back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from correnteza.trainer import drift
from correnteza.trainer.conformal import Conformal
from correnteza.trainer.duel import Duel
from correnteza.trainer.scores import Drag, Score
from correnteza.trainer.totals import Totals


@dataclass(frozen=True, slots=True)
class Trial:
    """Two versions that answer the same rows.

    Args:
        version: the one in question.
        against: the one that it is compared with.
        duel: the test.
    """

    version: int
    against: int
    duel: Duel


@dataclass(frozen=True, slots=True)
class Change:
    """A rise of the error.

    Args:
        found: number of the labelled row at which it was found.
        start: number of the labelled row from which on the world is another one.
    """

    found: int
    start: int


@dataclass(frozen=True, slots=True)
class State:
    """Where the learner stands.

    Args:
        conformal: what intervals are made from.
        error: watches the champion's error.
        fields: watches each field.
        target: watches the target.
        offset: of the last row read from `normalized`; 0 before the first.
        rows: labelled rows so far.
        target_sum: sum of their targets in the order of the rows, in the target's unit.
        last_target: the last of them; NaN before the first.
        scores: recent errors of the experts.
        recent: number and error of the last tested rows, by the first expert of the newest version.
        drag: what those errors tell of the next.
        trial: challenger against champion; None without a challenger.
        watch: champion against its parent; None when that is settled.
        change: the last rise of the error.
        totals: errors since the stream began.
        fresh: the labelled rows of the last step, to be learned from once it is committed; not written down.
    """

    conformal: Conformal
    error: drift.Monitor
    fields: drift.Monitors
    target: drift.Monitor
    offset: int = 0
    rows: int = 0
    target_sum: float = 0.0
    last_target: float = float("nan")
    scores: Mapping[int, Score] = field(default_factory=dict)
    recent: tuple[tuple[int, float], ...] = ()
    drag: Drag = field(default_factory=Drag)
    trial: Trial | None = None
    watch: Trial | None = None
    change: Change | None = None
    totals: Totals = field(default_factory=Totals)
    fresh: pa.RecordBatch | None = None


def drift_of(state: State) -> dict[str, Any]:
    """What the monitors say, by field and for target and error: how far from the reference, and the row of the last drift."""
    scores, drifted = state.fields.scores(), state.fields.drifted()
    fields = {name: {"score": round(scores[name], 3), "drifted_at_row": drifted[name]} for name in scores}
    alone = {"target": state.target, "error": state.error}
    return {"fields": fields, **{n: {"score": round(m.score(), 3), "drifted_at_row": m.drifted} for n, m in alone.items()}}


def dump(state: State) -> bytes:
    """The state as bytes; equal states give equal bytes."""
    values: dict[str, Any] = {name: getattr(state, name) for name in ("offset", "rows", "target_sum", "recent")}
    values["last_target"] = None if np.isnan(state.last_target) else state.last_target
    values |= {name: getattr(state, name).plain() for name in ("conformal", "error", "fields", "target", "totals")}
    values["drag"] = asdict(state.drag)
    values["scores"] = {str(number): asdict(score) for number, score in sorted(state.scores.items())}
    values |= {name: _plain_trial(getattr(state, name)) for name in ("trial", "watch")}
    values["change"] = state.change and asdict(state.change)
    return json.dumps(values, sort_keys=True).encode()


def load(blob: bytes) -> State:
    """The state that `dump` wrote."""
    values = json.loads(blob)
    return State(
        conformal=Conformal.of(values["conformal"]),
        error=drift.Monitor.of(values["error"]),
        fields=drift.Monitors.of(values["fields"]),
        target=drift.Monitor.of(values["target"]),
        offset=values["offset"],
        rows=values["rows"],
        target_sum=values["target_sum"],
        last_target=float("nan") if values["last_target"] is None else values["last_target"],
        scores={int(number): Score(**score) for number, score in values["scores"].items()},
        recent=tuple((number, error) for number, error in values["recent"]),
        drag=Drag(values["drag"]["bias"], Score(**values["drag"]["plain"]), Score(**values["drag"]["corrected"])),
        trial=_trial_of(values["trial"]),
        watch=_trial_of(values["watch"]),
        change=values["change"] and Change(**values["change"]),
        totals=Totals.of(values["totals"]),
    )


def _plain_trial(trial: Trial | None) -> dict[str, Any] | None:
    return None if trial is None else {"version": trial.version, "against": trial.against, "duel": trial.duel.plain()}


def _trial_of(plain: Mapping[str, Any] | None) -> Trial | None:
    return None if plain is None else Trial(plain["version"], plain["against"], Duel.of(plain["duel"]))
