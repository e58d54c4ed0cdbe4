"""The streams that `learning.py` compares learners on: River's generators and small data sets, and the files of `--data`.

Every learner is given the same fields: numbers as numbers, texts as categories. Left out are record numbers, the text
of a date, and columns that give the target away. Of the date of the traffic file hour, weekday and month are made,
for everybody alike: no learner here takes a date.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from correnteza.config import SchemaTable

ROWS = 50_000
"""Of the generated streams."""
SLOW_ROWS = 20_000
"""What slow learners are given of a stream."""
UNCOUNTED_ROWS = 1000
"""First rows of the generated streams that do not count."""
DATA = Path(__file__).parents[2] / "shared" / "data"
TARGET = "target"
KINDS = {str: "category", int: "integer", float: "float"}

Record = tuple[dict[str, Any], float]


@dataclass(frozen=True, slots=True)
class Stream:
    """Records in their order, all labelled.

    Args:
        name: as in `--stream`.
        records: the fields of each, and its target.
        uncounted: first rows that do not count.
        drifts: rows (from 0) at which an abrupt drift is planted.
        small: whether it is one of the two on which every learner runs.
    """

    name: str
    records: tuple[Record, ...]
    uncounted: int = 0
    drifts: tuple[int, ...] = ()
    small: bool = False

    @property
    def schema(self) -> SchemaTable:
        """What its records look like."""
        first = self.records[0][0]
        fields = {name: KINDS[type(value)] for name, value in first.items()}
        return SchemaTable.model_validate({"target": TARGET, "fields": fields})

    def batches(self, rows: int = 1000) -> Iterator[pa.RecordBatch]:
        """The records as Arrow, in `Schema.raw`."""
        schema = self.schema.build().raw
        for start in range(0, len(self.records), rows):
            part = self.records[start : start + rows]
            columns: dict[str, list[Any]] = {name: [fields[name] for fields, _ in part] for name in part[0][0]}
            columns |= {"id": [str(start + i) for i in range(len(part))], TARGET: [target for _, target in part]}
            yield pa.RecordBatch.from_pydict(columns, schema=schema)


def load(name: str, rows: int | None = None, data: Path = DATA) -> Stream:
    """A stream.

    Args:
        name: one of `NAMES`.
        rows: at most so many; generated streams have so many, with their drifts in proportion.
        data: folder of the files.

    Raises:
        FileNotFoundError: the file is not in `data`.

    >>> load("gra", 300).drifts
    (100, 200)
    """
    if name in GENERATED:
        return _generated(name, rows or ROWS)
    if name in SMALL:
        return Stream(name, tuple(_named(SMALL[name]()))[:rows], small=True)  # read to its end, where River closes the file
    return Stream(name, tuple(islice(FILES[name](data), rows)))


def _generated(name: str, rows: int) -> Stream:
    source, drifts = GENERATED[name](rows)
    uncounted = min(UNCOUNTED_ROWS, rows // 2)
    return Stream(name, tuple(islice(_named(source), rows)), uncounted, drifts)


def _named(source: Iterable[tuple[Mapping[Any, Any], float]]) -> Iterator[Record]:
    """Records of River; fields that are numbered there are called x0, x1 and so on."""
    for fields, target in source:
        yield {name if isinstance(name, str) else f"x{name}": value for name, value in fields.items()}, float(target)


def _friedman(kind: str, window: Callable[[int], int], parts: Callable[[int], tuple[int, ...]]) -> Callable[[int], Any]:
    def made(rows: int) -> Any:
        from river.datasets import synth

        places = parts(rows)
        source = synth.FriedmanDrift(kind, position=places, transition_window=window(rows), seed=1)
        return source, (() if kind == "gsg" else places)

    return made


def _planes(_rows: int) -> Any:
    from river.datasets import synth

    return synth.Planes2D(seed=1), ()


def _mv(_rows: int) -> Any:
    from river.datasets import synth

    return synth.Mv(seed=1), ()


def _thirds(rows: int) -> tuple[int, ...]:
    return rows // 3, 2 * rows // 3


def _quarters(rows: int) -> tuple[int, ...]:
    return rows // 4, rows // 2, 3 * rows // 4


def _of_river(name: str) -> Callable[[], Any]:
    def made() -> Any:
        from river import datasets

        return getattr(datasets, name)()

    return made


def _lines(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="ascii", newline="") as lines:
        yield from csv.DictReader(lines)


def _bike(data: Path) -> Iterator[Record]:
    """Without the record number, the date's text, and the two counts that the target is the sum of."""
    whole = ("season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit")
    parts = ("temp", "atemp", "hum", "windspeed")
    for line in _lines(data / "bike_sharing_hour.csv.gz"):
        fields: dict[str, Any] = {name: int(line[name]) for name in whole}
        yield fields | {name: float(line[name]) for name in parts}, float(line["cnt"])


def _metro(data: Path) -> Iterator[Record]:
    for line in _lines(data / "metro_interstate_traffic_volume.csv.gz"):
        at = datetime.fromisoformat(line["date_time"])
        fields: dict[str, Any] = {name: line[name] for name in ("holiday", "weather_main", "weather_description")}
        fields |= {name: float(line[name]) for name in ("temp", "rain_1h", "snow_1h")}
        fields |= {"clouds_all": int(line["clouds_all"]), "hour": at.hour, "weekday": at.weekday(), "month": at.month}
        yield fields, float(line["traffic_volume"])


GENERATED: Mapping[str, Callable[[int], Any]] = {
    "gra": _friedman("gra", lambda _: 1, _thirds),
    "lea": _friedman("lea", lambda _: 1, _quarters),
    "gsg": _friedman("gsg", lambda rows: rows // 20, _thirds),
    "planes2d": _planes,
    "mv": _mv,
}
SMALL: Mapping[str, Callable[[], Any]] = {"trump": _of_river("TrumpApproval"), "chicks": _of_river("ChickWeights")}
FILES: Mapping[str, Callable[[Path], Iterator[Record]]] = {"bike": _bike, "metro": _metro}
NAMES = (*GENERATED, *SMALL, *FILES)
