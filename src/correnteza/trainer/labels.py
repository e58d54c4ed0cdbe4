"""What can become of an outcome, as rows: the log `labels`, and the columns that the ledger adds to records.

| effect | the outcome | what the stage does with its row |
|---|---|---|
| `joined` | came for a record without a target, or for a prediction, within the horizon | scores the answer, learns |
| `corrected` | names another target for what had been joined, within the horizon | restates the evaluation, learns again |
| `early` | came before its record or prediction is known; waits, for the horizon at most | nothing |
| `late` | came for a record that is beyond the horizon, or again for a prediction that is forgotten | nothing |
| `duplicate` | says again what is known | nothing |
| `contradictory` | differs from the target that the record itself brought, which stands | nothing |
| `unknown` | waited, and neither record nor prediction came; or either is forgotten | nothing |
| `invalid` | has no id, or a target that is not a finite number of at most 1e100 | nothing |

An outcome that waited has two rows, `early` and what became of it. A record that is still without a target
when it leaves the horizon is *never-coming*: it is counted as `expired`, has no row, and is forgotten; an outcome
that comes after all is `late`.

The horizon is counted in rows: a record waits for so many further records, so many of the last predictions are
remembered, and records of twice as many rows are still known to be late. An outcome for a prediction is forgotten after
as many records, too: one that corrects it later still is joined as if it were the first.

A corrected example is learned again with the right target; the row with the wrong one stays in the window
until newer rows push it out, as the trees that have grown on it do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from correnteza.events import Event
from correnteza.records import ID, OFFSET

Effect = Literal["joined", "corrected", "early", "late", "duplicate", "contradictory", "unknown", "invalid"]
LEARNED: tuple[Effect, ...] = ("joined", "corrected")
"""Effects whose rows have features, and are scored and learned from."""
EXPIRED = "expired"
LOG = "labels"

OUTCOMES = pa.schema([pa.field("id", pa.string()), pa.field("target", pa.float64())])
"""Columns of the generator's log `outcomes`."""

LABELS = pa.schema(
    [
        pa.field("label_offset", pa.int64()),
        pa.field(ID, pa.string()),
        pa.field("target", pa.float64()),
        pa.field("effect", pa.string()),
        pa.field("read_offset", pa.int64()),
        pa.field("of_offset", pa.int64()),
        pa.field("prediction_offset", pa.int64()),
        pa.field("replaces", pa.int64()),
        pa.field("delay_s", pa.float64()),
    ]
)
"""Columns of the log `labels`: a row per outcome that was taken, in the order in which they were.

`label_offset` is its place in `outcomes`; `read_offset` that of the last row of `normalized` read before it: so the
log says how the two were interleaved. `of_offset` is the row of `normalized` that it belongs to, or
`prediction_offset` that of `predictions`; `replaces` the `label_offset` of the outcome that it corrects; `delay_s` the
seconds from the reading of the record, or from the answer, until the outcome was taken.
"""

ADDED = pa.schema(
    [
        pa.field("label_offset", pa.int64()),
        pa.field("of_offset", pa.int64()),
        pa.field("prediction_offset", pa.int64()),
        pa.field("replaces", pa.int64()),
        pa.field("delay_s", pa.float64()),
        pa.field("effect", pa.string()),
        pa.field("answer_version", pa.int64()),
        pa.field("answer_prediction", pa.float64()),
        pa.field("answer_lower", pa.float64()),
        pa.field("answer_upper", pa.float64()),
    ]
)
"""Columns that the ledger adds behind those of `normalized`; all null in a row that is an arriving record."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One row of `LABELS`."""

    label_offset: int
    id: str | None
    target: float | None
    effect: Effect
    read_offset: int
    of_offset: int | None = None
    prediction_offset: int | None = None
    replaces: int | None = None
    delay_s: float | None = None

    @property
    def item(self) -> tuple[int | None, int | None]:
        """What it was joined to."""
        return self.of_offset, self.prediction_offset


def of_rows(rows: pa.RecordBatch) -> list[Taken]:
    """Rows of `LABELS`, with or without `offset`, as values."""
    return [Taken(**row) for row in rows.select(LABELS.names).to_pylist()]


def sorts_of(batch: pa.RecordBatch, target: str) -> tuple[pa.Array, pa.Array]:
    """Which rows are records that arrive, and which have a target to be scored by and learned from.

    Args:
        batch: of `normalized`, perhaps with the ledger's columns.
        target: name of the schema's target.
    """
    known = pc.is_valid(batch[target])
    if "effect" not in batch.schema.names:
        return pa.repeat(True, batch.num_rows), known
    arrived = pc.is_null(batch["effect"])
    late = pc.is_in(batch["effect"], pa.array(LEARNED))
    return arrived, pc.or_(pc.and_(arrived, known), late)


def label_rows(batch: pa.RecordBatch, target: str) -> pa.RecordBatch:
    """The outcomes in a batch of the ledger as rows of `LABELS`; the stage puts them into its outputs.

    Args:
        batch: as `Ledger.read` returned it.
        target: name of the schema's target.
    """
    rows = batch.filter(pc.is_valid(batch["label_offset"]))
    names = {"target": target, "read_offset": OFFSET}
    return pa.RecordBatch.from_arrays([rows[names.get(name, name)] for name in LABELS.names], schema=LABELS)


def label_events(batch: pa.RecordBatch) -> tuple[Event, ...]:
    """What is out of the ordinary about the outcomes in a batch of the ledger; the stage adds it to its events."""
    if batch["effect"].null_count == batch.num_rows:
        return ()
    effects = batch["effect"].to_pylist()
    counts = Counter(effects)
    return tuple(
        _event(effect, counts[effect], batch[ID][effects.index(effect)].as_py()) for effect in _KINDS if counts[effect]
    )


_KINDS: dict[str, tuple[str, str]] = {
    "corrected": ("outcomes_corrected", "that correct the target of an earlier one"),
    "late": ("outcomes_late", "that came after the horizon"),
    "contradictory": ("outcomes_contradictory", "that differ from the target that the record itself brought"),
    "unknown": ("outcomes_unknown", "that belong to no record or prediction"),
    "invalid": ("outcomes_invalid", "that have no id or no finite target"),
}


def _event(effect: str, rows: int, first: str | None) -> Event:
    kind, reason = _KINDS[effect]
    return Event(kind, f"outcomes {reason}: {rows:,}, the first with id {str(first)[:100]!r}", {"rows": rows, "id": first})
