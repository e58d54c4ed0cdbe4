"""Laws of the Open Inference Protocol: the answers of `POST /predict`, by the version that was named, and its error form."""

from __future__ import annotations

import importlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tools import PATIENCE_S

from correnteza.trainer.answers import Answered
from correnteza.trainer.predict import INLINE_BYTES, INLINE_ROWS, Predict, Serving
from correnteza.trainer.protocols.asking import LOADED_VERSIONS
from correnteza.trainer.protocols.tensors import DATATYPES
from correnteza.trainer.questions import Question

from .speaking import FIELDS, MODEL, NAME, Speaking, asked, outputs, refused, tensor

client: Any = importlib.import_module("tritonclient.http")  # has no types
InferenceServerException: Any = importlib.import_module("tritonclient.utils").InferenceServerException
INFER = f"{MODEL}/infer"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Speaking:
    """Three versions, the third in service."""
    world = Speaking(tmp_path_factory.mktemp("v2"))
    for version in (1, 2, 3):
        world.add(version)
    world.serve(3, 10.0)
    return world


# A public client


@pytest.fixture
def triton(world: Speaking) -> Iterator[Any]:
    with world.listening() as address, client.InferenceServerClient(address, network_timeout=PATIENCE_S) as speaking:
        yield speaking


def values(name: str, datatype: str, data: Any, binary: bool = False) -> Any:
    found = client.InferInput(name, list(data.shape), datatype)
    return found.set_data_from_numpy(data, binary_data=binary)


def test_a_public_client_finds_server_and_model(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "correnteza"
    found = triton.get_model_metadata(NAME)
    assert (found["name"], found["versions"], found["platform"]) == (NAME, ["1", "2", "3"], "onnx_onnxv1")
    assert {i["name"]: i["datatype"] for i in found["inputs"]} == {
        "id": "BYTES", "size": "FP64", "rooms": "INT64", "kind": "BYTES", "note": "BYTES", "built": "BYTES",
    }  # fmt: skip
    assert found["outputs"][0] == {"name": "prediction", "datatype": "FP64", "shape": [-1]}
    ready = [triton.is_model_ready(NAME), triton.is_model_ready(NAME, "1"), triton.is_model_ready(NAME, "9")]
    assert ready == [True, True, False]
    assert not triton.is_model_ready("unknown")


def test_a_public_client_gets_the_numbers_of_predict(world: Speaking, triton: Any) -> None:
    """With NaN for a missing number, arrays [N] and [N, 1], and outputs asked for or not, which it would take as bytes too."""
    sizes, rooms = np.array([31.5, np.nan, 120.25]), np.array([[2], [3], [8]], np.int32)
    inputs = [
        values("size", "FP64", sizes),
        values("rooms", "INT32", rooms),
        values("kind", "BYTES", np.array(["flat", "", "boat"], object)),
    ]
    wanted = [client.InferRequestedOutput(name, binary_data=False) for name in ("upper", "prediction", "model_version")]
    some, every = triton.infer(NAME, inputs, outputs=wanted, request_id="r-7"), triton.infer(NAME, inputs)
    records = [{"size": 31.5, "rooms": 2, "kind": "flat"}, {"rooms": 3}, {"size": 120.25, "rooms": 8, "kind": "boat"}]
    expected = world.predicted(records)
    assert some.get_response()["id"] == "r-7"
    for name in ("upper", "prediction", "model_version"):
        assert some.as_numpy(name).tolist() == every.as_numpy(name).tolist() == [answer[name] for answer in expected]
    assert some.as_numpy("lower") is None
    assert every.as_numpy("lower").tolist() == [answer["lower"] for answer in expected]


def test_a_public_client_gets_single_precision_as_the_doubles_that_it_is(world: Speaking, triton: Any) -> None:
    sizes = np.array([31.1, 99.7], np.float32)
    found = triton.infer(NAME, [values("size", "FP32", sizes)]).as_numpy("prediction").tolist()
    assert found == [answer["prediction"] for answer in world.predicted([{"size": float(size)} for size in sizes])]


def test_a_public_client_is_answered_by_the_version_that_it_names(triton: Any) -> None:
    inputs = [values("size", "FP64", np.array([50.0]))]
    for version in ("1", "2", "3", ""):
        answer = triton.infer(NAME, inputs, model_version=version)
        number = int(version or 3)
        assert answer.get_response()["model_version"] == str(number)
        assert answer.as_numpy("model_version").tolist() == [number]
        assert 0 < answer.as_numpy("prediction")[0] - 1000 * number < 1000


@pytest.mark.parametrize(
    ("name", "version", "inputs", "status", "reason"),
    [
        ("unknown", "", [values("size", "FP64", np.ones(1))], "404", "there is no model 'unknown'"),
        (NAME, "9", [values("size", "FP64", np.ones(1))], "404", "no model version 9"),
        (NAME, "", [values("size", "FP64", np.array([1.0, -1.0]))], "400", "record 1, field 'size': -1.0 is not within"),
        (NAME, "", [values("size", "FP64", np.array([np.inf]))], "400", "not a finite number|valid JSON"),
        (NAME, "", [values("size", "BOOL", np.array([True]))], "400", "datatype 'BOOL'"),
        (NAME, "", [values("size", "FP64", np.ones(1), binary=True)], "400", "binary tensors"),
    ],
    ids=["model", "version", "value", "infinity", "datatype", "binary"],
)
def test_a_public_client_reads_our_refusals(
    triton: Any, name: str, version: str, inputs: list[Any], status: str, reason: str
) -> None:
    with pytest.raises(InferenceServerException, match=reason) as refusal:
        triton.infer(name, inputs, model_version=version)
    assert refusal.value.status() == status


# The answers are those of POST /predict

RECORD = st.fixed_dictionaries(
    {
        "size": st.none() | st.floats(0, 1000) | st.integers(0, 1000),
        "rooms": st.none() | st.integers(-(2**53), 2**53),
        "kind": st.none()
        | st.sampled_from(["flat", "house", "boat", ""])
        | st.text(max_size=4).filter(lambda t: "\0" not in t),
        "note": st.none() | st.text(max_size=4).filter(lambda t: "\0" not in t),
        "built": st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)).map(datetime.isoformat),
    }
)
TYPES = {"size": "FP64", "rooms": "INT64", "kind": "BYTES", "note": "BYTES", "built": "BYTES"}


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=6), st.sets(st.sampled_from(list(TYPES)), min_size=1), st.booleans())
def test_the_answer_is_that_of_predict(world: Speaking, records: list[dict[str, Any]], names: set[str], nested: bool) -> None:
    """Differential law, for any records, any of the fields, flat and nested data."""
    tensors = []
    for name in names:
        data = [[record[name]] if nested else record[name] for record in records]
        tensors.append(tensor(name, TYPES[name], data, [len(records), 1] if nested else None))
    reply = world.ask(INFER, asked(*tensors))
    assert reply.status == 200, reply.body
    expected = world.predicted([{name: record[name] for name in names} for record in records])
    found = outputs(reply.json)
    for name in ("prediction", "lower", "upper", "model_version"):
        assert found[name] == [answer[name] for answer in expected]


