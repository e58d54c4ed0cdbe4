"""Refusals of the Open Inference Protocol: every fault has its reason, and every error the protocol's form."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from correnteza.trainer.predict import INLINE_BYTES, Serving
from correnteza.trainer.questions import Question

from .speaking import MODEL, Speaking, asked, refused, tensor

INFER = f"{MODEL}/infer"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Speaking:
    world = Speaking(tmp_path_factory.mktemp("v2"))
    world.add(1)
    world.serve(1, 10.0)
    return world


ONE = tensor("size", "FP64", [1.0])
FAULTS: dict[str, tuple[Any, str]] = {
    "no inputs": (asked(), "inputs is empty"),
    "inputs absent": ({"id": "1"}, "inputs"),
    "unknown field": (asked(tensor("colour", "FP64", [1.0])), "'colour' is not a field"),
    "the target": (asked(tensor("price", "FP64", [1.0])), "leave it out"),
    "a field twice": (asked(ONE, ONE), "'size' stands there twice"),
    "numbers of rows": (asked(ONE, tensor("rooms", "INT64", [1, 2])), "different numbers of records"),
    "too few elements": (asked(tensor("size", "FP64", [1.0], [2])), "shape \\[2\\] and 1 elements"),
    "too many elements": (asked(tensor("size", "FP64", [1.0, 2.0], [1])), "2 elements; expected 1"),
    "billions of rows": (asked(tensor("size", "FP64", [], [10**12])), "0 elements; expected 1000000000000"),
    "two columns": (asked(tensor("size", "FP64", [1.0, 2.0], [1, 2])), "expected \\[N\\] or \\[N, 1\\]"),
    "three dimensions": (asked(tensor("size", "FP64", [1.0], [1, 1, 1])), "length <= 2"),
    "no dimension": (asked(tensor("size", "FP64", [1.0], [])), "length >= 1"),
    "a negative dimension": (asked(tensor("size", "FP64", [], [-1])), ">= 0"),
    "a shape of floats": (asked(tensor("size", "FP64", [1.0], [1.0])), "Expected `int`"),  # type: ignore[list-item]
    "ragged data": (asked(tensor("size", "FP64", [[1.0], [1.0, 2.0]], [2, 1])), "record 0, field 'size'"),
    "unknown datatype": (asked(tensor("size", "FP65", [1.0])), "datatype 'FP65'.*send one of FP64"),
    "BOOL": (asked(tensor("size", "BOOL", [True])), "datatype 'BOOL'"),
    "text for a number": (asked(tensor("size", "BYTES", ["1"])), "datatype 'BYTES'"),
    "fraction for a category": (asked(tensor("kind", "FP64", [1.0])), "datatype 'FP64'"),
    "number for a text": (asked(tensor("note", "INT64", [1])), "datatype 'INT64'"),
    "number in BYTES": (asked(tensor("kind", "BYTES", ["a", 1])), "record 1, field 'kind': Expected `str \\| null`, got `int`"),
    "fraction in INT64": (asked(tensor("rooms", "INT64", [1, 1.5])), "record 1, field 'rooms'"),
    "true in FP64": (asked(tensor("size", "FP64", [True])), "record 0, field 'size'.*bool"),
    "beyond INT8": (asked(tensor("rooms", "INT8", [127, 128])), "record 1, field 'rooms'.*<= 127"),
    "beyond UINT16": (asked(tensor("rooms", "UINT16", [65536])), "record 0, field 'rooms'"),
    "negative UINT64": (asked(tensor("rooms", "UINT64", [-1])), "record 0, field 'rooms'"),
    "fraction for an integer": (asked(tensor("rooms", "FP64", [1.0, 1.5])), "record 1, field 'rooms'"),
    "inexact integer": (asked(tensor("rooms", "INT64", [2**53 + 1])), "record 0, field 'rooms'"),
    "huge float for an integer": (asked(tensor("rooms", "FP64", [1e300])), "record 0, field 'rooms'"),
    "300 digits": (asked(tensor("rooms", "INT64", [10**300])), "record 0, field 'rooms'"),
    "outside the bounds": (asked(tensor("size", "FP64", [1.0, 1001.0])), "record 1, field 'size': 1001.0 is not within"),
    "no time": (asked(tensor("built", "BYTES", ["soon"])), "record 0, field 'built'"),
    "NUL": (asked(tensor("kind", "BYTES", ["\0"])), "record 0, field 'kind': holds the character NUL"),
    "long text": (asked(tensor("kind", "BYTES", ["x" * 10_001])), "record 0, field 'kind'"),
    "long id": (asked(ONE, tensor("id", "BYTES", ["x" * 201])), "record 0, field 'id'"),
    "no data": (asked({"name": "size", "datatype": "FP64", "shape": [1]}), "binary tensors and shared memory"),
    "data is a number": (asked({**ONE, "data": 1.0}), "Expected `array`"),
    "data is null": (asked({**ONE, "data": None}), "Expected `array`"),
    "unknown output": (asked(ONE, outputs=[{"name": "risk"}]), "'risk' is not an output; the outputs are prediction"),
    "output without a name": (asked(ONE, outputs=[{}]), "name"),
    "id is a number": (asked(ONE, id=42), "Expected `str \\| null`, got `int`"),
    "parameters is a list": (asked(ONE, parameters=[]), "object"),
    "an array": ([ONE], "Expected `object`, got `array`"),
    "a number": (3, "Expected `object`"),
    "empty": (b"", "the body is empty"),
    "broken JSON": (b'{"inputs": [', "not valid JSON"),
    "NaN in broken JSON": (b'{"inputs": [NaN', "not valid JSON"),
    "Infinity": (json.dumps(asked(tensor("size", "FP64", [float("inf")]))).encode(), "not valid JSON"),
    "NaN and Infinity": (b'{"inputs": [{"name": "size", "data": [NaN, -Infinity]}]}', "-Infinity is not a finite number"),
    "NaN and 1e999": (b'{"inputs": [{"name": "size", "data": [NaN, 1e999]}]}', "1e999 is not a finite number"),
    "NaN and a lone surrogate": (
        b'{"inputs": [{"name": "kind", "datatype": "BYTES", "shape": [2], "data": [NaN, "\\ud800"]}]}',
        "not valid UTF-8",
    ),
    "NaN and a deep nest": (b'{"inputs": [NaN, ' + b"[" * 100_000, "nested too deeply"),
    "NaN and 10,000 digits": (b'{"inputs": [NaN, ' + b"9" * 10_000 + b"]}", "not valid JSON"),
    "a deep nest": (b'{"inputs": [{"data": ' + b"[" * 100_000, "nested too deeply"),
    "not UTF-8": (b'{"id": "\xff", "inputs": []}', "not valid JSON"),
}


@pytest.mark.parametrize(("body", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_is_not_as_the_protocol_has_it_is_refused_with_a_reason(world: Speaking, body: Any, reason: str) -> None:
    said = refused(world, 400, INFER, body if body != b"" else None, method="POST")
    assert re.search(reason, said), said
    assert len(said) < 3000
    assert world.ask(INFER, asked(ONE)).status == 200


def test_of_many_faults_some_are_told_and_the_others_counted(world: Speaking) -> None:
    said = refused(world, 400, INFER, asked(tensor("size", "FP64", [-1.0] * 1000)))
    assert said.startswith("1000 of the records are refused: record 0, field 'size': ")
    assert said.endswith("and 980 more")


@pytest.mark.parametrize("media", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded", "json"])
def test_another_content_type_is_refused_and_none_is_json(world: Speaking, media: str) -> None:
    assert media in refused(world, 415, INFER, asked(ONE), content_type=media)
    assert world.ask(INFER, asked(ONE), content_type="").status == 200


def test_binary_tensors_are_refused_with_the_advice_to_send_json(world: Speaking) -> None:
    said = refused(world, 400, INFER, b"{}\0\0", content_type="application/octet-stream", inference_header_content_length="2")
    assert "binary_data=False" in said


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v2/models/unknown", "GET", 404),
        ("/v2/models/unknown/ready", "GET", 404),
        ("/v2/models/unknown/versions/1/ready", "GET", 404),
        ("/v2/models/unknown/infer", "POST", 404),
        ("/v2/models/%00/infer", "POST", 404),
        ("/v2/repository/index", "POST", 404),
        (f"{MODEL}/config", "GET", 404),
        (INFER, "GET", 405),
        (INFER, "DELETE", 405),
        ("/v2", "POST", 405),
        ("/v2/health/live", "PUT", 405),
    ],
)
def test_unknown_names_paths_and_methods_have_the_protocols_form(world: Speaking, path: str, method: str, status: int) -> None:
    assert refused(world, status, path, asked(ONE), method=method)


def test_other_paths_keep_their_own_form(world: Speaking) -> None:
    for path in ("/v22", "/v2x/models", "/unknown"):
        reply = world.ask(path)
        assert (reply.status, reply.headers["content-type"]) == (404, "application/problem+json")


def test_a_body_above_the_limit_is_refused_in_the_protocols_form(world: Speaking) -> None:
    limit = world.settings.services.max_body_bytes
    assert "max_body_bytes" in refused(world, 413, INFER, b" " * (limit + 1))
    assert "max_body_bytes" in refused(world, 413, INFER, b"{}", content_length=str(limit + 1))


def test_before_the_first_model_only_the_process_is_ready(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    assert world.ask("/v2/health/live").status == world.ask("/v2").status == world.ask(MODEL).status == 200
    assert world.ask(MODEL).json["versions"] == []
    for path, body in (("/v2/health/ready", None), (f"{MODEL}/ready", None), (INFER, asked(ONE))):
        assert refused(world, 503, path, body) == "no model yet: 3 of 100 labelled rows"
        assert "retry-after" in world.ask(path, body).headers


class Broken:
    """An engine with a fault of its own."""

    def answered(self, question: Question, serving: Serving | None = None) -> NoReturn:
        raise ZeroDivisionError("division by zero")


def test_even_a_fault_of_ours_has_the_protocols_form_and_is_not_explained_to_clients(tmp_path: Path) -> None:
    with capture_logs() as logged:
        for rows in (1, INLINE_BYTES):
            said = refused(Speaking(tmp_path, Broken()), 500, INFER, asked(tensor("size", "FP64", [1.0] * rows)))
            assert said == "unexpected ZeroDivisionError; the service's log has the details"
    assert ["division by zero" in entry["error"] for entry in logged] == [True, True]
