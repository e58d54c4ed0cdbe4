"""The demo's world: people, their work, and what they earn in a month.

Row `n` (from 1) is a pure function of the seed, the locale, the other settings and `n`; how the
stream is cut into batches has no part in it. Rows are made in whole blocks of `BLOCK_ROWS`, each
from a Philox generator keyed by (seed, block number), and sliced. Names, cities and jobs come from
pools that Faker draws once, so another version of Faker may give other texts.

The income, in Brazilian reais (BRL) a month (the mean is near 3,300, as in the IBGE's household survey):

    income = 1,750 x pay[job]                          0.6 to 3.0, drawn per job from the seed
                   x 1.08 ** (education_years - 11)    each year of school earns 8 % more
                   x (1 + 0.35 ln(1 + experience_years / 5))    diminishing returns
                   x weekly_hours / 40
                   x (1 - ((age - 45) / 70) ** 2)      most at 45 years
                   x (1 + noise z)                     z standard normal, noise from the settings
                   x drift(n)                          see `drift.factors` and `drift.Switch`

and not below 0, rounded to 0.01. The shape follows J. Mincer, "Schooling, Experience, and Earnings" (1974).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza import config
from correnteza.errors import ConfigError, CursorError
from correnteza.features import Floats, Ints
from correnteza.generator.drift import Switch, factors
from correnteza.log.base import Slice
from correnteza.records import TIMESTAMP, Schema, with_offsets

BLOCK_ROWS = 1000
NAMES, CITIES, JOBS = 500, 200, 30
"""Values drawn per pool; fewer where the locale does not have as many."""
BASE_BRL = 1_750.0
PAY_LOWEST, PAY_HIGHEST = 0.6, 3.0
POOL_BLOCK = 2**64 - 1
"""Number of the block whose random numbers belong to the pools; no row is in it."""
LAST_TIME_US = 253_402_300_799_000_000
"""End of the year 9999; event times do not go beyond it."""
_CURSOR = re.compile(r"people\.(\d{1,18})\.(-?\d{1,18})")


def monthly_income(age: Floats, education_years: Floats, experience_years: Floats, weekly_hours: Floats, pay: Floats) -> Floats:
    """The formula above without noise, drift and rounding.

    Args:
        age: years, shape [rows].
        education_years: years of school.
        experience_years: years of work.
        weekly_hours: hours of work a week.
        pay: the pay factor of each person's job.

    Returns:
        BRL a month, shape [rows].

    >>> monthly_income(np.array([45.0]), np.array([11.0]), np.array([0.0]), np.array([40.0]), np.array([2.0])).tolist()
    [3500.0]
    """
    learned = 1.08 ** (education_years - 11.0)
    practised = 1.0 + 0.35 * np.log1p(experience_years / 5.0)
    aged = 1.0 - ((age - 45.0) / 70.0) ** 2
    return BASE_BRL * pay * learned * practised * (weekly_hours / 40.0) * aged


@dataclass(frozen=True, slots=True)
class _World:
    """What rows depend on beside settings and number: event time of row 1 in microseconds, and drifts that were switched."""

    start_us: int
    drifts: tuple[config.Drift, ...]


class PeopleSource:
    """Makes people; its cursors hold the row number and the event time of row 1.

    Args:
        settings: seed, locale, start_time, interval_s, noise, drift and limit count here.
        schema: the schema of the pipeline; it must have the demo's fields.
        now_us: what time it is, for the first start without a `start_time`; Unix time in microseconds.
        switch: a drift that is switched from outside; None has none.
        leads: whether this source makes new rows, from which a switch holds, and not again what another has made.

    Raises:
        ConfigError: the schema is not the demo's, the locale or the start time is not known.

    >>> source = PeopleSource(config.Generator(start_time="2026-01-01"), config.demo_schema().build())
    >>> part = source.read(None, 2)
    >>> part.batch.column("id").to_pylist(), source.read(part.next, 1).batch.column("offset").to_pylist()
    (['p00000001', 'p00000002'], [3])
    """

    def __init__(
        self,
        settings: config.Generator,
        schema: Schema,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        switch: Switch | None = None,
        leads: bool = True,
    ) -> None:
        _check_schema(schema)
        self._settings = settings
        self._schema = schema.raw
        self._fixed_start_us = _start_us(settings.start_time)
        self._now_us = now_us
        self._switch = switch or Switch()
        self._leads = leads
        self._names, self._cities, jobs = _pools(settings)
        self._jobs = pa.array(jobs)
        self._rank, self._pay = _ranks(settings.seed, len(jobs))
        # Well-paid jobs are rarer.
        self._job_shares = np.cumsum(1.0 / self._pay) / np.sum(1.0 / self._pay)
        self.pay: Mapping[str, float] = dict(zip(jobs, self._pay.tolist(), strict=True))
        """The pay factor of each job."""
        self._block = lru_cache(maxsize=4)(self._make)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:  # noqa: ARG002 - as `Log.read`
        """Rows behind a cursor of this source; empty only behind the last one. Never waits. See `Log.read`.

        Raises:
            CursorError: the cursor is not one of the source `people`.
        """
        row, start_us = self._parse(after)
        row = max(0, row - back)
        end = row + limit if self._settings.limit is None else min(row + limit, self._settings.limit)
        end = max(row, end)
        world = _World(start_us, self._switch.from_row(row + 1) if self._leads else self._switch.drifts)
        blocks = [self._part(block, row, end, world) for block in range(row // BLOCK_ROWS, -(-end // BLOCK_ROWS))]
        batch = pa.concat_batches(blocks) if len(blocks) > 1 else blocks[0] if blocks else self._part(0, 0, 0, world)
        return Slice(with_offsets(batch, row + 1), f"people.{end}.{start_us}", 0)

    def _parse(self, after: str | None) -> tuple[int, int]:
        """Rows before the cursor, and the event time of row 1 in microseconds."""
        if after is None:
            return 0, self._now_us() if self._fixed_start_us is None else self._fixed_start_us
        match = _CURSOR.fullmatch(after)
        if match is None:
            raise CursorError(
                f"source people: position {after[:80]!r} is not one of its own; was generator.source changed? "
                "use another pipeline.name or pipeline.data_dir"
            )
        return int(match[1]), int(match[2]) if self._fixed_start_us is None else self._fixed_start_us

    def _part(self, block: int, row: int, end: int, world: _World) -> pa.RecordBatch:
        """The rows of one block that lie in (row, end]."""
        first = max(row - block * BLOCK_ROWS, 0)
        return self._block(block, world).slice(first, max(0, min(end - block * BLOCK_ROWS, BLOCK_ROWS) - first))

    def _make(self, block: int, world: _World) -> pa.RecordBatch:
        """One whole block: always the same operations on arrays of the same size, so always the same bits."""
        rows = np.arange(1, BLOCK_ROWS + 1, dtype=np.int64) + block * BLOCK_ROWS
        draw = _philox(self._settings.seed, block)
        uniform = draw.random((6, BLOCK_ROWS))
        normal = draw.standard_normal((3, BLOCK_ROWS))
        job = np.searchsorted(self._job_shares, uniform[0] * self._job_shares[-1], side="right").clip(max=len(self._pay) - 1)
        age = np.floor(_triangular(uniform[1], 18.0, 30.0, 80.0))
        education = np.rint(7.0 + 9.0 * self._rank[job] + 2.5 * normal[0]).clip(0.0, np.minimum(22.0, age - 6.0))
        possible_years = (age - np.maximum(education + 6.0, 14.0)).clip(min=0.0)
        experience = np.round(possible_years * (1.0 - 0.5 * uniform[2] ** 2), 1)
        hours = np.rint(40.0 + 6.0 * normal[1]).clip(8.0, 80.0)
        noise = 1.0 + self._settings.noise * normal[2]
        truth = monthly_income(age, education, experience, hours, self._pay[job])
        income = np.round((truth * noise * factors(rows, (*self._settings.drift, *world.drifts))).clip(min=0.0), 2)
        columns = [
            _ids(rows),
            _times(rows, world.start_us, self._settings.interval_s),
            _picked(self._names, uniform[3]),
            _picked(self._cities, uniform[4]),
            self._jobs.take(pa.array(job)),
            *(pa.array(values) for values in (age, education, experience, hours, income)),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)


def _philox(seed: int, block: int) -> np.random.Generator:
    """Random numbers of one block (J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, block], np.uint64)))


