"""Laws of MLflow scoring: all of its forms have the answers of `POST /predict`, and its error form."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools import PATIENCE_S

from .speaking import Speaking

PATH = "/invocations"
CSV = "text/csv"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Speaking:
    world = Speaking(tmp_path_factory.mktemp("mlflow"))
    world.add(1)
    world.serve(1, 10.0)
    return world


def scored(world: Speaking, body: Any, **headers: str) -> list[float]:
    """The predictions of an answer, which has MLflow's form."""
    reply = world.ask(PATH, body, **headers)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json"), reply.body
    assert reply.headers["model-version"] == "1"
    assert list(reply.json) == ["predictions"]
    return list(reply.json["predictions"])


def refused(world: Speaking, status: int, body: Any, path: str = PATH, **headers: str) -> str:
    """The message of a refusal, which has MLflow's form."""
    reply = world.ask(path, body, **headers)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json"), reply.body
    codes = {404: "ENDPOINT_NOT_FOUND", 503: "TEMPORARILY_UNAVAILABLE"}
    assert list(reply.json) == ["error_code", "message"]
    assert reply.json["error_code"] == codes.get(status, "BAD_REQUEST")
    return str(reply.json["message"])


def table(records: list[dict[str, Any]], names: list[str]) -> bytes:
    """Records as `DataFrame.to_csv(index=False)` writes them."""
    text = io.StringIO()
    lines = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    lines.writerow(names)
    lines.writerows([[record[name] for name in names] for record in records])
    return text.getvalue().encode()


