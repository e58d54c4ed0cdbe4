"""A model version as the learner's stage uses it.

Invariant: what is tested is the very graph that answers requests, on the record's own values.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from correnteza.trainer.champion import Champion
from correnteza.trainer.predictor import Answers
from correnteza.trainer.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Served:
    """A version as the learner's stage uses it: exactly the model that answers requests."""

    champion: Champion
    upstream: Upstream

    @property
    def version(self) -> int:
        """Its number."""
        return self.champion.version

    @property
    def experts(self) -> tuple[int, ...]:
        """See `prequential.Scorer.experts`."""
        return self.champion.predictor.experts

    def answers(self, rows: pa.RecordBatch) -> Answers:
        """See `prequential.Scorer.answers`."""
        return self.champion.predictor.answers(*self.upstream.raw(rows))
