"""What the stage makes of records that came out of order: problems of those that it refuses, and events.

Invariant: a record that did not find its place in the order is counted by an event of the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import config
from correnteza.errors import Problem
from correnteza.events import Event
from correnteza.features import Ints
from correnteza.normalizer.watermark import (
    AHEAD,
    ANEW,
    APART,
    FAR_ROWS,
    FLUSHED,
    FULL,
    KINDS,
    LATE,
    ORDER,
    SECOND_US,
    times_of,
)
from correnteza.records import OFFSET


class Disorder:
    """What was noted of the records of a batch.

    Args:
        batch: records, which have the columns `ORDER` and `APART` if they were put in order.
        timestamp: name of the event time.
        settings: the section `[normalizer]`.

    Attributes:
        records: the records without these columns.
    """

    def __init__(self, batch: pa.RecordBatch, timestamp: str | None, settings: config.Normalizer) -> None:
        self._noted = ORDER in batch.schema.names and batch.column(ORDER).null_count < batch.num_rows
        self._timestamp = timestamp or ""
        self._settings = settings
        self.records = batch.drop_columns([ORDER, APART]) if ORDER in batch.schema.names else batch
        if self._noted:
            self._kinds = batch.column(ORDER)
            self._apart = pc.fill_null(batch.column(APART), 0).to_numpy()

    def problems(self) -> list[Problem]:
        """Of the records that are refused because they came too late."""
        if not self._noted or self._settings.late == "accept":
            return []
        limit = self._settings.lateness_s
        return [
            Problem(
                row,
                self._timestamp,
                f"is {self._apart[row] / SECOND_US:g} s behind the watermark; "
                f"records more than [normalizer] lateness_s = {limit:g} behind the newest are refused",
            )
            for row in self._rows(LATE).tolist()
        ]

    def events(self) -> Iterator[Event]:
        """One for each kind of disorder."""
        settings = self._settings
        what = {
            LATE: (
                "late_records",
                f"came later than [normalizer] lateness_s = {settings.lateness_s:g}; they were "
                + ("taken in the order of arrival" if settings.late == "accept" else "refused"),
            ),
            AHEAD: (
                "records_ahead",
                f"have a time more than [normalizer] future_s = {settings.future_s:g} after the newest; they were taken in "
                "the order of arrival, and the watermark stays",
            ),
            ANEW: (
                "order_anew",
                f"was the {FAR_ROWS}th in a row with a time more than [normalizer] future_s = {settings.future_s:g} from the "
                "newest; what was held back is let go, and the order begins anew with the lowest of them",
            ),
            FULL: (
                "held_back_full",
                f"were let go before their time, because more than [normalizer] reorder_rows = {settings.reorder_rows} "
                "would have been held back",
            ),
            FLUSHED: (
                "held_back_flushed",
                f"were let go before their time, because nothing came for [normalizer] idle_s = {settings.idle_s:g} or "
                "the settings of the order were changed",
            ),
        }
        for kind, (name, reason) in what.items() if self._noted else ():
            rows = self._rows(kind)
            if len(rows):
                yield self._event(name, rows, f"{len(rows)} records {reason}")

    def ran_back(self, valid: pa.RecordBatch, last_us: int) -> tuple[list[Event], int]:
        """Told where nothing puts records in order: those with a time far before that of the record before them.

        Args:
            valid: the valid records.
            last_us: the last event time before them, `NEVER` where there is none.

        Returns:
            The events, and the last event time now.
        """
        if not self._timestamp or self._settings.lateness_s:
            return [], last_us
        times, dated = times_of(valid, self._timestamp)
        times = np.append(last_us, times[dated])
        falls_us = times[:-1] - times[1:]
        far = falls_us > self._settings.future_s * SECOND_US
        events = []
        if far.any():
            offsets = valid.column(OFFSET).to_numpy()[dated][far]
            reason = (
                f"{len(offsets)} records have a time more than [normalizer] future_s = {self._settings.future_s:g} before that "
                "of the record before them; they were taken as they came, and windows in seconds hold what lies in them"
            )
            farthest_s = float(falls_us.max()) / SECOND_US
            detail = {"records": len(offsets), "farthest_s": farthest_s, "first_raw_offset": int(offsets[0])}
            events.append(Event("times_ran_back", reason, detail))
        return events, int(times[-1])

    def _rows(self, kind: int) -> Ints:
        same = pc.fill_null(pc.equal(self._kinds, KINDS[kind]), False)
        return np.flatnonzero(same.to_numpy(zero_copy_only=False))

    def _event(self, name: str, rows: Ints, reason: str) -> Event:
        first = int(self.records.column(OFFSET).to_numpy()[rows].min())
        farthest_s = float(self._apart[rows].max()) / SECOND_US
        return Event(name, reason, {"records": len(rows), "farthest_s": farthest_s, "first_raw_offset": first})