@pytest.mark.parametrize(("body", "reason"), [(b'{"size": -1}', "-1.0 is not within 0 and 1000"), (b'{"rooms": 2.5}', "int")])
def test_what_predict_refuses_is_refused_for_the_same_reason(world: Speaking, body: bytes, reason: str) -> None:
    fault = world.ask("/predict", b"[{}, " + body + b"]").json["errors"][0]
    [(name, value)] = json.loads(body).items()
    said = refused(world, 400, INFER, asked(tensor(name, "FP64", [None, value])))
    assert f"record {fault['index']}, field {fault['field']!r}: {fault['reason']}" in said
    assert reason in said


def test_null_and_nan_are_missing_values_and_so_is_a_field_without_a_tensor(world: Speaking) -> None:
    reply = world.ask(INFER, b'{"inputs": [{"name": "size", "datatype": "FP64", "shape": [2], "data": [null, NaN]}]}')
    missing = world.predicted([{}])[0]["prediction"]
    assert outputs(reply.json)["prediction"] == [missing, missing]


def test_whole_floats_stand_for_integers_because_only_floats_can_be_nan(world: Speaking) -> None:
    reply = world.ask(INFER, asked(tensor("rooms", "FP32", [2.0, None])))
    assert outputs(reply.json)["prediction"] == [a["prediction"] for a in world.predicted([{"rooms": 2}, {}])]


@pytest.mark.parametrize("datatype", DATATYPES["float"])
def test_every_datatype_of_numbers_is_read(world: Speaking, datatype: str) -> None:
    found = outputs(world.ask(INFER, asked(tensor("size", datatype, [7]), tensor("rooms", datatype, [3]))).json)
    assert found["prediction"] == [world.predicted([{"size": 7, "rooms": 3}])[0]["prediction"]]


def test_a_category_may_be_a_whole_number(world: Speaking) -> None:
    found = outputs(world.ask(INFER, asked(tensor("kind", "UINT8", [7]))).json)
    assert found["prediction"] == [world.predicted([{"kind": 7}])[0]["prediction"]]


