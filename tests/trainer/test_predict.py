"""Laws of `POST /predict`: what is refused and why, what is answered, and that answers are never mixed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
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
from correnteza.trainer.predict import INLINE_BYTES, INLINE_ROWS, openapi
from correnteza.trainer.questions import MAX_ROWS, Question, Reader
from correnteza.trainer.texts import texts_of

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


def test_columns_are_read_as_objects_are_also_in_what_is_stored(world: Asking) -> None:
    echo = world.serve(1)
    columns = ["kind", "id", "rooms", "note", "at"]
    rows: list[list[Any]] = [["flat", 7, 2, None, "2026-01-31T12:00:00Z"], [None, None, None, "x", None], [5, "", 1, "", None]]
    body = {"columns": columns, "rows": rows}
    objects = [dict(zip(columns, row, strict=True)) for row in rows]
    first, second = (world.ask(json.dumps(one).encode())[2] for one in (body, objects))
    assert [a["prediction"] for a in first] == [a["prediction"] for a in second] == [3.0, 1.0, 2.0]
    assert first[0]["id"] == "7"
    assert echo.asked[0][1].tolist() == echo.asked[1][1].tolist() == [["flat"], [""], ["5"]]
    texts = [texts_of(Reader(SCHEMA).read(json.dumps(one).encode(), None).records).to_pylist() for one in (body, objects)]
    assert [json.loads(text) for text in texts[0]] == [json.loads(text) for text in texts[1]]
    assert world.ask(b'{"columns": ["rooms"], "rows": []}')[2] == []


@pytest.mark.parametrize("half_width", [None, 2.5])
@pytest.mark.parametrize("rows", [1, 3, 1200])
def test_the_answer_is_the_same_in_every_media_type(world: Asking, rows: int, half_width: float | None) -> None:
    world.serve(4, half_width)
    body = msgspec.json.encode([{"id": f"r{i}", "select from": i / 7} for i in range(rows)])
    as_json = world.ask(body)[2]
    _, headers, lines = world.ask(body, accept=NDJSON)
    assert headers["content-type"] == NDJSON
    assert [json.loads(line) for line in lines.splitlines()] == as_json
    _, headers, stream = world.ask(body, accept=ARROW)
    assert headers["content-type"] == ARROW
    assert pa.ipc.open_stream(stream).read_all().to_pylist() == as_json
    assert len(world.ask(b"[]", accept=NDJSON)[2]) == 0


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
        ways = (reader._slowly, reader.read, lambda body, _: reader.refuse(body))
        refused = []
        for read in ways:
            with pytest.raises(InputError) as error:
                read(body, JSON_TYPE)
            refused.append((str(error.value), error.value.problems))
        assert refused[1:] == refused[:-1]
        return
    reader.refuse(body)
    fast = reader.read(body, JSON_TYPE)
    assert_equal(fast, slow)
    assert fast.single


def assert_equal(fast: Question, slow: Question) -> None:
    assert repr(fast.numbers) == repr(slow.numbers)
    assert fast.categories.tolist() == slow.categories.tolist()
    assert list(fast.ids) == list(slow.ids)


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*FIELDS, "price"]), min_size=1, max_size=6), st.data())
def test_columns_and_lists_of_objects_are_read_and_refused_alike(names: list[str], data: st.DataObject) -> None:
    """Differential law: what a body of columns means is what the same objects mean, by either path."""
    value = {name: FIELDS.get(name, st.none()) | st.sampled_from([False, "x", 1e300, -1, []]) for name in names}
    rows = data.draw(st.lists(st.tuples(*(value[name] for name in names)), min_size=1, max_size=3))
    reader = Reader(SCHEMA)
    columns = json.dumps({"columns": names, "rows": rows}).encode()
    objects = json.dumps([dict(zip(names, row, strict=True)) for row in rows]).encode()
    if len({*names}) < len(names) or "price" in names:
        with pytest.raises(InputError):
            reader.read(columns, None)
        return
    found = [outcome(read, body) for read in (reader.read, reader._slowly) for body in (columns, objects)]
    assert found[1:] == found[:-1]


def outcome(read: Callable[[bytes, str | None], Question], body: bytes) -> object:
    """What a reader makes of a body, in a form that can be compared."""
    try:
        question = read(body, JSON_TYPE)
    except InputError as refused:
        return refused.problems
    return repr(question.numbers), question.categories.tolist(), list(question.ids)


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
    "columns: an unknown one": (b'{"columns": ["colour"], "rows": [[1]]}', JSON_TYPE, 422, "colour"),
    "columns: no name": (b'{"columns": [1], "rows": [[1]]}', JSON_TYPE, 422, "1"),
    "columns: one twice": (b'{"columns": ["rooms", "rooms"], "rows": [[1, 1]]}', JSON_TYPE, 422, "rooms"),
    "columns: the target": (b'{"columns": ["price"], "rows": [[1]]}', JSON_TYPE, 422, "price"),
    "columns: a short row": (b'{"columns": ["rooms", "kind"], "rows": [[1]]}', JSON_TYPE, 422, ""),
    "columns: a long row": (b'{"columns": ["rooms"], "rows": [[1, 2]]}', JSON_TYPE, 422, ""),
    "columns: a row that is none": (b'{"columns": ["rooms"], "rows": [1]}', JSON_TYPE, 422, ""),
    "columns: a wrong type": (b'{"columns": ["rooms"], "rows": [["x"]]}', JSON_TYPE, 422, "rooms"),
    "columns: out of bounds": (b'{"rows": [[-1]], "columns": ["select from"]}', JSON_TYPE, 422, "select from"),
    "columns without rows": (b'{"columns": ["rooms"]}', JSON_TYPE, 422, "columns"),
    "columns: rows that are none": (b'{"columns": ["rooms"], "rows": 1}', JSON_TYPE, 422, "columns"),
    "columns: NUL": (b'{"columns": ["kind"], "rows": [["\\u0000"]]}', JSON_TYPE, 422, "kind"),
    "a broken line": (b'{"rooms": 1', NDJSON, 400, ""),
    "an empty body of lines": (b"\n", NDJSON, 400, ""),
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


def test_every_bad_row_of_columns_is_listed_by_index_and_field(world: Asking) -> None:
    status, _, problem = world.ask(b'{"columns": ["rooms", "kind"], "rows": [[1, "a"], ["x", "a"], [2, false]]}')
    assert status == 422
    assert [(e["index"], e["field"]) for e in problem["errors"]] == [(1, "rooms"), (2, "kind")]


def test_the_target_is_refused_with_the_advice_to_leave_it_out(world: Asking) -> None:
    assert "leave it out" in world.ask(b'{"price": 5}')[2]["errors"][0]["reason"]


def test_a_required_field_must_be_there() -> None:
    reader = Reader(Schema((Field("size", "float", required=True),), target="price"))
    assert reader.read(b'{"size": 1}', None).numbers.tolist() == [[1.0]]
    for body in (b"[{}]", b'{"columns": ["id"], "rows": [["a"]]}', b'{"columns": [], "rows": [[]]}'):
        with pytest.raises(InputError) as refused:
            reader.read(body, None)
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


@pytest.mark.parametrize("record", [{"kind": ""}, {"kind": None}, {}, {"kind": "a", "id": 10**200}])
@pytest.mark.parametrize("many", [False, True])
def test_what_posts_refuse_questions_refuse_too(record: dict[str, Any], many: bool) -> None:
    reader = Reader(Schema((Field("kind", "category", required=True),), target="y"))
    with pytest.raises(InputError) as refused:
        reader.read(json.dumps([record] if many else record).encode(), None)
    assert refused.value.problems[0].field == ("id" if "id" in record else "kind")


def forms_of(rows: int) -> dict[str, tuple[bytes, str]]:
    """So many records of next to nothing, in each form."""
    empty = pa.RecordBatch.from_arrays([pa.array([""] * rows)], names=["kind"])
    return {
        "array": (b"[" + b",".join([b"{}"] * rows) + b"]", JSON_TYPE),
        "ndjson": (b"{}\n" * rows, NDJSON),
        "columns": (b'{"columns":["kind"],"rows":[' + b",".join([b'["a"]'] * rows) + b"]}", JSON_TYPE),
        "arrow": (arrow_stream(empty), ARROW),
    }


@pytest.mark.parametrize("form", forms_of(0))
def test_a_request_has_a_most_number_of_records_in_every_form(form: str) -> None:
    reader = Reader(SCHEMA)
    assert len(reader.read(*forms_of(MAX_ROWS)[form]).ids) == MAX_ROWS
    with pytest.raises(InputError, match="has 100,001 records; send at most 100,000 at a time") as refused:
        reader.read(*forms_of(MAX_ROWS + 1)[form])
    assert refused.value.status == 413


def test_braces_in_texts_are_no_records() -> None:
    notes = [{"note": "{[" * 4_000} for _ in range(60)]
    assert len(Reader(SCHEMA).read(json.dumps(notes).encode(), None).ids) == 60


def test_the_documented_examples_are_accepted() -> None:
    examples = openapi(SCHEMA)["requestBody"]["content"][JSON_TYPE]["examples"]
    assert "price" not in examples["one record"]["value"]
    rows = [len(Reader(SCHEMA).read(json.dumps(example["value"]).encode(), None).ids) for example in examples.values()]
    assert rows == [1, 2, 1]