NAMES = ["size", "rooms", "kind"]
RECORD = st.fixed_dictionaries(
    {
        "size": st.none() | st.floats(0, 1000),
        "rooms": st.none() | st.integers(-(2**53), 2**53),
        "kind": st.none() | st.sampled_from(["flat", "house", 'a "b", c', "d\r\ne", "7"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORD, max_size=6), st.permutations(NAMES), st.integers(1, 3))
def test_every_form_has_the_answers_of_predict(
    world: Speaking, records: list[dict[str, Any]], order: list[str], count: int
) -> None:
    """Differential law, for any records, with any of the columns in any order."""
    names = order[:count]
    records = [{name: record[name] for name in names} for record in records]
    expected = [answer["prediction"] for answer in world.predicted(records)]
    split = {"columns": names, "data": [[record[name] for name in names] for record in records]}
    columns = {name: [record[name] for record in records] for name in names}
    bodies: list[dict[str, Any]] = [
        {"dataframe_split": {**split, "index": list(range(len(records)))}},
        {"dataframe_split": split},
    ]
    bodies += [{"dataframe_records": records}, {"inputs": records}, {"inputs": columns}, {"instances": records}]
    assert [scored(world, body) for body in bodies] == [expected] * len(bodies)
    assert scored(world, table(records, names), content_type=CSV) == expected


def test_the_documented_requests_are_answered_over_http(world: Speaking) -> None:
    with world.listening() as address:
        for body in ({"inputs": {"size": [31.5]}}, {"dataframe_split": {"columns": ["size"], "data": [[31.5]]}, "params": {}}):
            answer = requests.post(f"http://{address}{PATH}", json=body, timeout=PATIENCE_S)
            assert answer.json() == {"predictions": [world.predicted([{"size": 31.5}])[0]["prediction"]]}
        pings = [requests.get(f"http://{address}{path}", timeout=PATIENCE_S).status_code for path in ("/ping", "/health")]
        assert pings == [200, 200]
        version = requests.get(f"http://{address}/version", timeout=PATIENCE_S)
        assert re.fullmatch(r"\d+\.\d+.*", version.text)
        assert version.headers["content-type"].startswith("text/plain")


def test_null_nan_and_empty_cells_are_missing_values(world: Speaking) -> None:
    missing = world.predicted([{}])[0]["prediction"]
    for body in (b'{"inputs": {"size": [NaN]}}', b'{"dataframe_records": [{"size": null}]}', b'{"instances": [{}]}'):
        assert scored(world, body) == [missing]
    for cell in (b'""', b"NaN", b"nan", b'" "'):
        assert scored(world, b"size\n" + cell + b"\n", content_type=CSV) == [missing]


def test_whole_floats_stand_for_integers_because_data_frames_make_them_of_columns_with_gaps(world: Speaking) -> None:
    expected = [answer["prediction"] for answer in world.predicted([{"rooms": 2}, {}])]
    assert scored(world, {"dataframe_split": {"columns": ["rooms"], "data": [[2.0], [None]]}}) == expected
    assert scored(world, b'rooms\n2.0\n""\n', content_type="text/csv; charset=utf-8") == expected


def test_ten_thousand_rows_are_answered_in_order(world: Speaking) -> None:
    sizes = [i / 16 for i in range(10_000)]
    expected = [answer["prediction"] for answer in world.predicted([{"size": size} for size in sizes])]
    assert scored(world, {"inputs": {"size": sizes}}) == expected
    assert scored(world, b"size\n" + b"\n".join(b"%r" % size for size in sizes), content_type=CSV) == expected


def test_answers_are_stored_under_ids_unique_by_row(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    world.serve(1, 10.0)
    found = scored(world, {"dataframe_records": [{"size": 5.0}, {"size": 6.0, "id": "mine"}, {"size": 7.0}]})
    rows = world.stored()
    assert [row["prediction"] for row in rows] == found
    assert rows[1]["prediction_id"] == "mine"
    assert len({row["prediction_id"] for row in rows}) == 3


def test_before_the_first_model_it_is_not_ready(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    for path, body in ((PATH, {"inputs": [{}]}), ("/ping", None), ("/health", None)):
        assert refused(world, 503, body, path) == "no model yet: 3 of 100 labelled rows"
    assert world.ask("/version").status == 200


ONE = {"columns": ["size"], "data": [[1.0]]}
FAULTS: dict[str, tuple[Any, str]] = {
    "none of the forms": ({"columns": ["size"], "data": [[1.0]]}, "the body has none of dataframe_split"),
    "two forms": ({"dataframe_split": ONE, "inputs": [{}]}, "has dataframe_split and inputs of"),
    "params": ({"dataframe_split": ONE, "params": {"quantile": 0.5}}, "params 'quantile' are not known"),
    "unnamed columns": ({"inputs": [[1.0, 2.0]]}, "Expected `object`, got `array`"),
    "unnamed instances": ({"instances": [1.0]}, "Expected `object`, got `float`"),
    "a scalar column": ({"inputs": {"size": 1.0}}, "Expected `array`"),
    "columns of different lengths": ({"inputs": {"size": [1.0], "rooms": [1, 2]}}, "different lengths"),
    "a short row": ({"dataframe_split": {"columns": ["size", "rooms"], "data": [[1.0, 2], [1.0]]}}, "row 1 has 1 values"),
    "a column twice": ({"dataframe_split": {"columns": ["size", "size"], "data": []}}, "stands there twice"),
    "no columns": ({"dataframe_split": {"data": []}}, "columns"),
    "unknown column": ({"inputs": {"size": [1.0], "colour": [1.0]}}, "record 0, field 'colour': is not a field"),
    "the target": ({"dataframe_records": [{"price": 1.0}]}, "leave it out"),
    "a wrong type": ({"dataframe_records": [{}, {"size": "big"}]}, "record 1, field 'size': Expected `float \\| null`"),
    "a boolean": ({"dataframe_records": [{"rooms": True}]}, "record 0, field 'rooms'"),
    "a fraction": ({"dataframe_records": [{"rooms": 1.5}]}, "record 0, field 'rooms'"),
    "outside the bounds": (
        {"dataframe_records": [{}, {"size": -1.0}]},
        "record 1, field 'size': -1.0 is not within 0 and 1000",
    ),
    "more than 64 bits": ({"dataframe_records": [{"rooms": 10**30}]}, "record 0, field 'rooms'"),
    "a lone surrogate": (b'{"dataframe_records": [{"size": NaN, "kind": "\\ud800"}]}', "not valid UTF-8"),
    "Infinity": (b'{"dataframe_records": [{"size": Infinity}]}', "not valid JSON"),
    "NaN and Infinity": (b'{"dataframe_records": [{"size": NaN}, {"size": Infinity}]}', "Infinity is not a finite number"),
    "an array": ([{"size": 1.0}], "Expected `object`, got `array`"),
    "empty": (b" ", "the body is empty"),
    "broken": (b'{"inputs": ', "not valid JSON"),
    "a deep nest": (b'{"inputs": [{"size": ' + b"[" * 100_000, "nested too deeply"),
}
CSV_FAULTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"\n", "the body is empty"),
    "a text for a number": (b"size\n1\nbig\n", "record 1, field 'size': Expected `float \\| null`, got `str`"),
    "infinity": (b"size\ninf\n", "record 0, field 'size'"),
    "1e999": (b"size\n1e999\n", "record 0, field 'size'"),
    "an underscore": (b"size\n1_0\n", "record 0, field 'size'"),
    "inexact integer": (b"rooms\n9007199254740993\n", "record 0, field 'rooms'"),
    "more than 64 bits": (b"rooms\n" + b"9" * 30 + b"\n", "record 0, field 'rooms'"),
    "10,000 digits": (b"rooms\n" + b"9" * 10_000 + b"\n", "record 0, field 'rooms'"),
    "a short line": (b"size,rooms\n1,2\n3\n", "row 1 has 1 values; expected 2"),
    "a column twice": (b"size,size\n", "stands there twice"),
    "an index": (b",size\n0,1\n", "column '' is not one of id, size.*the index"),
    "the target": (b"size,price\n", "column 'price' is not one of"),
    "an open quote": (b'size\n"1', "the body is not CSV"),
    "not UTF-8": (b"size\n\xff\n", "the body is not CSV in UTF-8"),
    "NUL": (b"kind\n\0\n", "NUL"),
    "a huge cell": (b"kind\n" + b"x" * 200_000, "field larger than field limit"),
}


@pytest.mark.parametrize(("body", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_is_not_as_the_protocol_has_it_is_refused_with_a_reason(world: Speaking, body: Any, reason: str) -> None:
    said = refused(world, 400, body)
    assert re.search(reason, said), said
    assert len(said) < 3000
    assert scored(world, {"dataframe_split": ONE})


@pytest.mark.parametrize(("body", "reason"), CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_a_table_that_is_none_is_refused_with_a_reason(world: Speaking, body: bytes, reason: str) -> None:
    said = refused(world, 400, body, content_type=CSV)
    assert re.search(reason, said), said
    assert len(said) < 3000


def test_a_table_of_no_rows_has_no_predictions(world: Speaking) -> None:
    assert scored(world, b"size,kind\n", content_type=CSV) == []
    assert scored(world, {"inputs": []}) == scored(world, {"inputs": {}}) == scored(world, {"dataframe_records": []}) == []


@pytest.mark.parametrize("media", ["text/plain", "application/octet-stream", "application/x-ndjson"])
def test_another_content_type_is_refused_by_name(world: Speaking, media: str) -> None:
    said = refused(world, 415, {"inputs": [{}]}, content_type=media)
    assert media in said
    assert CSV in said


def test_other_methods_and_large_bodies_are_refused_in_the_protocols_form(world: Speaking) -> None:
    for path, method in ((PATH, "GET"), ("/ping", "POST"), ("/version", "DELETE")):
        assert refused(world, 405, b"{}", path, method=method)
    limit = world.settings.services.max_body_bytes
    assert "max_body_bytes" in refused(world, 413, b" " * (limit + 1))


def test_the_document_shows_the_four_forms_and_the_example_is_answered(world: Speaking) -> None:
    operation = world.app.openapi()["paths"][PATH]["post"]
    body = operation["requestBody"]["content"]["application/json"]
    forms = [form["required"][0] for form in body["schema"]["oneOf"]]
    assert forms == ["dataframe_split", "dataframe_records", "inputs", "instances"]
    assert set(body["example"]) == {"dataframe_split"}
    assert operation["responses"]["4XX"]["content"]["application/json"]["schema"]["required"] == ["error_code", "message"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["required"] == ["predictions"]
    assert json.dumps(operation)
