"""Laws of the rows that the rolling metrics are of."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.log.memory import MemoryStore
from correnteza.testing import read_all
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.rolling import REACH, Rolling

actions = st.lists(st.sampled_from(["labelled", "open", "late", "corrected", "look"]), max_size=120)


def expected(rows: list[dict[str, Any]], most: int, horizon: int) -> list[dict[str, Any]]:
    """By the definition, from the whole log."""
    replaced = {row["replaces"] for row in rows if row["replaces"] is not None}
    reachable = rows[max(0, len(rows) - most - REACH * horizon) :]
    stands = [
        r for r in reachable if r["target"] is not None and (r["label_offset"] is None or r["label_offset"] not in replaced)
    ]
    return [{name: row[name] for name in EVALUATIONS.names} for row in stands[-most:]]


@settings(deadline=None)
@given(actions, st.integers(1, 12), st.integers(0, 20))
def test_they_are_the_last_that_have_a_target_and_stand_whenever_the_reading_began(
    history: list[str], most: int, horizon: int
) -> None:
    """However many records wait for their label, and whatever is corrected."""
    log = MemoryStore().log("evaluations", EVALUATIONS)
    follower, last, number = Rolling(log, most, horizon), None, 0
    for action in history:
        number += 1
        if action == "look":
            follower.look()
            continue
        late = action in ("late", "corrected")
        row: dict[str, Any] = {"normalized_offset": number, "model_version": 1, "multiplier": float(number)}
        row |= {"target": None if action == "open" else float(number), "label_offset": number if late else None}
        row["replaces"] = last if action == "corrected" else None
        last = number if late else last
        log.append(pa.RecordBatch.from_pylist([row], schema=EVALUATIONS))
    found = expected(read_all(log), most, horizon)
    assert follower.look().to_pylist() == found
    assert Rolling(log, most, horizon).look().to_pylist() == found


def test_a_stream_without_labels_for_a_while_keeps_its_metrics_until_the_horizon_is_passed() -> None:
    log = MemoryStore().log("evaluations", EVALUATIONS)
    append(log, 5, target=1.0)
    follower = Rolling(log, 5, 100)
    append(log, 200)
    assert follower.look().num_rows == 5
    append(log, 10)
    assert follower.look().num_rows == Rolling(log, 5, 100).look().num_rows == 0


def append(log: Any, rows: int, **columns: Any) -> None:
    row = {"normalized_offset": 1, "model_version": 1, **columns}
    log.append(pa.RecordBatch.from_pylist([row] * rows, schema=EVALUATIONS))


def test_the_multiplier_is_that_of_the_last_record_and_not_that_of_an_older_answer() -> None:
    log = MemoryStore().log("evaluations", EVALUATIONS)
    follower = Rolling(log, 5, 100)
    follower.look()
    assert follower.multiplier is None
    append(log, 1, target=1.0, label_offset=1, multiplier=2.0)
    follower.look()
    assert follower.multiplier == 2.0, "nothing newer is known"
    append(log, 1, multiplier=3.0)
    append(log, 1, target=1.0, label_offset=2, multiplier=2.0)
    follower.look()
    assert follower.multiplier == 3.0
