"""What is asked in mode `random`: records with one random field.

Invariant: a record is a pure function of the seed and of how many were drawn before it, so a
restarted process goes on with the very record at which it was killed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import pyarrow as pa

from correnteza.config import Consumer
from correnteza.errors import ConfigError, CursorError
from correnteza.log.base import Slice
from correnteza.records import ID, Field, Schema, with_offsets


@dataclass(frozen=True, slots=True)
class Draw:
    """Which field is drawn in mode `random`, and between what.

    Args:
        field: the field.
        low: smallest value, in the field's unit.
        high: largest value, in the field's unit; at least `low`.
    """

    field: Field
    low: float
    high: float

    @classmethod
    def chosen(cls, schema: Schema, settings: Consumer) -> Draw:
        """What the settings say: `random_field`, else `age`, else the first numeric field; within the field's bounds.

        Where `random_min` to `random_max` lies outside the field's bounds altogether, the bounds are taken.

        Raises:
            ConfigError: there is no such numeric field, or no value to draw.
        """
        name = settings.random_field or ("age" if "age" in schema.numeric else next(iter(schema.numeric), None))
        if name not in schema.numeric:
            known = ", ".join(schema.numeric) or 'none; set consumer.modes = ["records"]'
            raise ConfigError(f"consumer.random_field = {name!r}: expected a float or integer field of the schema: {known}")
        field = next(f for f in schema.fields if f.name == name)
        low, high = _within(field, settings.random_min, settings.random_max)
        finite = math.isfinite(high - low)
        if finite and field.kind == "integer":
            low, high = math.ceil(low), math.floor(high)
        if not finite or low > high:
            raise ConfigError(
                f"consumer.random_min = {settings.random_min:g} and random_max = {settings.random_max:g}: "
                f"no value of {name!r} ({field.kind}) lies between; set others"
            )
        return cls(field, low, high)

    def value(self, seed: int, index: int) -> float | int:
        """The value of one record: uniform, and the same for the same seed and index on every machine."""
        share = random.Random(f"{seed}/{index}").random()
        if self.field.kind == "integer":
            return int(self.low) + int(share * (self.high - self.low + 1))
        return min(self.high, self.low + share * (self.high - self.low))


def _within(field: Field, low: float, high: float) -> tuple[float, float]:
    least = -math.inf if field.minimum is None else field.minimum
    most = math.inf if field.maximum is None else field.maximum
    if low <= high and (high < least or low > most):
        only = most if math.isinf(least) else least
        return only, only if math.isinf(most) else most
    return max(low, least), min(high, most)


class RandomRecords:
    """Records with one random field, the others missing (see `stage.Source`); the cursor is how many were drawn.

    Args:
        schema: the schema of the records.
        draw: what is drawn.
        seed: same seed, same records.
    """

    def __init__(self, schema: Schema, draw: Draw, seed: int) -> None:
        self._raw = schema.raw
        self._draw = draw
        self._seed = seed

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """As `Log.read`; there is always a next record."""
        del wait_s
        first = max(0, _drawn(after) - back)
        rows = [
            {ID: f"random-{self._seed}-{index}", self._draw.field.name: self._draw.value(self._seed, index)}
            for index in range(first, first + limit)
        ]
        batch = pa.RecordBatch.from_pylist(rows, schema=self._raw)
        return Slice(with_offsets(batch, first + 1), str(first + limit), 0)


def _drawn(after: str | None) -> int:
    if after is None:
        return 0
    if not after.isdecimal():
        raise CursorError(f"random records: {after[:80]!r} is not a cursor; expected how many were drawn")
    return int(after)
