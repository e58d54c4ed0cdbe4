"""What each group of derived features is worth on a file: the error without it.

Invariant: every figure is a whole run over the same records by the same stages; nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from correnteza import config, offline
from correnteza.definition import Feature

WITHOUT_ALL = "all derived features"


@dataclass(frozen=True, slots=True)
class Worth:
    """What a group is worth.

    Args:
        group: its name.
        columns: that it makes.
        mae: mean absolute error without it, in the target's unit.
    """

    group: str
    columns: tuple[str, ...]
    mae: float


def groups_of(features: Iterable[Feature]) -> Mapping[str, tuple[Feature, ...]]:
    """The features by what they are made of.

    >>> lag, hour = Feature("last", ("y",), "lag", rows=1), Feature("hour", ("at",), "hour")
    >>> {name: [one.name for one in some] for name, some in groups_of([lag, hour]).items()}
    {'memory of y': ['last'], 'of at': ['hour']}
    """
    found: dict[str, tuple[Feature, ...]] = {}
    for one in features:
        by = f" by {one.by}" if one.by else ""
        name = f"memory of {one.source}{by}" if one.remembers else f"of {', '.join(one.of)}"
        found[name] = (*found.get(name, ()), one)
    return found


def worths(settings: config.Settings, records: Callable[[config.Settings], Iterable[pa.RecordBatch]]) -> list[Worth]:
    """The error without each group, and without all of them.

    Args:
        settings: of the pipeline, with derived features.
        records: gives the records anew for each run.
    """
    features = settings.schema_of_model.derived
    groups = groups_of(features)
    named = {**groups, WITHOUT_ALL: features} if len(groups) > 1 else {WITHOUT_ALL: features}
    return [Worth(name, _columns(some), _mae_without(some, settings, records)) for name, some in named.items()]


def _columns(features: Iterable[Feature]) -> tuple[str, ...]:
    return tuple(column for one in features for column in one.columns)


def _mae_without(
    features: tuple[Feature, ...],
    settings: config.Settings,
    records: Callable[[config.Settings], Iterable[pa.RecordBatch]],
) -> float:
    kept = tuple(config.FeatureTable(**one.as_dict()) for one in settings.schema_of_model.derived if one not in features)
    changed = settings.model_copy(update={"features": kept})
    overall = offline.run(records(changed), changed).report.overall
    return float("nan") if overall is None else overall.mae