def _triangular(uniform: Floats, low: float, mode: float, high: float) -> Floats:
    """Uniform numbers in [0, 1) as ones of a triangular distribution, by its inverse."""
    rising = low + np.sqrt(uniform * (high - low) * (mode - low))
    falling = high - np.sqrt((1.0 - uniform) * (high - low) * (high - mode))
    return np.where(uniform < (mode - low) / (high - low), rising, falling)


def _ids(rows: Ints) -> pa.Array:
    return pc.binary_join_element_wise("p", pc.utf8_lpad(pa.array(rows).cast(pa.string()), 8, "0"), "")


def _times(rows: Ints, start_us: int, interval_s: float) -> pa.Array:
    passed_us = np.minimum((rows - 1) * (interval_s * 1e6), float(LAST_TIME_US))
    return pa.array(np.minimum(start_us + np.rint(passed_us).astype(np.int64), LAST_TIME_US)).cast(TIMESTAMP)


def _picked(pool: pa.Array, uniform: Floats) -> pa.Array:
    return pool.take(pa.array((uniform * len(pool)).astype(np.int64)))


def _ranks(seed: int, jobs: int) -> tuple[Floats, Floats]:
    """For each job its rank by pay, from 0 to 1, and its pay factor."""
    rank = _philox(seed, POOL_BLOCK).permutation(jobs) / max(1, jobs - 1)
    return rank, PAY_LOWEST * (PAY_HIGHEST / PAY_LOWEST) ** rank


def _pools(settings: config.Generator) -> tuple[pa.Array, pa.Array, list[str]]:
    """Names, cities and jobs of the locale."""
    from faker import Faker

    try:
        fake = Faker(settings.locale)
    except AttributeError:
        raise ConfigError(
            f"generator.locale = {settings.locale!r}: Faker has no such locale; expected one like 'pt_BR' or 'en_US'"
        ) from None
    fake.seed_instance(settings.seed)
    return pa.array(_distinct(fake.name, NAMES)), pa.array(_distinct(fake.city, CITIES)), _distinct(fake.job, JOBS)


def _distinct(draw: Callable[[], str], count: int) -> list[str]:
    """Up to `count` different values, in the order in which they were drawn."""
    values: dict[str, None] = {}
    for _ in range(4 * count):
        values[draw()] = None
        if len(values) == count:
            break
    return list(values)


def _start_us(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        start = datetime.fromisoformat(text)
        return round((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"generator.start_time = {text!r}: not a time; expected ISO 8601, as in 2026-01-31T12:00:00Z"
        ) from None


def _check_schema(schema: Schema) -> None:
    demo = config.demo_schema().build()
    shapes = [([(f.name, f.kind) for f in s.fields], s.target, s.timestamp) for s in (schema, demo)]
    if shapes[0] != shapes[1]:
        raise ConfigError(
            "generator.source = 'people': [schema] is not the demo's; leave [schema] out, "
            "or set generator.source to 'replay' or 'none'"
        )
