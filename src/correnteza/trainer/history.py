"""The story of the model versions in sentences, oldest first, for `correnteza models history`.

Invariant: everything but `story` is a pure function of rows of logs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from correnteza.events import SCHEMA
from correnteza.log.base import Store
from correnteza.trainer.promotions import DECISIONS, PROMOTIONS
from correnteza.trainer.registry import Registry

Row = Mapping[str, Any]
Told = tuple[datetime, str]

ROWS = 10_000
"""Rows that are looked through at the end of each log."""
BY_HAND = frozenset({"by_hand", "unpinned", "rollback"})
"""Kinds of promotions that are a story of their own, not the end of a training's."""
TROUBLES = {
    "training_failed": "a training failed",
    "training_refused": "a training that was asked for was refused",
    "model_refused": "a version was refused by the server",
}
OUTCOMES = {
    "promoted": "was put into service",
    "refused": "was refused",
    "superseded": "was superseded",
    "held": "was held back",
    "rolled_back": "was rolled back",
}
_PLAIN_REASONS = frozenset({"promoted by hand", "unpinned by hand", ""})


def story(store: Store, registry: Registry, last: int) -> list[str]:
    """The sentences about the last versions.

    Args:
        store: of the trainer.
        registry: the model versions.
        last: about so many versions, at least 1.
    """
    versions = registry.versions()
    models = [{name: getattr(row, name) for name in row.__slots__} for row in versions[-last:]]
    promotions = _rows(store, "promotions", PROMOTIONS)
    decisions = _rows(store, "decisions", DECISIONS)
    events = _rows(store, "events", SCHEMA)
    if len(models) < len(versions) or (models and models[0]["version"] > 1):
        since = models[0]["created_at"]
        promotions, decisions, events = ([r for r in rows if r["at"] >= since] for rows in (promotions, decisions, events))
    return sentences(models, promotions, decisions, events)


def sentences(models: Sequence[Row], promotions: Sequence[Row], decisions: Sequence[Row], events: Sequence[Row]) -> list[str]:
    """What happened, oldest first; each with its time of day (UTC), and the date where that is another than before.

    Args:
        models: rows of the log `models`, in order.
        promotions: rows of the log `promotions`, in order.
        decisions: rows of the log `decisions`, in order.
        events: rows of the log `events`, in order; those that are not about models are passed over.

    >>> at = datetime(2026, 3, 1, 14, 2, 11, tzinfo=UTC)
    >>> model = {"version": 7, "parent": 6, "created_at": at, "reason": "10 s had passed", "rows": 3120}
    >>> evidence = '{"rows": 240, "champion_mae": 655.0, "challenger_mae": 641.2}'
    >>> decision = {"version": 7, "at": at, "decision": "refused", "reason": "worse", "evidence": evidence}
    >>> sentences([model], [], [decision], [])  # doctest: +NORMALIZE_WHITESPACE
    ['2026-03-01 14:02:11 version 7 was trained on 3,120 rows (10 s had passed); it answered 240 records beside
    version 6 (MAE 641.2 against 655) and was refused: worse']
    """
    promoted = {row["version"]: place for place, row in reversed([*enumerate(promotions)]) if row.get("kind") not in BY_HAND}
    decided = {row["version"]: row for row in reversed(decisions) if row["decision"] != "rolled_back"}
    told = [_training(m, decided.get(m["version"]), _at(promotions, promoted.get(m["version"]))) for m in models]
    in_trainings = {promoted[model["version"]] for model in models if model["version"] in promoted}
    told += [_promotion(row) for place, row in enumerate(promotions) if place not in in_trainings]
    told += _rolled_back(decisions, promotions)
    told += _events(events)
    return [*_timed(sorted(told, key=lambda one: one[0]))]


def _rows(store: Store, name: str, schema: Any) -> list[dict[str, Any]]:
    """The last rows of a log."""
    log = store.log(name, schema, bounded=name == "events")
    head = log.bounds().next
    rows: list[dict[str, Any]] = log.read(log.cursor(head - 1), ROWS, back=ROWS).batch.to_pylist()
    return rows


