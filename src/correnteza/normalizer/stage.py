"""The normalizer as a pure step: raw rows in, checked, encoded and standardised rows out.

Invariants:
- Every raw row leaves exactly one row: in `normalized`, or in `rejected` with the reason.
- Only valid rows change statistics and codes.
- The rows of all outputs and the state depend on the raw rows alone, not on how they were cut into batches.
- An output that has no rows is left out of the step.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from correnteza import config, validation
from correnteza.errors import ConfigError, DamagedLogError, Problem
from correnteza.events import Event
from correnteza.features import CATEGORIES, SCALERS, Floats, Ints
from correnteza.memory import Limits
from correnteza.normalizer.deriving import Deriving, Mask, Recall, records_of
from correnteza.normalizer.disorder import Disorder
from correnteza.normalizer.encoding import Encoded, FieldCodes, category_rows, encode
from correnteza.normalizer.scaling import Advanced, ScalingState, Version, advance, first_version, scaler_rows
from correnteza.normalizer.watermark import NEVER
from correnteza.records import ID, OFFSET, Schema
from correnteza.stage import Step

REJECTED = pa.schema(
    [
        pa.field("raw_offset", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("field", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("record", pa.string()),
    ]
)
"""Columns of the log `rejected`: a row per record, its first field at fault, every reason, the record as a JSON object."""

FORMAT = 2
"""Number of the form in which the state is written down."""


@dataclass(frozen=True, slots=True, eq=False)
class NormalizerState:
    """Everything that the next row depends on.

    Args:
        rows: raw rows so far, rejected ones included.
        scaling: statistics and versions of the numeric fields.
        codes: the codes of each category field, in the order of the schema.
        memory: offset of the last row of the log `memory`; 0 where no feature remembers.
        normalized: valid rows so far, which is the offset of the last one in the log `normalized`.
        last_us: event time of the last valid record that has one; `NEVER` before it.
    """

    rows: int
    scaling: ScalingState
    codes: Mapping[str, FieldCodes]
    memory: int = 0
    normalized: int = 0
    last_us: int = NEVER


class NormalizerStage:
    """Checks, encodes and standardises.

    Args:
        schema: what a valid record looks like, with the definitions of derived features.
        settings: the section `[normalizer]`.
        recall: makes the memory that was committed last; see `Deriving`.

    >>> from correnteza.records import Field
    >>> schema = Schema((Field("age", "float", minimum=0), Field("job", "category")), target="income")
    >>> stage = NormalizerStage(schema, config.Normalizer())
    >>> rows = {"offset": [1, 2], "id": ["a", "b"], "age": [30.0, -1.0], "job": ["cook", None], "income": [10.0, 20.0]}
    >>> step = stage.step(stage.initial(), pa.RecordBatch.from_pydict(rows))
    >>> step.outputs["normalized"].to_pylist()
    [{'raw_offset': 1, 'id': 'a', 'scaler_version': 1, 'age': 30.0, 'job': 1.0, 'income': 10.0}]
    >>> step.outputs["rejected"].column("reason").to_pylist()
    ['-1.0 is not within 0 and 1e+100']
    """

    name = "normalizer"

    def __init__(self, schema: Schema, settings: config.Normalizer, recall: Recall | None = None) -> None:
        self.schema = schema
        self.settings = settings
        self._records = schema.recorded
        self.deriving = Deriving(schema, limits_of(settings), recall)
        self.outputs: Mapping[str, pa.Schema] = {
            "normalized": schema.normalized,
            "rejected": REJECTED,
            "scalers": SCALERS,
            "categories": CATEGORIES,
            **self.deriving.outputs,
        }

    def initial(self) -> NormalizerState:
        """The state before the first row."""
        return NormalizerState(
            0, ScalingState.initial(len(self.schema.numeric)), {name: FieldCodes() for name in self.schema.categories}
        )

    def dump(self, state: NormalizerState) -> bytes:
        """The state as bytes, with the schema that it belongs to; equal states give equal bytes."""
        memory = {"memory": state.memory} if self.deriving.remembers else {}
        return msgspec.msgpack.encode(
            {
                "format": FORMAT,
                "schema": self.schema.as_dict(),
                "rows": state.rows,
                "normalized": state.normalized,
                "last_us": state.last_us,
                "scaling": state.scaling.dump(),
                "codes": {name: [field.capped, list(field.codes)] for name, field in state.codes.items()},
                **memory,
            }
        )

    def load(self, blob: bytes) -> NormalizerState:
        """The state that `dump` wrote.

        Raises:
            ConfigError: it was written under another schema; names what changed.
            DamagedLogError: these are not the bytes that `dump` wrote.
        """
        try:
            held = msgspec.msgpack.decode(blob, type=_Held)
            if held.schema != (wanted := self.schema.as_dict()):
                raise ConfigError(_changed(held.schema, wanted))
            return NormalizerState(
                held.rows,
                ScalingState.load(held.scaling, len(self.schema.numeric)),
                {name: FieldCodes.of(held.codes[name][1], held.codes[name][0]) for name in self.schema.categories},
                held.memory,
                held.normalized,
                held.last_us,
            )
        except (msgspec.MsgspecError, ValueError, KeyError) as error:
            raise DamagedLogError(
                f"the state of stage 'normalizer' cannot be read: {error}; expected format {FORMAT} as this version writes it; "
                "restore the database from a copy, or begin a new pipeline"
            ) from None

    def step(self, state: NormalizerState, batch: pa.RecordBatch) -> Step[NormalizerState]:
        """Process raw rows; see `correnteza.stage.Stage.step`."""
        arrived = records_of(batch)
        disorder = Disorder(arrived, self.schema.timestamp, self.settings)
        records = disorder.records
        problems = sorted([*validation.problems(records, self._records), *disorder.problems()], key=lambda p: p.index)
        derived = self.deriving.step(state.memory, batch, records, _valid(records, problems))
        valid = derived.records
        falls, last_us = disorder.ran_back(valid, state.last_us) if self.deriving.remembers else ([], NEVER)
        offsets = valid.column(OFFSET).to_numpy()
        advanced = advance(
            state.scaling,
            _numbers(valid, self.schema.numeric),
            offsets,
            block_rows=self.settings.block_rows,
            tolerance=self.settings.tolerance,
        )
        encoded = {name: encode(state.codes[name], valid.column(name), self.settings.max_categories) for name in state.codes}
        first = () if state.rows or not records.num_rows else (first_version(len(self.schema.numeric)),)
        versions = (*first, *advanced.new)
        outputs: dict[str, pa.RecordBatch] = dict(derived.outputs)
        if valid.num_rows:
            outputs["normalized"] = self._normalized(valid, advanced, encoded)
        if problems:
            outputs["rejected"] = _rejected(records, problems)
        if versions and self.schema.numeric:
            outputs["scalers"] = scaler_rows(self.schema.numeric, versions)
        if any(done.new for done in encoded.values()):
            outputs["categories"] = category_rows(encoded, offsets, state.normalized + 1)
        return Step(
            {name: rows for name, rows in outputs.items() if rows.num_rows},
            NormalizerState(
                state.rows + records.num_rows,
                advanced.state,
                {name: done.state for name, done in encoded.items()},
                derived.offset,
                state.normalized + valid.num_rows,
                last_us,
            ),
            (
                *disorder.events(),
                *falls,
                *_rejections(records, problems),
                *self._new_versions(advanced.new),
                *self._caps(state, encoded),
                *derived.events,
            ),
        )

    def _normalized(self, valid: pa.RecordBatch, advanced: Advanced, encoded: Mapping[str, Encoded]) -> pa.RecordBatch:
        schema, wanted = self.schema, self.outputs["normalized"]
        columns: dict[str, pa.Array] = {
            "raw_offset": valid.column(OFFSET),
            "scaler_version": pa.array(advanced.versions),
            **{name: done.codes for name, done in encoded.items()},
        }
        for place, name in enumerate(schema.numeric):
            columns[name] = pa.array(np.ascontiguousarray(advanced.standardised[:, place]), from_pandas=True)  # NaN to null
        rest = (ID, schema.target, *([schema.timestamp] if schema.timestamp else []))
        columns.update({name: valid.column(name) for name in rest})
        return pa.RecordBatch.from_arrays([columns[name] for name in wanted.names], schema=wanted)

    def _new_versions(self, versions: Sequence[Version]) -> list[Event]:
        events = []
        for version in versions:
            moved = [self.schema.numeric[place] for place in version.moved]
            reason = f"{', '.join(moved)} moved by more than the tolerance of {self.settings.tolerance:g}"
            detail = {"version": version.number, "raw_offset": version.raw_offset, "fields": moved}
            events.append(Event("scaler_version", reason, detail))
        return events

    def _caps(self, state: NormalizerState, encoded: Mapping[str, Encoded]) -> list[Event]:
        cap = self.settings.max_categories
        reason = f"has {cap} values, as many as [normalizer] max_categories allows; later values are `other`"
        return [
            Event("category_cap", f"{name} {reason}", {"field": name, "max_categories": cap})
            for name, done in encoded.items()
            if done.state.capped and not state.codes[name].capped
        ]


class _Held(msgspec.Struct):
    """The state as it is written down."""

    format: int
    schema: dict[str, Any]
    rows: int
    scaling: bytes
    codes: dict[str, tuple[bool, list[str]]]
    memory: int = 0
    normalized: int = 0
    last_us: int = NEVER

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"it has format {self.format}")


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """One line that names what is different between two schemas."""
    parts = [f"{key} was {before[key]!r} and is {now[key]!r}" for key in ("target", "timestamp") if before[key] != now[key]]
    old, new = ({field["name"]: field for field in schema["fields"]} for schema in (before, now))
    parts += [f"field {name!r} is gone" for name in old if name not in new]
    parts += [f"field {name!r} is new" for name in new if name not in old]
    for name in (n for n in old if n in new):
        parts += [
            f"{key} of field {name!r} was {old[name][key]!r} and is {new[name][key]!r}"
            for key in old[name]
            if old[name][key] != new[name][key]
        ]
    was, is_ = ({one["name"]: one for one in schema.get("derived", ())} for schema in (before, now))
    parts += [f"feature {name!r} was {was[name]} and is {is_[name]}" for name in was if is_.get(name, was[name]) != was[name]]
    what = "; ".join(parts) or "the fields stand in another order"
    return (
        f"[schema] or [[features]] changed since this pipeline began: {what}; its statistics and codes belong to the old one. "
        "Set another [pipeline] name or data_dir to begin a new pipeline, or put the schema back"
    )


def _valid(records: pa.RecordBatch, problems: Sequence[Problem]) -> Mask:
    """Which records have no problem."""
    valid = np.ones(records.num_rows, bool)
    valid[[p.index for p in problems]] = False
    return valid


def limits_of(settings: config.Normalizer) -> Limits:
    """Bounds of the memory."""
    return Limits(keys=settings.memory_keys, rows=settings.memory_rows)


def _numbers(batch: pa.RecordBatch, names: Sequence[str]) -> Floats:
    """The numeric fields as float64, shape [rows, fields], NaN where missing."""
    values = np.empty((batch.num_rows, len(names)))
    for place, name in enumerate(names):
        values[:, place] = batch.column(name).to_numpy(zero_copy_only=False)
    return values


def _rejected(batch: pa.RecordBatch, problems: Sequence[Problem]) -> pa.RecordBatch:
    """The records with problems as rows of the log `rejected`."""
    by_row: dict[int, list[Problem]] = {}
    for problem in problems:
        by_row.setdefault(problem.index, []).append(problem)
    indices: Ints = np.fromiter(by_row, np.int64)
    rows = batch.take(pa.array(indices))
    records = _times_as_texts(rows.drop_columns([OFFSET])).to_pylist()
    columns = [
        rows.column(OFFSET),
        rows.column(ID),
        pa.array([found[0].field for found in by_row.values()], pa.string()),
        pa.array([_reasons(found) for found in by_row.values()], pa.string()),
        pa.array([_json(record) for record in records], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REJECTED)


def _times_as_texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its times in ISO 8601; as Python values, those beyond the year 9999 would raise."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            batch = batch.set_column(place, field.name, batch.column(place).cast(pa.string()))
    return batch


def _reasons(found: Sequence[Problem]) -> str:
    return "; ".join([found[0].reason, *(f"{p.field}: {p.reason}" for p in found[1:])])


def _json(record: Mapping[str, Any]) -> str:
    """The record as a JSON object; what JSON has no number for (NaN, infinity) becomes a text."""
    values = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(values, ensure_ascii=False)


def _rejections(batch: pa.RecordBatch, problems: Sequence[Problem]) -> list[Event]:
    if not problems:
        return []
    records = len({p.index for p in problems})
    fields = dict(Counter(p.field for p in problems))
    first = batch.column(OFFSET)[problems[0].index].as_py()
    listed = ", ".join(f"{name} {count}" for name, count in fields.items())
    reason = (
        f"{records} of {batch.num_rows} records are not valid ({listed}); the log `rejected` has them from raw offset {first}"
    )
    return [Event("records_rejected", reason, {"records": records, "fields": fields, "first_raw_offset": first})]
