"""What the learner has read before, once more: records and outcomes in the order in which they were taken.

Invariant: what is read again up to a place is row for row what was read then, but for outcomes whose record, prediction
or row of `labels` its log no longer keeps; `lost_offset` says up to where some of those are missing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import groupby

import pyarrow as pa

from correnteza.log.base import OwnedLog
from correnteza.records import Schema
from correnteza.trainer.examples import Examples
from correnteza.trainer.labels import LEARNED
from correnteza.trainer.place import Place, labels_above, labels_from, owned_rows, records_until
from correnteza.trainer.upstream import Upstream


class Past:
    """Reads back; the logs stay as they are.

    Args:
        upstream: the normalizer's logs.
        predictions: the trainer's log `predictions`.
        labels: the trainer's log `labels`.
        schema: of the records.

    Attributes:
        lost_offset: as of the last reading, that of the last record behind which an outcome is missing; 0 if none is.
    """

    def __init__(self, upstream: Upstream, predictions: OwnedLog, labels: OwnedLog, schema: Schema) -> None:
        self.lost_offset = 0
        self._upstream = upstream
        self._predictions = predictions
        self._labels = labels
        self._schema = schema

    def rows(self, place: Place, rows: int) -> Iterator[pa.RecordBatch]:
        """What was read up to a place, in batches of the ledger.

        Args:
            place: of it `rows`, `offset` and `labels` count.
            rows: with how many records before it to begin; outcomes that were taken before the first are left out.
        """
        low = max(0, place.offset - rows)
        wanted = labels_above(self._labels, place.labels, low)
        learned = [one for one in wanted if one.effect in LEARNED]
        back = place.offset - min([low, *(one.of_offset - 1 for one in learned if one.of_offset is not None)])
        examples = Examples(self._upstream, self._schema, back)
        asked = [one.prediction_offset for one in learned if one.prediction_offset is not None]
        for part in owned_rows(self._predictions, min(asked), max(asked)) if asked else ():
            examples.predictions.add(part)
        groups = deque((at, list(group)) for at, group in groupby(wanted, lambda one: one.read_offset))
        self.lost_offset = self._lost_labels(place, low)
        for batch in records_until(self._upstream, place, back):
            examples.arrive(batch)
            for made in examples.interleaved(batch, low, groups):
                self.lost_offset = max(self.lost_offset, examples.lost_offset)
                yield made

    def _lost_labels(self, place: Place, low: int) -> int:
        """Up to which offset above `low` rows of `labels` may be missing; 0 if none is."""
        first = self._labels.bounds().first
        if first == 1 or not place.labels:
            return 0
        if first > place.labels:
            return place.offset
        begins = next(one.read_offset for _, one in labels_from(self._labels, first, first))
        return begins if begins > low else 0