def test_a_batch_of_ten_thousand_rows_is_answered_in_order(world: Speaking) -> None:
    rows = 10_000
    sizes = [i / 16 for i in range(rows)]
    found = outputs(world.ask(INFER, asked(tensor("size", "FP64", sizes), tensor("rooms", "INT64", [3] * rows))).json)
    expected = world.predicted([{"size": size, "rooms": 3} for size in sizes])
    assert found["prediction"] == [answer["prediction"] for answer in expected]
    assert len(set(found["id"])) == rows


class Watched:
    """An engine that knows in which threads it answered."""

    def __init__(self) -> None:
        self.world: Speaking | None = None
        self.threads: list[str] = []

    def answered(self, question: Question, serving: Serving | None = None) -> Answered:
        self.threads.append(threading.current_thread().name)
        world = self.world
        assert world is not None
        return Predict(world.schema, lambda: world.serving, str, world.answers).answered(question, serving)


def test_only_small_requests_for_the_version_in_service_are_answered_at_once(tmp_path: Path) -> None:
    """All others are in threads of their own: large bodies, small ones with many rows, versions that may have to be loaded."""
    engine = Watched()
    world = engine.world = Speaking(tmp_path, engine)
    world.add(1)
    world.add(2)
    world.serve(2)
    many, padding = asked(tensor("rooms", "INT8", [1] * (INLINE_ROWS + 1))), {"a": "x" * INLINE_BYTES}
    assert len(json.dumps(many)) < INLINE_BYTES
    one = asked(tensor("rooms", "INT8", [1]))
    requests_made = [(INFER, one), (INFER, many), (INFER, {**one, "parameters": padding}), (f"{MODEL}/versions/1/infer", one)]
    requests_made += [(f"{MODEL}/versions/2/infer", one), ("/invocations", {"inputs": {"rooms": [1] * (INLINE_ROWS + 1)}})]
    assert {world.ask(path, body).status for path, body in requests_made} == {200}
    aside = [name.startswith("protocols") for name in engine.threads]
    assert aside == [False, True, True, True, False, True]


def test_no_rows_have_no_answers(world: Speaking) -> None:
    for shape in ([0], [0, 1]):
        found = outputs(world.ask(INFER, asked(tensor("size", "FP64", [], shape))).json)
        assert found == {"prediction": [], "lower": [], "upper": [], "model_version": [], "id": []}


# Answers: what is selected, echoed, stored


def test_id_is_echoed_and_outputs_are_selected_in_their_order(world: Speaking) -> None:
    wanted = [{"name": "model_version", "parameters": {"binary_data": False}}, {"name": "prediction"}]
    body = asked(tensor("size", "FP64", [5.0]), id="r1", outputs=wanted, parameters={"any": 1})
    answer = world.ask(INFER, body).json
    assert [output["name"] for output in answer["outputs"]] == ["model_version", "prediction"]
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (NAME, "3", "r1")
    assert "id" not in world.ask(INFER, asked(tensor("size", "FP64", [5.0]))).json


