"""The law of single questions: they see, bit for bit, what a batch with the same record sees."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.memory.test_memory import FEW, RAW, batch, features, fed, rows_of, streams

from correnteza.definition import ARITHMETIC, PAIRS, TIME_PARTS, Feature
from correnteza.memory import Memory

STATELESS = (
    *(Feature(f"time_{how}", ("at",), how) for how in TIME_PARTS if how != "holiday"),
    *(Feature(f"of_{how}", ("x", "n") if how in PAIRS else ("x",), how) for how in ARITHMETIC),
)


def asked_alone(memory: Memory, row: dict[str, Any]) -> list[str]:
    """What `Memory.one` says of a record."""
    time_us = memory.entries_of(batch([row])).column("event_time").cast("int64")[0].as_py()
    values = {name: row[name] for name in ("x", "n", "k", "word")}
    return [value.hex() for value in memory.one(values, {} if time_us is None else {"at": time_us})]


@settings(deadline=None, max_examples=300)
@given(features, streams, st.sampled_from([(), STATELESS]))
def test_a_single_question_sees_what_a_batch_sees(
    derived: tuple[Feature, ...], stream: list[dict[str, Any]], more: tuple[Feature, ...]
) -> None:
    memory = Memory(RAW.with_derived((*derived, *more)), FEW)
    for row in rows_of(stream):
        if "label" not in row:
            together = memory.vector(batch([row]).drop_columns(["id", "y"]))
            names = [name for one in memory.schema.derived for name in one.columns]
            assert asked_alone(memory, row) == [float(together[name][0]).hex() for name in names]
        fed(memory, [row])
        memory.settle()
