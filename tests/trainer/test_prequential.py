"""Laws of the learner's stage and of what it reads from the normalizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from correnteza.errors import LogUnavailableError
from correnteza.features import CATEGORIES, SCALERS
from correnteza.log.base import OwnedLog
from correnteza.log.memory import MemoryStore
from correnteza.stage import Step
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.predictor import Answers
from correnteza.trainer.prequential import LearnerStage
from correnteza.trainer.state import State
from correnteza.trainer.upstream import Values

from .worlds import SCHEMA, raw, upstream_of


@dataclass(frozen=True)
class PerSize:
    """A scorer that predicts from the row alone: a price per unit of size, mixed of two experts."""

    version: int = 1
    price: float = 3.0

    @property
    def experts(self) -> tuple[int, ...]:
        return (self.version, self.version + 1)

    def answers(self, rows: pa.RecordBatch) -> Answers:
        size = np.asarray(rows["size"].fill_null(0.0).to_numpy(zero_copy_only=False))
        experts = np.stack([(self.price - 1.0) * size, (self.price + 1.0) * size], axis=1)
        return Answers(experts.mean(axis=1), 1.0 + np.abs(size), experts)


def stage_of(store: MemoryStore, evaluate_every: int) -> LearnerStage:
    """A stage with a version in service, one in shadow, and one that was in service before."""
    upstream = upstream_of(store)
    upstream.read(None, 10_000)
    stage = LearnerStage(SCHEMA, upstream.features, evaluate_every=evaluate_every, level=0.8)
    stage.scorer, stage.challenger, stage.parent = PerSize(2), PerSize(3, 2.5), PerSize(1, 2.0)
    return stage


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 5], list(range(1, 700)), list(range(0, 700, 50))])
@pytest.mark.parametrize("every", [1, 2])
def test_the_stage_gives_the_same_outputs_and_state_for_any_cuts_and_restarts(
    upstream_store: MemoryStore, cuts: Sequence[int], every: int
) -> None:
    batch = upstream_store.log("normalized", SCHEMA.normalized).read(None, 10_000).batch
    stage = stage_of(upstream_store, every)
    expected, end = stepped(stage, batch, [])
    found, found_end = stepped(stage, batch, cuts)
    assert found.equals(expected)
    assert found_end == end
    state = stage.load(end)
    assert state.trial is not None
    assert state.watch is not None
    assert set(state.scores) == {2, 3, 4}


def stepped(stage: LearnerStage, batch: pa.RecordBatch, cuts: Sequence[int]) -> tuple[pa.RecordBatch, bytes]:
    """All evaluations of the stage, and its last state; it is dumped and loaded at every cut."""
    made: list[pa.RecordBatch] = []
    blob = b""
    edges = sorted({0, *cuts, batch.num_rows})
    for start, stop in pairwise(edges):
        step = stage.step(stage.load(blob) if blob else stage.initial(), batch.slice(start, stop - start))
        blob = stage.dump(step.state)
        made += [*step.outputs.values()]
    return pa.concat_batches(made), blob


def test_a_step_does_not_change_the_state_it_was_given(upstream_store: MemoryStore) -> None:
    batch = upstream_store.log("normalized", SCHEMA.normalized).read(None, 200).batch
    stage = stage_of(upstream_store, 1)
    state = stage.step(stage.initial(), batch).state
    blob = stage.dump(state)
    first, second = stage.step(state, batch), stage.step(state, batch)
    assert stage.dump(state) == blob
    assert stage.dump(first.state) == stage.dump(second.state) != blob
    assert first.outputs["evaluations"].equals(second.outputs["evaluations"])


def test_the_version_in_shadow_changes_no_answer_and_no_interval(upstream_store: MemoryStore) -> None:
    batch = upstream_store.log("normalized", SCHEMA.normalized).read(None, 10_000).batch

    def evaluated(alone: bool) -> tuple[pa.RecordBatch, Step[State]]:
        stage = stage_of(upstream_store, 1)
        if alone:
            stage.challenger = stage.parent = None
        step = stage.step(stage.initial(), batch)
        return step.outputs["evaluations"], step

    with_others, alone = evaluated(alone=False)[0], evaluated(alone=True)[0]
    own = [name for name in EVALUATIONS.names if not name.startswith("challenger_")]
    assert with_others.select(own).equals(alone.select(own))
    assert with_others["challenger_version"].unique().to_pylist() == [3]
    assert alone["challenger_version"].null_count == alone.num_rows


def test_a_target_as_large_as_can_be_leaves_a_state_that_can_be_written_and_read(upstream_store: MemoryStore) -> None:
    batch = upstream_store.log("normalized", SCHEMA.normalized).read(None, 10_000).batch
    targets = np.array([1e300 if i % 5 == 0 else -1e300 if i % 5 == 1 else float(i) for i in range(batch.num_rows)])
    batch = batch.set_column(batch.schema.get_field_index("price"), "price", pa.array(targets))
    stage = stage_of(upstream_store, 1)
    expected, end = stepped(stage, batch, [])
    assert b"NaN" not in end
    assert b"Infinity" not in end
    found, found_end = stepped(stage, batch, [7, 250, 251])
    assert (found.equals(expected), found_end == end) == (True, True)


def test_a_row_whose_scaler_version_is_not_there_yet_is_waited_for(upstream_store: MemoryStore) -> None:
    source = MemoryStore()
    rows = upstream_store.log("normalized", SCHEMA.normalized).read(None, 10_000).batch
    source.log("normalized", SCHEMA.normalized).append(rows.select(SCHEMA.normalized.names))
    scalers, categories = source.log("scalers", SCALERS), source.log("categories", CATEGORIES)
    upstream = upstream_of(source)
    with pytest.raises(LogUnavailableError, match="scaler version 1"):
        upstream.read(None, 10_000)
    copy(upstream_store.log("scalers", SCALERS), scalers)
    with pytest.raises(LogUnavailableError, match="of kind"):
        upstream.read(None, 10_000)
    copy(upstream_store.log("categories", CATEGORIES), categories)
    assert upstream.read(None, 10_000).batch.num_rows == 700


def copy(source: OwnedLog, target: OwnedLog) -> None:
    target.append(source.read(None, 10_000).batch.select(source.schema.names))


def test_raw_undoes_what_the_normalizer_did(upstream_store: MemoryStore) -> None:
    upstream, records = upstream_of(upstream_store), raw(700)
    rows = upstream.read(None, 10_000).batch
    assert len(set(rows["scaler_version"].to_pylist())) > 3
    numbers, texts = upstream.raw(rows)
    for place, name in enumerate(SCHEMA.numeric):
        expected = records[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        np.testing.assert_allclose(numbers[:, place], expected, rtol=1e-12)
    known = {"", *(f"k{i}" for i in range(5))}
    assert texts[:, 0].tolist() == [
        v if v in known else "other" for v in (value or "" for value in records["kind"].to_pylist())
    ]


def test_codes_of_a_version_are_those_known_at_its_last_row(upstream_store: MemoryStore) -> None:
    upstream = upstream_of(upstream_store)
    upstream.read(None, 10_000)
    seen: list[str] = []
    for offset, kind in enumerate(raw(700)["kind"].to_pylist(), start=1):
        if kind is not None and kind not in seen and len(seen) < 5:
            seen.append(kind)
        assert upstream.codes(offset) == {"kind": seen}


def test_other_is_never_a_value_of_the_field() -> None:
    values = Values()
    for place, value in enumerate(["other", "x", "other?"]):
        values.add(value, place)
    assert values.decode(np.array([0.0, 1.0, np.nan, 3.0])).tolist() == ["other??", "other", "", "other?"]
