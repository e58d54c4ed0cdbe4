"""Laws of `POST /predict`: what is refused and why, what is answered, and that answers are never mixed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from correnteza.codec import ARROW, NDJSON, arrow_stream
from correnteza.errors import InputError
from correnteza.records import Field, Schema
from correnteza.trainer.predict import INLINE_BYTES, INLINE_ROWS, openapi_path
from correnteza.trainer.questions import Reader

from .asking import JSON_TYPE, SCHEMA, Asking


@pytest.fixture
def world() -> Asking:
    world = Asking()
    world.serve(3, 10.0)
    return world


# What is answered


def test_one_object_has_one_answer_with_interval_and_version(world: Asking) -> None:
    status, headers, answer = world.ask(b'{"id": "a7", "select from": 5, "rooms": 2, "kind": "flat"}')
    assert (status, headers["content-type"]) == (200, JSON_TYPE)
    assert answer == {"id": "a7", "prediction": 10.0, "lower": 0.0, "upper": 20.0, "model_version": 3}


def test_an_array_has_an_array_of_answers_in_its_order(world: Asking) -> None:
    _, _, answer = world.ask(b' [{"rooms": 1}, {"rooms": 2, "id": 7}, {"rooms": 3}]')
    assert [a["prediction"] for a in answer] == [4.0, 5.0, 6.0]
    assert answer[1]["id"] == "7"
    assert world.ask(b"[]")[::2] == (200, [])


def test_missing_fields_and_nulls_and_empty_texts_are_missing_values(world: Asking) -> None:
    echo = world.serve(1)
    for body in (b"{}", b'{"rooms": null, "kind": null, "note": null, "at": null, "id": null}', b'{"kind": ""}'):
        assert world.ask(body)[0] == 200
        numbers, categories = echo.asked[-1]
        assert np.isnan(numbers).all()
        assert categories.tolist() == [[""]]
        assert (numbers.shape, categories.shape) == ((1, 2), (1, 1))


def test_before_there_are_enough_errors_the_interval_is_null(world: Asking) -> None:
    world.serve(1, None)
    assert world.ask(b"{}")[2]["lower"] is None


def test_ids_that_are_not_given_are_unique(world: Asking) -> None:
    ids = [a["id"] for _ in range(20) for a in world.ask(b"[{}, {}]")[2]] + [world.ask(b"{}")[2]["id"]]
    assert len(set(ids)) == len(ids) == 41


@pytest.mark.parametrize("rows", [1, INLINE_ROWS, INLINE_ROWS + 1, INLINE_BYTES])
def test_large_and_small_requests_have_the_same_answers(world: Asking, rows: int) -> None:
    body = msgspec.json.encode([{"id": f"r{i}", "rooms": i} for i in range(rows)])
    _, _, answer = world.ask(body, chunks=3)
    assert [(a["id"], a["prediction"]) for a in answer] == [(f"r{i}", i + 3.0) for i in range(rows)]


def test_ndjson_and_arrow_are_read_as_json_is(world: Asking) -> None:
    batch = pa.RecordBatch.from_pydict({"rooms": [1, 2], "kind": ["flat", None]})
    bodies = [(b'[{"rooms": 1, "kind": "flat"}, {"rooms": 2}]', "application/json; charset=utf-8")]
    bodies += [(b'{"rooms": 1, "kind": "flat"}\n{"rooms": 2}\n', NDJSON), (arrow_stream(batch), ARROW)]
    answers = [world.ask(body, kind)[2] for body, kind in bodies]
    assert [[a["prediction"] for a in answer] for answer in answers] == [[4.0, 5.0]] * 3


FIELDS = {
    "select from": st.floats(0, 200) | st.integers(0, 200) | st.none(),
    "rooms": st.integers(-(2**53), 2**53) | st.none(),
    "kind": st.text(max_size=9) | st.integers(-(10**6), 10**6) | st.none(),
    "note": st.text(max_size=9) | st.none(),
    "at": st.datetimes().map(lambda t: t.isoformat()) | st.none(),
    "id": st.text(max_size=9) | st.integers() | st.none(),
}
SURPRISES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})
)

NAMES = st.sampled_from([*FIELDS, "price", "x"])


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=FIELDS), st.dictionaries(st.sampled_from([*FIELDS, "price", "x"]), SURPRISES, max_size=1)
)
def test_the_fast_way_reads_what_the_slow_way_reads_and_accepts_no_more(record: dict[str, Any], odd: dict[str, Any]) -> None:
    """Differential law: the compiled decoder against the codec, which all services share."""
    reader, body = Reader(SCHEMA), json.dumps(record | odd).encode()
    try:
        slow = reader._slowly(body, JSON_TYPE)
    except InputError:
        with pytest.raises(InputError):
            reader.read(body, JSON_TYPE)
        return
    fast = reader.read(body, JSON_TYPE)
    assert repr(fast.numbers) == repr(slow.numbers)
    assert fast.categories.tolist() == slow.categories.tolist()
    assert fast.ids == slow.ids


# What is refused

BAD: dict[str, tuple[bytes, str | None, int, str]] = {
    "wrong type": (b'{"rooms": "two"}', JSON_TYPE, 422, "rooms"),
    "boolean number": (b'{"select from": true}', JSON_TYPE, 422, "select from"),
    "boolean category": (b'{"kind": false}', JSON_TYPE, 422, "kind"),
    "fraction for an integer": (b'{"rooms": 2.5}', JSON_TYPE, 422, "rooms"),
    "unknown field": (b'{"colour": 1}', JSON_TYPE, 422, "colour"),
    "the target": (b'{"price": 1}', JSON_TYPE, 422, "price"),
    "NaN": (b'{"select from": NaN}', JSON_TYPE, 400, ""),
    "Infinity": (b'{"select from": Infinity}', JSON_TYPE, 400, ""),
    "1e999": (b'{"select from": 1e999}', JSON_TYPE, 400, ""),
    "10,000 digits": (b'{"select from": ' + b"9" * 10_000 + b"}", JSON_TYPE, 400, ""),
    "10,000 digits for an integer": (b'{"rooms": ' + b"9" * 10_000 + b"}", JSON_TYPE, 400, ""),
    "10,000 digits for a category": (b'{"kind": ' + b"9" * 10_000 + b"}", JSON_TYPE, 400, ""),
    "below the minimum": (b'{"select from": -1}', JSON_TYPE, 422, "select from"),
    "above the maximum": (b'{"select from": 200.5}', JSON_TYPE, 422, "select from"),
    "inexact integer": (b'{"rooms": 9007199254740993}', JSON_TYPE, 422, "rooms"),
    "no time": (b'{"at": "soon"}', JSON_TYPE, 422, "at"),
    "30 February": (b'{"at": "2026-02-30T00:00:00Z"}', JSON_TYPE, 422, "at"),
    "long text": (b'{"note": "' + b"x" * 10_001 + b'"}', JSON_TYPE, 422, "note"),
    "empty body": (b"", JSON_TYPE, 400, ""),
    "white space": (b" \n", JSON_TYPE, 400, ""),
    "broken JSON": (b'{"rooms": ', JSON_TYPE, 400, ""),
    "not UTF-8": (b'{"kind": "\xff"}', JSON_TYPE, 400, ""),
    "a lone surrogate": (b'{"kind": "\\ud800"}', JSON_TYPE, 400, ""),
    "deep nesting": (b"[" * 100_000, JSON_TYPE, 400, ""),
    "deep nesting in a field": (b'{"rooms": ' + b"[" * 100_000, JSON_TYPE, 400, ""),
    "deep nesting, well-formed": (b"[" * 100_000 + b"]" * 100_000, JSON_TYPE, 400, ""),
    "a number": (b"3", JSON_TYPE, 422, ""),
    "null": (b"null", JSON_TYPE, 422, ""),
    "a list of numbers": (b"[1, 2]", JSON_TYPE, 422, ""),
    "a list in a list": (b'[[{"rooms": 1}]]', JSON_TYPE, 422, ""),
    "wrong content type": (b"{}", "text/plain", 415, ""),
    "a form": (b"rooms=1", "application/x-www-form-urlencoded", 415, ""),
    "no Arrow stream": (b"{}", ARROW, 400, ""),
}


@pytest.mark.parametrize(("body", "kind", "status", "named"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_with_a_reason_and_the_next_request_is_answered(
    world: Asking, body: bytes, kind: str | None, status: int, named: str
) -> None:
    found, headers, problem = world.ask(body, kind)
    assert (found, headers["content-type"]) == (status, "application/problem+json")
    assert problem["status"] == status
    assert len(problem["detail"]) > 10
    if status == 422:
        assert problem["errors"][0]["index"] == 0
        assert problem["errors"][0]["field"] == named
        assert problem["errors"][0]["reason"]
    assert world.ask(b"{}")[0] == 200


def test_every_bad_record_of_an_array_is_listed_and_nothing_is_answered(world: Asking) -> None:
    status, _, problem = world.ask(b'[{"rooms": 1}, {"rooms": "x"}, {}, {"select from": -1}]')
    assert status == 422
    assert [(e["index"], e["field"]) for e in problem["errors"]] == [(1, "rooms"), (3, "select from")]
    assert world.answers.served_rows == 0


def test_the_target_is_refused_with_the_advice_to_leave_it_out(world: Asking) -> None:
    assert "leave it out" in world.ask(b'{"price": 5}')[2]["errors"][0]["reason"]


def test_a_required_field_must_be_there() -> None:
    reader = Reader(Schema((Field("size", "float", required=True),), target="price"))
    assert reader.read(b'{"size": 1}', None).numbers.tolist() == [[1.0]]
    with pytest.raises(InputError) as refused:
        reader.read(b"[{}]", None)
    assert [(p.index, p.field) for p in refused.value.problems] == [(0, "size")]


def test_another_method_is_refused(world: Asking) -> None:
    assert world.ask(b"", method="GET")[0] == 405


def test_before_the_first_model_it_answers_503_with_the_progress() -> None:
    status, headers, problem = Asking().ask(b"{}")
    assert (status, headers["content-type"]) == (503, "application/problem+json")
    assert problem["detail"] == "no model yet: 3 of 100 labelled rows"


# Swaps


def test_swaps_under_concurrent_requests_give_no_failed_and_no_mixed_answer(world: Asking) -> None:
    stop = threading.Event()

    def swap() -> None:
        version = 3
        while not stop.is_set():
            version += 1
            world.serve(version, float(version))

    async def ask_often() -> list[tuple[int, Mapping[str, str], Any]]:
        small, large = b"[{}, {}]", msgspec.json.encode([{}] * 3000)
        return await asyncio.gather(*(world.call(large if i % 20 == 0 else small) for i in range(400)))

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        found = asyncio.run(ask_often())
    finally:
        stop.set()
        swapper.join()
    assert {status for status, _, _ in found} == {200}
    answers = [answer for _, _, answer in found]
    assert len({answer[0]["model_version"] for answer in answers}) > 1
    for answer in answers:
        version = answer[0]["model_version"]
        told = {(a["model_version"], a["prediction"], a["lower"], a["upper"]) for a in answer}
        assert told == {(version, version, 0.0, 2.0 * version)}


def test_the_documented_example_is_accepted() -> None:
    path = openapi_path(SCHEMA)["post"]
    example = path["requestBody"]["content"][JSON_TYPE]["example"]
    assert "price" not in example
    assert len(Reader(SCHEMA).read(json.dumps(example).encode(), None).ids) == 1
