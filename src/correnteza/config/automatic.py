"""The features that `features = "auto"` stands for.

Invariant: what is chosen depends on the schema alone, so the same file always means the same features.
"""

from __future__ import annotations

from collections.abc import Iterator

from correnteza.definition import Feature
from correnteza.records import Schema

DAY_S = 86_400.0


def automatic(schema: Schema) -> tuple[Feature, ...]:
    """Time parts, lags and rolling means of the target for a stream with event times; nothing for one without.

    A feature whose name is that of a field is left out.

    Args:
        schema: of the records.
    """
    taken = {f.name for f in schema.fields}
    return tuple(one for one in _all(schema) if not taken & set(one.columns))


def _all(schema: Schema) -> Iterator[Feature]:
    if schema.timestamp is None:
        return
    at, target = schema.timestamp, schema.target
    for how in ("hour", "weekday", "month"):
        yield Feature(f"{at}_{how}", (at,), how)
    yield Feature(f"{at}_since", (target,), "since")
    for rows in (1, 2, 3):
        yield Feature(f"{target}_lag_{rows}", (target,), "lag", rows=rows)
    yield Feature(f"{target}_lag_day", (target,), "lag", seconds=DAY_S)
    yield Feature(f"{target}_lag_week", (target,), "lag", seconds=7 * DAY_S)
    for rows in (3, 6, 24):
        yield Feature(f"{target}_mean_{rows}", (target,), "mean", rows=rows)
    yield Feature(f"{target}_mean_day", (target,), "mean", seconds=DAY_S)