def test_an_interval_that_is_not_known_is_left_out_and_refused_when_asked_for(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    world.serve(1, None)
    one = tensor("size", "FP64", [5.0])
    assert list(outputs(world.ask(INFER, asked(one)).json)) == ["prediction", "model_version", "id"]
    assert "'lower' is not known" in refused(world, 400, INFER, asked(one, outputs=[{"name": "lower"}]))


def test_answers_are_stored_under_the_ids_that_the_client_gave_or_got(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    world.add(2)
    world.serve(2, 10.0)
    given = outputs(world.ask(INFER, asked(tensor("size", "FP64", [1.5, 2.5]), tensor("id", "BYTES", ["a", None]))).json)
    named = outputs(world.ask(f"{MODEL}/versions/1/infer", asked(tensor("size", "FP64", [3.5]))).json)
    rows = world.stored()
    assert given["id"][0] == "a"
    assert len({*given["id"], *named["id"]}) == 3
    assert [row["prediction_id"] for row in rows] == given["id"] + named["id"]
    assert [row["prediction"] for row in rows] == given["prediction"] + named["prediction"]
    assert [row["model_version"] for row in rows] == [2, 2, 1]
    assert [row["lower"] is None for row in rows] == [False, False, True]
    assert json.loads(rows[2]["record"]) == {"size": 3.5}
    assert all(row["at"] <= datetime.now(UTC) for row in rows)


# Versions


def test_only_the_version_in_service_has_an_interval(world: Speaking) -> None:
    names = [list(outputs(world.ask(f"{MODEL}/versions/{v}/infer", asked(tensor("size", "FP64", [1.0]))).json)) for v in (2, 3)]
    assert ["lower" in found for found in names] == [False, True]


def test_a_swap_does_not_change_the_answers_of_a_named_version(world: Speaking) -> None:
    body = asked(tensor("size", "FP64", [50.0]), outputs=[{"name": "prediction"}])
    before = world.ask(f"{MODEL}/versions/2/infer", body).json["outputs"]
    try:
        world.serve(2, 1.0)
        assert world.ask(f"{MODEL}/versions/2/infer", body).json["outputs"] == before
        assert world.ask(INFER, body).json["model_version"] == "2"
    finally:
        world.serve(3, 10.0)


def test_only_a_few_versions_are_held_those_used_last(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    loaded: list[int] = []
    read = world.registry.model_bytes

    def counting(version: int) -> bytes:
        loaded.append(version)
        return read(version)

    for version in range(1, LOADED_VERSIONS + 3):
        world.add(version)
    last = LOADED_VERSIONS + 2
    world.serve(last)
    world.registry.model_bytes = counting  # type: ignore[method-assign]
    body = asked(tensor("size", "FP64", [1.0]))
    for version in (1, 1, 2, 1, last, 3, 1, 2):
        assert world.ask(f"{MODEL}/versions/{version}/infer", body).json["model_version"] == str(version)
    assert loaded == [1, 2, 3, 2]


def test_a_version_that_is_not_the_registered_one_answers_nothing_and_is_told(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    world.add(2)
    world.serve(2)
    path = tmp_path / "models" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"flat", b"boat"))
    body = asked(tensor("size", "FP64", [1.0]))
    assert "sha256" in refused(world, 409, f"{MODEL}/versions/1/infer", body)
    assert "sha256" in refused(world, 409, f"{MODEL}/versions/1/ready")
    assert world.kinds_of_events() == ["model_refused"] * 2
    assert world.ask(INFER, body).status == 200


def test_a_version_for_another_schema_or_with_other_answers_than_when_it_was_made_answers_nothing(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    other = Speaking(tmp_path / "other", fields={**FIELDS, "garden": "float"})
    other.registry.manifest = lambda version: {}  # type: ignore[method-assign]
    other.registry.model_bytes = world.registry.model_bytes  # type: ignore[method-assign]
    assert "trained for the fields ('size', 'rooms', 'kind')" in refused(other, 409, f"{MODEL}/versions/1")
    manifest = world.registry.manifest(1)
    manifest["probe"]["predictions"][0] += 1.0
    world.registry.manifest = lambda version: manifest  # type: ignore[method-assign]
    assert "probe row 0" in refused(world, 409, f"{MODEL}/versions/1")
    assert world.kinds_of_events() == other.kinds_of_events() == ["model_refused"]


@pytest.mark.parametrize("version", ["4", "0", "-1", "01", "1.0", "x", "9" * 5000, "¹"])
def test_versions_that_are_none_are_refused_by_name(world: Speaking, version: str) -> None:
    for path in (f"{MODEL}/versions/{version}", f"{MODEL}/versions/{version}/ready"):
        assert f"no model version {version[:9]}" in refused(world, 404, path).replace("'", "")
    refused(world, 404, f"{MODEL}/versions/{version}/infer", asked(tensor("size", "FP64", [1.0])))


def test_versions_whose_files_were_removed_are_not_listed(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    for version in (1, 2, 3):
        world.add(version)
    world.registry.prune(1)
    assert world.ask(MODEL).json["versions"] == ["3"]
    assert "has no files" in refused(world, 404, f"{MODEL}/versions/1")


def test_requests_for_many_versions_at_once_are_each_answered_by_theirs(world: Speaking) -> None:
    found: list[tuple[int, Any]] = []
    with world.listening() as address:

        def ask(version: int) -> None:
            url = f"http://{address}{MODEL}/versions/{version}/infer"
            answer = requests.post(url, json=asked(tensor("size", "FP64", [50.0] * 100)), timeout=PATIENCE_S).json()
            found.append((version, outputs(answer)))

        threads = [threading.Thread(target=ask, args=(i % 3 + 1,)) for i in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert len(found) == 24
    for version, got in found:
        assert got["model_version"] == [version] * 100
        assert all(0 < prediction - 1000 * version < 1000 for prediction in got["prediction"])


# The document


def test_the_document_shows_the_routes_with_schemas_and_examples_that_hold(world: Speaking) -> None:
    paths = world.app.openapi()["paths"]
    for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer"):
        operation = paths[path]["post"]
        body = operation["requestBody"]["content"]["application/json"]
        assert set(body["schema"]["properties"]) == {"inputs", "outputs", "id", "parameters"}
        assert "$ref" not in msgspec.json.encode(operation).decode()
        assert operation["responses"]["200"]["content"]["application/json"]["schema"]["required"]
        error = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
        assert error["required"] == ["error"]
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{name}", "/v2/models/{name}/ready"):
        answer = paths[path]["get"]["responses"]["200"]["content"]["application/json"]
        reply = world.ask(path.replace("{name}", NAME)).json
        assert set(answer["example"]) == set(answer["schema"]["properties"]) == set(reply)
