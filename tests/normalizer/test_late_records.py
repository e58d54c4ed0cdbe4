"""The normalizer over a stream that comes out of order: the same rows as over the ordered one, whoever is killed when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza import config, events
from correnteza.definition import Feature
from correnteza.errors import LogUnavailableError
from correnteza.events import Events
from correnteza.log.base import LATEST, Appended, Policy, Slice
from correnteza.log.memory import MemoryStore
from correnteza.normalizer.ordering import InOrder
from correnteza.normalizer.stage import NormalizerStage
from correnteza.stage import Runner
from correnteza.testing import check_stage, read_all

from .test_ordering import US, Raw
from .unordered import SCHEMA, records

SETTINGS = config.Normalizer(lateness_s=30, future_s=200, block_rows=16, max_categories=6, batch_rows=7)
OFF = SETTINGS.model_copy(update={"lateness_s": 0.0})
REMEMBERED = (
    Feature("last", ("y",), "lag", rows=1),
    Feature("mean_5s", ("y",), "mean", seconds=5.0, by="kind"),
    Feature("before", ("x",), "lag", seconds=3.0),
    Feature("since", ("at",), "since", by="kind"),
)
REMEMBERING = SCHEMA.with_derived(REMEMBERED)
LOGS = ("normalized", "rejected", "scalers", "categories", "memory")


class Killed(BaseException):
    """Stands for kill -9."""


class Mortal(MemoryStore):
    """A store whose process is killed before or after some of its commits, or which is busy."""

    def __init__(self, fate: Sequence[str] = ()) -> None:
        super().__init__()
        self._fate = list(fate)

    def commit(self, *arguments: Any) -> dict[str, Appended]:
        fate = self._fate.pop(0) if self._fate else ""
        if fate == "before":
            raise Killed
        if fate == "busy":
            raise LogUnavailableError("busy")
        appended = super().commit(*arguments)
        if fate == "after":
            raise Killed
        return appended


class Ending:
    """A source that ends at the end of the log, and forgets what nobody needs after each read."""

    def __init__(self, raw: Raw, settings: config.Normalizer) -> None:
        self.runner: Runner[Any] | None = None
        self._raw = raw
        self._source = InOrder(raw, SCHEMA, settings, lambda: raw.now)

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        part = self._source.read(after, limit, wait_s, back)
        self._raw.log.trim(Policy(rows=1), 0.0)
        if not part.batch.num_rows and not part.lag_rows and self.runner is not None:
            self.runner.ask_to_stop()
        return part


def normalized(times: Sequence[int | None], settings: config.Normalizer, fate: Sequence[str] = ()) -> dict[str, list[Any]]:
    """All rows of each log, after all these records (times in seconds) and any number of kills."""
    raw, store = Raw(times), Mortal(fate)
    stage = NormalizerStage(REMEMBERING, settings)
    logs = {name: store.log(name, schema) for name, schema in stage.outputs.items()}
    told = Events("normalizer", store.log("events", events.SCHEMA))
    while True:
        source = Ending(raw, settings)
        runner = source.runner = Runner(stage, source, store, told, batch_rows=settings.batch_rows, wait_s=0.0)
        try:
            runner.run()
        except Killed:
            continue
        return {name: read_all(log) for name, log in logs.items()}


def without_offsets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "raw_offset"} for row in rows]


fates = st.lists(st.sampled_from(["", "", "before", "after", "busy"]), max_size=12)
shuffles = st.lists(st.integers(0, 29), min_size=1, max_size=60)


@settings(deadline=None, max_examples=60)
@given(shuffles, fates, st.integers(1, 20))
def test_a_stream_shuffled_within_the_lateness_gives_the_rows_of_the_ordered_one(
    late_s: list[int], fate: list[str], batch_rows: int
) -> None:
    """Bit for bit, but for the raw offsets, also when it is killed at any commits and retention lets go all it may.

    That is so for what was remembered too: lags and windows look back in the order of the times.
    """
    ordered = [2 * i for i in range(len(late_s))]
    shuffled = sorted(ordered, key=lambda t: (t + late_s[t // 2], t))
    end = [150, 180]  # lets all go; waits itself
    settings = SETTINGS.model_copy(update={"batch_rows": batch_rows})
    found = normalized([*shuffled, *end], settings, fate)
    expected = normalized([*ordered, end[0]], OFF)
    for name in LOGS:
        assert without_offsets(found[name]) == without_offsets(expected[name]), name


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.one_of(st.none(), st.integers(0, 120), st.just(9999)), min_size=1, max_size=60),
    fates,
    st.sampled_from(["accept", "reject"]),
)
def test_kills_change_nothing_whatever_the_times_are(times: list[int | None], fate: list[str], late: str) -> None:
    settings = SETTINGS.model_copy(update={"late": late, "reorder_rows": 8})
    undisturbed, found = normalized(times, settings), normalized(times, settings, fate)
    assert found == undisturbed
    went = [row["raw_offset"] for name in ("normalized", "rejected") for row in found[name]]
    assert len(set(went)) == len(went)


def stage_and_rows(times: Sequence[int | None], settings: config.Normalizer) -> tuple[NormalizerStage, pa.RecordBatch]:
    source = InOrder(Raw(times), SCHEMA, settings)
    part = source.read(None, 1000)
    return NormalizerStage(SCHEMA, settings), part.batch


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 120), min_size=20, max_size=60), st.lists(st.integers(0, 60), max_size=5))
def test_the_stage_gives_the_same_for_any_cuts_of_records_that_are_late(times: list[int], cuts: list[int]) -> None:
    for late in ("accept", "reject"):
        stage, batch = stage_and_rows([*times, 200], SETTINGS.model_copy(update={"late": late}))
        check_stage(stage, batch, cuts)


def test_late_records_are_taken_or_refused_as_was_asked_and_counted() -> None:
    times = [0, 100, 20, 110, 85, 60, 150]
    stage, batch = stage_and_rows(times, SETTINGS)
    step = stage.step(stage.initial(), batch)
    assert step.outputs["normalized"]["raw_offset"].to_pylist() == [1, 3, 6, 5, 2, 4]
    assert [(e.kind, e.detail) for e in step.events if e.kind != "scaler_version"] == [
        ("late_records", {"records": 2, "farthest_s": 50.0, "first_raw_offset": 3})
    ]
    stage, batch = stage_and_rows(times, SETTINGS.model_copy(update={"late": "reject"}))
    step = stage.step(stage.initial(), batch)
    assert step.outputs["normalized"]["raw_offset"].to_pylist() == [1, 5, 2, 4]
    refused = step.outputs["rejected"].to_pylist()
    assert [(row["raw_offset"], row["field"]) for row in refused] == [(3, "at"), (6, "at")]
    assert refused[0]["reason"].startswith("is 50 s behind the watermark; records more than [normalizer] lateness_s = 30")
    assert {e.kind for e in step.events} == {"late_records", "records_rejected", "scaler_version"}


def test_each_kind_of_disorder_is_an_event_of_its_own() -> None:
    raw = Raw([0, 5000, 10, 20, 30, *([7000] * 100)])
    settings = SETTINGS.model_copy(update={"reorder_rows": 2, "idle_s": 5.0})
    source = InOrder(raw, SCHEMA, settings, lambda: raw.now)
    stage, after, kinds = NormalizerStage(SCHEMA, settings), None, dict[str, int]()
    state = stage.initial()
    for _ in range(4):
        part = source.read(after, 1000)
        after = part.next
        if part.batch.num_rows:
            step = stage.step(state, part.batch)
            state = step.state
            kinds |= {e.kind: e.detail["records"] for e in step.events if "records" in e.detail}
        raw.add([7010] if not raw.now else [])
        raw.now += 3
    assert kinds == {"records_ahead": 100, "held_back_full": 2, "order_anew": 1, "held_back_flushed": 1}


def test_a_code_is_known_from_its_row_in_normalized_on() -> None:
    found = normalized([90, 60, 61, 62, 63, 64, 65, 150, 181], SETTINGS)
    offsets = {row["raw_offset"]: row["offset"] for row in found["normalized"]}
    assert list(offsets) != sorted(offsets)
    for row in found["categories"]:
        assert row["normalized_offset"] == offsets[row["raw_offset"]]
    places = [row["normalized_offset"] for row in found["categories"]]
    assert places == sorted(places)


def test_off_the_rows_and_the_position_are_those_of_the_log_alone() -> None:
    raw, store = Raw([5, 3, 4]), MemoryStore()
    stage = NormalizerStage(SCHEMA, OFF)
    logs = {name: store.log(name, schema) for name, schema in stage.outputs.items()}
    source = Ending(raw, OFF)
    told = Events("normalizer", store.log("events", events.SCHEMA))
    runner = source.runner = Runner(stage, source, store, told, batch_rows=10, wait_s=0.0)
    runner.run()
    assert [row["raw_offset"] for row in read_all(logs["normalized"])] == [1, 2, 3]
    assert store.claim("normalizer").position == raw.log.read(LATEST, 1).next
    step = stage.step(stage.initial(), records([t * US for t in (5, 3, 4)]))
    assert store.claim("normalizer").state == stage.dump(step.state)


def test_nothing_is_computed_from_a_watermark_that_does_not_exist() -> None:
    """Records without any event time go on as they came."""
    found = normalized([None, None, None], SETTINGS)
    assert [row["raw_offset"] for row in found["normalized"]] == [1, 2, 3]
    assert np.isfinite([row["y"] for row in found["normalized"]]).all()
