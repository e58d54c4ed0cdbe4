"""Whatever is sent to a running system is answered with a reason, and the stream goes on as if nothing had been.

Invariant 8 of the architecture, held over real processes: bad input is refused with 4xx and
`application/problem+json`, never with 5xx; nothing of it reaches a log; no stage stops.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi import checks
from tests.tools import PATIENCE_S

from correnteza.codec import ARROW, JSON, NDJSON

from .bad_bodies import (
    BROKEN,
    ENDPOINTS,
    MARK,
    NOT_TAKEN,
    OUTSIDE,
    QUERIES,
    RECORD,
    STREAMS,
    TYPES,
    UNKNOWN,
    VALUES,
    VERSIONS,
    Endpoint,
    stream,
    table,
)
from .conftest import SERVICES, Pipeline

TOML = """
[generator]
records_per_second = 25

[trainer]
params = { n_estimators = 3, max_leaf_nodes = 16 }
window_rows = 300
min_rows = 30
retrain_every_s = 1

[consumer]
requests_per_second = 5
"""
LIMIT = 8 * 2**20
"""Largest body, in bytes, as the settings have it by default."""
ALL = pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
MANY = pytest.mark.parametrize("endpoint", [ENDPOINTS[n] for n in ("records", "outcomes", "predict")], ids=lambda e: e.path[1:])


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """All four services at work, with a model in service."""
    pipeline = Pipeline(tmp_path_factory.mktemp("bad_input"), TOML)
    pipeline.start()
    try:
        pipeline.wait(lambda: all(pipeline.get(name, "/health/ready") for name in SERVICES), "all to be ready")
        pipeline.wait(lambda: (pipeline.get("consumer", "/status") or {}).get("answers"), "the first answers")
        yield pipeline
        assert set(pipeline.stop().values()) == {0}, pipeline.last_words()
    finally:
        for process in pipeline.processes.values():
            process.kill()
            process.wait()


def send(system: Pipeline, endpoint: Endpoint, body: Any, media: str | None = JSON, **query: str) -> requests.Response:
    """One request."""
    headers = {} if media is None else {"Content-Type": media}
    url = system.url(endpoint.service, endpoint.path)
    return requests.request(endpoint.method, url, params=query, data=body, headers=headers, timeout=PATIENCE_S)


def refused(answer: requests.Response, *statuses: int) -> str:
    """All that the refusal says, which has one of these statuses and the form of RFC 9457."""
    assert answer.status_code in statuses, f"{answer.status_code} {answer.text[:500]}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["title"]
    assert len(answer.content) < 50_000, "the answer echoes the request"
    reasons = [f"{fault['index']} {fault['field']}: {fault['reason']}" for fault in problem.get("errors", [])]
    return "\n".join([problem["detail"], *reasons])


@ALL
@pytest.mark.parametrize(("bend", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_body_is_refused(system: Pipeline, endpoint: Endpoint, bend: Callable[[bytes], bytes], reason: str) -> None:
    said = refused(send(system, endpoint, bend(json.dumps(endpoint.good).encode())), 400, 422)
    assert re.search(reason, said), said


@ALL
@pytest.mark.parametrize(("value", "reason"), VALUES.values(), ids=VALUES)
def test_a_value_that_is_no_finite_number_is_refused(system: Pipeline, endpoint: Endpoint, value: bytes, reason: str) -> None:
    said = refused(send(system, endpoint, endpoint.body(value)), 400, 422)
    assert re.search(reason, said), said


@MANY
@pytest.mark.parametrize(("value", "reason"), VALUES.values(), ids=VALUES)
def test_one_bad_line_of_ndjson_refuses_them_all(system: Pipeline, endpoint: Endpoint, value: bytes, reason: str) -> None:
    lines = b"\n".join([json.dumps(endpoint.good).encode(), endpoint.body(value), b""])
    said = refused(send(system, endpoint, lines, NDJSON), 400, 422)
    assert re.search(reason, said), said


@MANY
@pytest.mark.parametrize("media", [JSON, NDJSON])
def test_the_bad_record_of_many_is_named_by_its_place(system: Pipeline, endpoint: Endpoint, media: str) -> None:
    good = json.dumps(endpoint.good).encode()
    parts = [good, good, endpoint.body(b'"forty"'), good]
    body = b"[" + b",".join(parts) + b"]" if media == JSON else b"\n".join(parts)
    assert "2 " in refused(send(system, endpoint, body, media), 422).partition("\n")[2]


@ALL
@pytest.mark.parametrize("media", ["text/plain", "application/xml", "application/octet-stream", "multipart/form-data", "json"])
def test_another_content_type_is_refused_by_name(system: Pipeline, endpoint: Endpoint, media: str) -> None:
    said = refused(send(system, endpoint, json.dumps(endpoint.good), media), 415)
    assert media in said
    assert JSON in said


@ALL
@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_body_above_the_limit_is_refused(system: Pipeline, endpoint: Endpoint, declared: bool) -> None:
    """With and without Content-Length; the reason names the setting."""
    body: Any = b" " * (LIMIT + 1)
    parts = (body[i : i + 2**20] for i in range(0, len(body), 2**20))
    assert f"max_body_bytes = {LIMIT}" in refused(send(system, endpoint, body if declared else parts), 413)


@pytest.mark.parametrize(("odd", "reason"), OUTSIDE, ids=[reason for _, reason in OUTSIDE])
@pytest.mark.parametrize("media", [JSON, NDJSON])
def test_a_value_outside_its_bounds_is_refused(system: Pipeline, odd: dict[str, Any], reason: str, media: str) -> None:
    said = refused(send(system, ENDPOINTS["records"], json.dumps({**RECORD, **odd}), media), 422)
    assert reason in said


@pytest.mark.parametrize(("name", "body", "reason"), NOT_TAKEN, ids=[f"{name}-{reason}" for name, _, reason in NOT_TAKEN])
def test_what_the_route_does_not_take_is_refused_by_name(system: Pipeline, name: str, body: Any, reason: str) -> None:
    said = refused(send(system, ENDPOINTS[name], json.dumps(body)), 422)
    assert re.search(reason, said), said


def test_of_a_doubled_key_the_last_value_is_judged(system: Pipeline) -> None:
    for endpoint in ENDPOINTS.values():
        body = json.dumps(endpoint.good)[:-1] + f', "{endpoint.field}": "forty"}}'
        refused(send(system, endpoint, body), 422)


@pytest.mark.parametrize("key", ["", "x" * 256], ids=["empty", "long"])
@pytest.mark.parametrize("path", ["/records", "/outcomes"])
def test_an_idempotency_key_has_a_length(system: Pipeline, path: str, key: str) -> None:
    answer = requests.post(system.url("generator", path), json=RECORD, headers={"Idempotency-Key": key}, timeout=PATIENCE_S)
    assert "Idempotency-Key" in refused(answer, 422)


@pytest.mark.parametrize("path", ["/train", "/models/unpin"])
def test_routes_without_a_body_read_none(system: Pipeline, path: str) -> None:
    """What is sent along does not matter, and a body above the limit is refused there too."""
    assert requests.post(system.url("trainer", path), data=b"{" * 1000, timeout=PATIENCE_S).status_code in (200, 202)
    refused(requests.post(system.url("trainer", path), data=b" " * (LIMIT + 1), timeout=PATIENCE_S), 413)


@pytest.mark.parametrize(("made", "reason"), STREAMS.values(), ids=STREAMS)
def test_an_arrow_stream_that_is_not_what_it_should_be_is_refused(
    system: Pipeline, made: Callable[[], bytes], reason: str
) -> None:
    said = refused(send(system, ENDPOINTS["records"], made(), ARROW), 400, 422)
    assert re.search(reason, said), said
    assert JSON in refused(send(system, ENDPOINTS["outcomes"], made(), ARROW), 415)


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_arrow_stream_never_breaks_the_service(system: Pipeline, seed: int) -> None:
    """Bits turned over at random, in questions, which leave no trace where they happen to be valid."""
    chance, good = random.Random(seed), stream(table().drop_columns(["income"]))
    for _ in range(50):
        bent = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)
        answer = send(system, ENDPOINTS["predict"], bytes(bent), ARROW)
        if answer.status_code != 200:
            refused(answer, 400, 422)


# ---------------------------------------------------------------------------------------------------- queries


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(("query", "reason"), QUERIES.values(), ids=QUERIES)
def test_a_bad_query_is_refused_by_every_log(system: Pipeline, service: str, query: str, reason: str) -> None:
    for log in system.get(service, "/status")["logs"]:
        said = refused(requests.get(system.url(service, f"/{log}?{query}"), timeout=PATIENCE_S), 400, 422)
        assert reason in said


@pytest.mark.parametrize("service", SERVICES)
def test_a_stream_of_events_is_refused_before_it_begins(system: Pipeline, service: str) -> None:
    url = system.url(service, "/records/stream")
    assert "is not a cursor" in refused(requests.get(url, {"after": "x"}, timeout=PATIENCE_S), 400)
    assert "is not a cursor" in refused(requests.get(url, headers={"Last-Event-ID": "\xff"}, timeout=PATIENCE_S), 400)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version[:20])
def test_a_version_that_is_none_is_refused(system: Pipeline, version: str) -> None:
    answers = [
        requests.get(system.url("normalizer", f"/scalers/{version}"), timeout=PATIENCE_S),
        requests.get(system.url("trainer", f"/models/{version}"), timeout=PATIENCE_S),
        requests.post(system.url("trainer", f"/models/{version}/promote"), timeout=PATIENCE_S),
    ]
    for answer in answers:
        said = refused(answer, 404 if version in UNKNOWN else 422)
        assert (f"version {version}" if version in UNKNOWN else "path.version") in said


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_not_there_and_methods_that_are_not_are_refused(system: Pipeline, service: str) -> None:
    refused(requests.get(system.url(service, "/" + "x" * 5_000), timeout=PATIENCE_S), 404)
    refused(requests.get(system.url(service, "/records/%2e%2e/%00"), timeout=PATIENCE_S), 404)
    refused(requests.delete(system.url(service, "/records"), timeout=PATIENCE_S), 405)
    refused(requests.post(system.url(service, "/status"), data=b"x", timeout=PATIENCE_S), 405)


# ---------------------------------------------------------------------------------------------------- afterwards


def flowing(system: Pipeline) -> None:
    """Every service is ready, every stage runs, and rows come out at the other end."""
    for name in SERVICES:
        status = system.get(name, "/status")
        assert status["ready"], status
        assert {stage["state"] for stage in status["stages"].values()} <= {"running"}, status
        assert system.processes[name].poll() is None
        assert "Traceback" not in (system.folder / f"{name}.log").read_text(), system.last_words()
    counts = {"generator": "posted_rows", "normalizer": "raw_rows", "trainer": "learned_rows", "consumer": "answers"}
    before = {name: system.get(name, "/status")[count] for name, count in counts.items()}
    record = {**RECORD, "id": f"good-{before['generator']}"}
    assert send(system, ENDPOINTS["records"], json.dumps(record)).status_code == 201
    for name, count in counts.items():
        system.wait(lambda: system.get(name, "/status")[count] > before[name], f"{name} to go on", 20)  # noqa: B023
    assert send(system, ENDPOINTS["predict"], b'{"age": 31}').json()["prediction"] is not None
    for name in ("generator-rate", "consumer-rate"):
        assert send(system, ENDPOINTS[name], json.dumps(ENDPOINTS[name].good)).ok


def test_afterwards_the_stream_is_unharmed(system: Pipeline) -> None:
    """Nothing of what was refused is in any log, no event tells of a failure, and good requests are answered."""
    flowing(system)
    for service, column in {"generator": "raw", "normalizer": "normalized"}.items():
        assert system.query(service, f"select count(*) from {column} where id like '{MARK}%'") == [(0,)]
    assert system.query("generator", "select count(*) from outcomes") == [(0,)]
    assert system.query("generator", "select count(*) from rejected") == [(0,)]
    for name in SERVICES:
        kinds = {kind for (kind,) in system.query(name, "select distinct kind from events")}
        assert not {kind for kind in kinds if "failed" in kind or kind in ("gap", "records_rejected")}, kinds


@pytest.mark.parametrize("media", [JSON, NDJSON, ARROW], ids=["json", "ndjson", "arrow"])
def test_bad_records_that_are_to_be_skipped_are_kept_with_their_reasons(system: Pipeline, media: str) -> None:
    """The good ones beside them are stored; what JSON cannot show, such as times of the year 100,000, is no obstacle."""
    good = {**RECORD, "id": f"good-beside-{media.rpartition('.')[2]}"}
    bad = [{**RECORD, "age": {"deep": [[[1]]]}}, {**RECORD, "name": "a\0b"}, 5, {"x" * 1000: 1}]
    body = json.dumps([*bad, good]).encode()
    if media == NDJSON:
        body = b"\n".join(json.dumps(record).encode() for record in (*bad, good))
    if media == ARROW:
        times = pa.array([2**62, -(2**62), 0, 0], TYPES["event_time"])
        body = stream(table(4, id=pa.array([MARK, MARK, "x" * 201, good["id"]]), event_time=times))
    before = system.query("generator", "select count(*) from rejected")[0][0]
    answer = send(system, ENDPOINTS["records"], body, media, on_error="skip")
    assert answer.status_code == 201, answer.text
    faulty = {fault["index"] for fault in answer.json()["errors"]}
    kept = system.query("generator", "select reason, record from rejected order by offset")[before:]
    assert len(kept) == len(faulty)
    assert all(reason and record for reason, record in kept)
    assert system.query("generator", f"select count(*) from raw where id = '{good['id']}'") == [(1,)]


# ---------------------------------------------------------------------------------------------------- schemathesis

PROMISES = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
EXACT = ("/records", "/outcomes", "/rate", "/predict")
"""Whose documents describe bodies to the last limit, so that what they allow must be taken."""
EXAMPLES = 12


@pytest.mark.parametrize("service", SERVICES)
def test_the_services_keep_what_their_documents_promise(system: Pipeline, service: str) -> None:
    """Whatever the documents allow and much that they forbid: no failure, and only answers that they announce."""
    schema = schemathesis.openapi.from_url(system.url(service, "/openapi.json"))
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path == "/records/stream":  # it never ends
            continue
        for mode in schemathesis.GenerationMode:
            keep_promises(operation, mode)


def keep_promises(operation: Any, mode: schemathesis.GenerationMode) -> None:
    """Call one operation with good or with bad requests."""
    if mode == schemathesis.GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.path_parameters):
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: Any) -> None:
        tame(case)
        exact = operation.path in EXACT and operation.body and not _by_columns(case.body)
        taken = [checks.positive_data_acceptance] if exact else []
        case.call_and_validate(checks=PROMISES + taken, timeout=PATIENCE_S)

    try:
        call()
    except Unsatisfiable:  # a text in a path may be any: nothing is forbidden
        assert mode == schemathesis.GenerationMode.NEGATIVE


def _by_columns(body: Any) -> bool:
    """Whether a body has a form of which no document can say everything: that each row is as long as its head, and so on."""
    return isinstance(body, dict) and "columns" in body


def tame(case: Any) -> None:
    """No long waits, no rate that would drown the tests, and nothing that makes an invalid body valid."""
    for name, value in (case.path_parameters or {}).items():
        if isinstance(value, str):  # what is longer than a server's limit for addresses is refused before it is HTTP
            case.path_parameters[name] = value[:200]
    query = case.query if isinstance(case.query, dict) else {}
    if is_number(query.get("wait_s")):
        query["wait_s"] = 0.01
    if query.get("on_error") == "skip":
        del query["on_error"]
    if case.headers and case.path in ("/records", "/outcomes"):
        case.headers.pop("Idempotency-Key", None)  # another request may have come under it
    if case.path == "/rate" and isinstance(case.body, dict):
        for name, value in case.body.items():
            if value == "inf" or (is_number(value) and value > 100):
                case.body[name] = 20


def is_number(value: object) -> bool:
    """Whether a value is a number, not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def test_after_all_that_the_stream_still_flows(system: Pipeline) -> None:
    assert requests.post(system.url("trainer", "/models/unpin"), timeout=PATIENCE_S).ok
    for name in ("generator-rate", "consumer-rate"):
        assert send(system, ENDPOINTS[name], json.dumps(ENDPOINTS[name].good)).ok
    flowing(system)