def _at(rows: Sequence[Row], place: int | None) -> Row | None:
    return None if place is None else rows[place]


def _training(model: Row, decision: Row | None, promotion: Row | None) -> Told:
    """A version from its training to what the trainer decided about it first."""
    text = f"version {model['version']} was trained on {model['rows']:,} rows"
    text += f" ({model['reason']})" if model.get("reason") else ""
    outcome = decision or promotion
    if outcome is None:
        return model["created_at"], f"{text}; it is not in service, and nothing is decided about it yet"
    champion = (promotion or {}).get("previous") or model.get("parent")
    end = OUTCOMES.get(outcome.get("decision", "promoted"), str(outcome.get("decision")))
    trial = _trial(_evidence(outcome) or _evidence(promotion or {}), champion)
    return model["created_at"], f"{text}{trial} and {end}{_because(outcome)}"


def _trial(evidence: Row, champion: int | None) -> str:
    """What a challenger had to show, as a clause; empty when nothing was compared."""
    if not evidence.get("rows"):
        return ""
    beside = "" if champion is None else f" beside version {champion}"
    return f"; it answered {evidence['rows']:,} records{beside}{_errors(evidence)}"


def _errors(evidence: Row, over: bool = False) -> str:
    """Both errors in brackets, with the number of records if wanted; empty when they are not known."""
    challenger, champion = evidence.get("challenger_mae"), evidence.get("champion_mae")
    if challenger is None or champion is None:
        return ""
    rows = f" over {evidence['rows']:,} records" if over and evidence.get("rows") else ""
    return f" (MAE {_figure(challenger)} against {_figure(champion)}{rows})"


def _promotion(row: Row) -> Told:
    """A promotion that did not follow from a training."""
    version, previous, kind = row["version"], row.get("previous"), row.get("kind")
    if kind == "rollback" and previous is not None:
        numbers = _errors(_evidence(row), over=True)
        text = f"version {previous} was rolled back{numbers}, version {version} is in service again"
    elif kind == "unpinned":
        text = f"the pin was removed, and version {version} was put into service"
    elif row.get("pinned"):
        text = f"version {version} was put into service by hand and pinned"
    else:
        text = f"version {version} was put into service"
    return row["at"], text + _because(row)


def _rolled_back(decisions: Sequence[Row], promotions: Sequence[Row]) -> Iterator[Told]:
    """Versions that were taken out of service, where no promotion says so already."""
    known = {row.get("previous") for row in promotions if row.get("kind") == "rollback"}
    for row in decisions:
        if row["decision"] == "rolled_back" and row["version"] not in known:
            yield row["at"], f"version {row['version']} was rolled back{_errors(_evidence(row), over=True)}{_because(row)}"


def _events(events: Iterable[Row]) -> Iterator[Told]:
    for row in events:
        kind = row["kind"]
        if kind in TROUBLES or "drift" in kind:
            yield row["at"], TROUBLES.get(kind, kind.replace("_", " ")) + _because(row)


def _because(row: Row) -> str:
    reason = row.get("reason") or ""
    return "" if reason in _PLAIN_REASONS else f": {reason}"


def _evidence(row: Row) -> Row:
    found = json.loads(row.get("evidence") or "{}")
    return found if isinstance(found, dict) else {}


def _figure(value: float) -> str:
    """Four digits are enough to compare errors; more before the point are all written.

    >>> _figure(655.0), _figure(641.23), _figure(0.012345), _figure(1234567.8), _figure(1e300)
    ('655', '641.2', '0.01235', '1,234,568', '1e+300')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def _timed(told: Iterable[Told]) -> Iterator[str]:
    day = None
    for at, text in told:
        moment = at.astimezone(UTC)
        yield f"{moment:%H:%M:%S} {text}" if moment.date() == day else f"{moment:%Y-%m-%d %H:%M:%S} {text}"
        day = moment.date()
