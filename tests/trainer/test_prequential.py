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
from correnteza.trainer.evaluation import EVALUATIONS, residuals
from correnteza.trainer.prequential import LearnerStage
from correnteza.trainer.upstream import Values

from .worlds import SCHEMA, raw, upstream_of


@dataclass(frozen=True)
class Mean:
    """A scorer that predicts from the row alone."""

    version: int = 1

    def predict(self, rows: pa.RecordBatch) -> np.ndarray:
        return np.asarray(rows["size"].fill_null(0.0).to_numpy(zero_copy_only=False) * 3.0)


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 5], list(range(1, 700)), list(range(0, 700, 50))])
def test_the_stage_gives_the_same_outputs_and_state_for_any_cuts_and_restarts(
    upstream_store: MemoryStore, cuts: Sequence[int]
) -> None:
    batch = upstream_store.log("normalized", SCHEMA.normalized).read(None, 10_000).batch
    expected, end = stepped(batch, [])
    found, found_end = stepped(batch, cuts)
    assert found.equals(expected)
    assert found_end == end


def stepped(batch: pa.RecordBatch, cuts: Sequence[int]) -> tuple[pa.RecordBatch, bytes]:
    """All evaluations of the stage, and its last state; it is dumped and loaded at every cut."""
    made: list[pa.RecordBatch] = []
    blob = b""
    edges = sorted({0, *cuts, batch.num_rows})
    for start, stop in pairwise(edges):
        stage = LearnerStage(SCHEMA, evaluate_every=2, level=0.8, metric_rows=70)
        stage.scorer = Mean()
        rows = pa.concat_batches(made) if made else pa.RecordBatch.from_pylist([], schema=EVALUATIONS)
        stage.errors = residuals(rows)[-70:]
        step = stage.step(stage.load(blob) if blob else stage.initial(), batch.slice(start, stop - start))
        blob = stage.dump(step.state)
        made += [*step.outputs.values()]
    return pa.concat_batches(made), blob


def test_a_step_does_not_change_the_state_it_was_given(upstream_store: MemoryStore) -> None:
    batch = upstream_store.log("normalized", SCHEMA.normalized).read(None, 200).batch
    stage = LearnerStage(SCHEMA, evaluate_every=1, level=0.9, metric_rows=70)
    stage.scorer = Mean()
    state = stage.step(stage.initial(), batch).state
    blob, errors = stage.dump(state), state.intervals.errors.tolist()
    first, second = stage.step(state, batch), stage.step(state, batch)
    assert (stage.dump(state), state.intervals.errors.tolist()) == (blob, errors)
    assert first.outputs["evaluations"].equals(second.outputs["evaluations"])


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


def test_codes_of_a_version_are_those_known_at_its_last_raw_row(upstream_store: MemoryStore) -> None:
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
