"""What the public API does not say by itself, found by asking it: which fields matter, and how they are distributed.

Invariants:
- Questions go to `POST /models/{version}/predict`, which stores nothing, so looking leaves no trace in the stream.
- A look asks for at most `MOST_ASKED` predictions and reads at most `SAMPLE_ROWS` records twice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from correnteza.client import Client
from correnteza.dashboard.feeds import Feed
from correnteza.records import Schema

MOST_ASKED = 4000
SHUFFLED_ROWS = 200
"""Records whose fields are shuffled for the importances."""
SAMPLE_ROWS = 500
SAMPLES = 5
"""Places of the training window that the sample is taken from."""
BINS = 24
CATEGORIES = 12
"""Values of a category that are shown."""
MATTERS_EVERY_S = 10.0
SPREAD_EVERY_S = 3.0


@dataclass(frozen=True, slots=True)
class Effect:
    """What a field did to one answer, or does to answers on average.

    Args:
        field: its name.
        size: in the target's unit.
        value: of the field, in the record that was asked for.
    """

    field: str
    size: float
    value: Any = None


def explain(client: Client, record: Mapping[str, Any], version: int, prediction: float) -> list[Effect]:
    """How far each field moved an answer: by how much it is above the answer without the field; the largest first.

    Args:
        client: of the trainer.
        record: raw fields that were asked for.
        version: the model version that answered.
        prediction: what it answered, in the target's unit.
    """
    fields = [name for name, value in record.items() if value is not None][:MOST_ASKED]
    if not fields:
        return []
    without = [{key: value for key, value in record.items() if key != field} for field in fields]
    answers = client.predict(without, version=version)
    effects = [Effect(f, prediction - a["prediction"], record[f]) for f, a in zip(fields, answers, strict=True)]
    return sorted(effects, key=lambda effect: -abs(effect.size))


def importances(schema: Schema) -> Feed:
    """How much each field matters to the version in service: the mean change of its answers when the field is shuffled.

    That is permutation importance (Breiman, "Random forests", Machine Learning 45, 2001), of the answers instead
    of their errors, so that it needs no labels; in the target's unit, the largest first.

    Args:
        schema: of the records.
    """
    rows = max(10, min(SHUFFLED_ROWS, MOST_ASKED // (len(schema.features) + 1)))

    def ask(client: Client, _: object) -> list[Effect]:
        version = client.status("trainer").get("model_version")
        raw = client.page("generator", "latest", rows, back=rows).records
        if version is None or len(raw) < 2:
            return []
        records = [{name: row[name] for name in schema.features} for row in raw]
        order = np.random.default_rng(0).permutation(len(records))
        shuffled = [
            [{**record, field: records[other][field]} for record, other in zip(records, order, strict=True)]
            for field in schema.features
        ]
        answers = client.predict([r for part in [records, *shuffled] for r in part], version=version)
        found = np.array([a["prediction"] for a in answers]).reshape(-1, len(records))
        sizes = np.mean(np.abs(found[1:] - found[0]), axis=1)
        effects = [Effect(field, float(size)) for field, size in zip(schema.features, sizes, strict=True)]
        return sorted(effects, key=lambda effect: -effect.size)

    return Feed("importances", "trainer", ask, MATTERS_EVERY_S)


@dataclass(frozen=True, slots=True)
class Spread:
    """How a field is distributed now, and in the training window.

    Args:
        field: its name.
        labels: the ends of the bins from the lowest to the highest, or the categories.
        window: share of the sampled records of the training window in each bin or category.
        now: share of the last records.
        window_mean: of a number, in its unit; None for a category.
        now_mean: likewise.
    """

    field: str
    labels: Sequence[Any]
    window: Sequence[float]
    now: Sequence[float]
    window_mean: float | None = None
    now_mean: float | None = None


def spreads(schema: Schema) -> Feed:
    """The distributions of all fields and of the target, in the last records and in the training window.

    Args:
        schema: of the records.
    """

    def ask(client: Client, _: object) -> list[Spread]:
        window_rows = int(client.status("trainer").get("window_rows") or 0)
        now = client.page("generator", "latest", SAMPLE_ROWS, back=SAMPLE_ROWS).records
        part = SAMPLE_ROWS // SAMPLES
        backs = [part + place * max(0, window_rows - part) // (SAMPLES - 1) for place in range(SAMPLES)]
        before = [row for back in backs for row in client.page("generator", "latest", part, back=back).records]
        return [spread(schema, name, before, now) for name in (*schema.features, schema.target)]

    return Feed("spreads", "generator", ask, SPREAD_EVERY_S)


def spread(schema: Schema, name: str, window: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Spread:
    """The distribution of one field.

    >>> s = Schema.from_dict({"fields": [{"name": "age", "kind": "float"}], "target": "y", "timestamp": None})
    >>> found = spread(s, "age", [{"age": 0.0}, {"age": 24.0}], [{"age": 24.0}])
    >>> found.window[0], found.window[-1], found.now[-1], found.now_mean
    (0.5, 0.5, 1.0, 24.0)
    """
    before, after = ([row[name] for row in rows if row.get(name) is not None] for rows in (window, now))
    return _of_categories(name, before, after) if name in schema.categories else _of_numbers(name, before, after)


def _of_numbers(name: str, before: Sequence[float], after: Sequence[float]) -> Spread:
    values = [*before, *after]
    if not values:
        return Spread(name, (), (), ())
    low, high = float(np.quantile(values, 0.002)), float(np.quantile(values, 0.998))
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts = [np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0] / max(1, len(part)) for part in (before, after)]
    means = [float(np.mean(part)) if part else None for part in (before, after)]
    old, new = (part.tolist() for part in counts)
    return Spread(name, (float(edges[0]), float(edges[-1])), old, new, means[0], means[1])


def _of_categories(name: str, before: Sequence[str], after: Sequence[str]) -> Spread:
    old, new = Counter(before), Counter(after)
    names = [value for value, _ in (old + new).most_common(CATEGORIES)]
    shares = [[counts[value] / max(1, counts.total()) for value in names] for counts in (old, new)]
    return Spread(name, names, shares[0], shares[1])


def histogram(values: Sequence[float], bins: int = 31) -> tuple[float, list[int]]:
    """Bars of values around 0, and where the outer ones end; what lies beyond is in those.

    >>> histogram([-1.0, 0.0, 0.0, 1.0], 3)
    (1.0, [1, 2, 1])
    """
    reach = float(np.quantile(np.abs(values), 0.98)) if len(values) else 1.0
    reach = reach if math.isfinite(reach) and reach > 0 else 1.0
    counts, _ = np.histogram(np.clip(values, -reach, reach), bins, (-reach, reach))
    return reach, counts.tolist()
