"""Laws of what is posted to the generator, over HTTP: records, outcomes, nonsense, idempotency keys."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.codec import ARROW, NDJSON, arrow_stream
from correnteza.log.sql import SqlStore

Running = Any  # the generator of conftest.py
GOOD = {"at": "2026-01-31T12:00:00Z", "n": 3, "x": 0.5, "kind": "a", "y": 1.5}


def added(shared: Running, answer: requests.Response) -> list[dict[str, Any]]:
    """The rows that an answer speaks of."""
    body = answer.json()
    assert answer.status_code == 201, body
    rows = [row for row in shared.rows() if body["first_offset"] <= row["offset"] <= body["last_offset"]]
    assert len(rows) == body["accepted"]
    return rows


# What is posted


def test_an_object_is_stored_before_it_is_answered(shared: Running) -> None:
    (row,) = added(shared, shared.post({**GOOD, "id": "mine"}))
    assert row["id"] == "mine"
    assert (row["n"], row["x"], row["kind"], row["y"]) == (3, 0.5, "a", 1.5)
    assert row["at"].isoformat() == "2026-01-31T12:00:00+00:00"


@pytest.mark.parametrize("form", ["array", "ndjson", "arrow"])
def test_many_are_stored_in_their_order_in_any_form(shared: Running, form: str) -> None:
    records = [{**GOOD, "n": n, "id": f"r{n}"} for n in range(500)]
    if form == "array":
        answer = shared.post(records)
    elif form == "ndjson":
        answer = shared.post(b"\n".join(json.dumps(r).encode() for r in records), media=NDJSON)
    else:
        table = pa.Table.from_pylist(records)
        answer = shared.post(arrow_stream(table.combine_chunks().to_batches()[0]), media=ARROW)
    rows = added(shared, answer)
    assert [row["id"] for row in rows] == [f"r{n}" for n in range(500)]
    assert [row["n"] for row in rows] == list(range(500))


def test_records_without_an_id_get_one_that_nobody_else_has(shared: Running) -> None:
    rows = added(shared, shared.post([GOOD, {**GOOD, "id": "mine"}, GOOD])) + added(shared, shared.post([GOOD, GOOD]))
    ids = [row["id"] for row in rows]
    assert ids[1] == "mine"
    assert len(set(ids)) == 5
    assert all(ids)


def test_missing_values_are_stored_as_missing(shared: Running) -> None:
    (row,) = added(shared, shared.post({"at": None, "n": None, "x": 1, "kind": None}))
    assert (row["at"], row["n"], row["kind"], row["y"]) == (None, None, None, None)


def test_no_records_are_no_error(shared: Running) -> None:
    answer = shared.post([])
    assert (answer.status_code, answer.json()) == (201, {"accepted": 0, "first_offset": None, "last_offset": None})


BAD: list[tuple[Any, str]] = [
    ({**GOOD, "x": "much"}, "x"),
    ({**GOOD, "x": 11}, "x"),
    ({**GOOD, "x": None}, "x"),
    ({**GOOD, "n": 1.5}, "n"),
    ({**GOOD, "at": "soon"}, "at"),
    ({**GOOD, "kind": ["a"]}, "kind"),
    ({**GOOD, "y": 1e200}, "y"),
    ({**GOOD, "z": 1}, "z"),
    ({"x": 1}, "at"),
    (7, ""),
    (None, ""),
]


@pytest.mark.parametrize(("bad", "field"), BAD)
def test_one_bad_record_refuses_them_all_with_index_field_and_reason(shared: Running, bad: Any, field: str) -> None:
    before = shared.rows()
    answer = shared.post([GOOD, bad, GOOD])
    body = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [(e["index"], e["field"]) for e in body["errors"]] == [(1, field)]
    assert body["errors"][0]["reason"]
    assert "nothing was stored" in body["detail"]
    assert shared.rows() == before


@pytest.mark.parametrize(("bad", "field"), BAD)
def test_with_skip_the_good_ones_are_stored_and_the_bad_one_is_kept_as_it_came(shared: Running, bad: Any, field: str) -> None:
    answer = shared.post([{**GOOD, "id": "1"}, bad, {**GOOD, "id": "3"}], "/records?on_error=skip")
    assert [row["id"] for row in added(shared, answer)] == ["1", "3"]
    body = answer.json()
    assert (body["error_count"], body["errors"][0]["index"], body["errors"][0]["field"]) == (1, 1, field)
    kept = shared.rows("rejected")[-1]
    assert (kept["source_row"], kept["field"], kept["reason"]) == (None, field, body["errors"][0]["reason"])
    assert json.loads(kept["record"]) == bad
    told = shared.rows("events")[-1]
    assert (told["kind"], json.loads(told["detail"])) == ("records_rejected", {"rejected": 1})


def test_with_skip_a_reject_of_an_arrow_stream_is_kept_as_it_came(shared: Running) -> None:
    table = pa.Table.from_pylist([{**GOOD, "id": "1", "x": float("nan")}, {**GOOD, "id": "2"}])
    answer = shared.post(arrow_stream(table.to_batches()[0]), "/records?on_error=skip", ARROW)
    assert [row["id"] for row in added(shared, answer)] == ["2"]
    kept = shared.rows("rejected")[-1]
    assert (kept["id"], kept["field"], json.loads(kept["record"])["x"]) == ("1", "x", "nan")


def test_with_skip_nothing_but_bad_ones_stores_nothing(shared: Running) -> None:
    before = len(shared.rows())
    answer = shared.post({"x": -1}, "/records?on_error=skip")
    assert (answer.status_code, answer.json()["accepted"], answer.json()["first_offset"]) == (201, 0, None)
    assert len(shared.rows()) == before


NONSENSE = [
    b"",
    b" ",
    b"{",
    b"[1,",
    b'{"x": NaN}',
    b'{"x": 1e999}',
    b"\xff\xfe",
    b'{"x": "\xff"}',
    b"[" * 100_000,
    b'{"x": ' + b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"n": ' + b"9" * 10_000 + b"}",
    b'{"x": ' + b"9" * 10_000 + b"}",
    b"\x00",
]


@pytest.mark.parametrize("path", ["/records", "/records?on_error=skip", "/outcomes"])
@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: repr(body[:12]))
def test_nonsense_is_a_client_error_with_a_reason_and_harms_nothing(shared: Running, path: str, body: bytes) -> None:
    for media in ("application/json", NDJSON, ARROW, "text/plain", "", "application/json; charset=utf-8"):
        answer = shared.post(body, path, media)
        if answer.status_code != 201:
            assert 400 <= answer.status_code < 500
            assert answer.json()["detail"]
        else:  # records that were skipped one by one
            assert answer.json()["accepted"] == 0
    assert shared.post(GOOD).status_code == 201


@settings(deadline=None, max_examples=60)
@given(
    st.binary(max_size=60) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()),
    st.sampled_from(["/records", "/records?on_error=skip", "/outcomes"]),
    st.sampled_from(["application/json", NDJSON, ARROW]),
)
def test_any_bytes_are_answered_without_a_server_error(shared: Running, body: bytes, path: str, media: str) -> None:
    assert shared.post(body, path, media).status_code < 500


def test_an_unknown_way_to_handle_errors_is_refused(shared: Running) -> None:
    assert shared.post(GOOD, "/records?on_error=ignore").status_code == 422


# Idempotency


def test_the_same_request_under_the_same_key_is_stored_once_and_answered_the_same(shared: Running) -> None:
    first = shared.post([GOOD, GOOD], **{"Idempotency-Key": "once"})
    count = len(shared.rows())
    again = shared.post([GOOD, GOOD], **{"Idempotency-Key": "once"})
    assert (again.status_code, again.content) == (201, first.content)
    assert len(shared.rows()) == count


def test_the_same_key_with_another_request_is_refused(shared: Running) -> None:
    assert shared.post(GOOD, **{"Idempotency-Key": "other"}).status_code == 201
    count = len(shared.rows())
    for body, path in (
        ({**GOOD, "n": 4}, "/records"),
        (GOOD, "/records?on_error=skip"),
        ({"id": "a", "target": 1}, "/outcomes"),
    ):
        answer = shared.post(body, path, **{"Idempotency-Key": "other"})
        assert answer.status_code == 422
        assert "Idempotency-Key 'other' came before with another request" in answer.json()["detail"]
    assert len(shared.rows()) == count


def test_a_refused_request_may_be_corrected_under_its_key(shared: Running) -> None:
    assert shared.post({**GOOD, "x": -1}, **{"Idempotency-Key": "mended"}).status_code == 422
    assert shared.post(GOOD, **{"Idempotency-Key": "mended"}).status_code == 201


def test_a_skipped_records_faults_are_answered_again(shared: Running) -> None:
    first, again = (shared.post([GOOD, 7], "/records?on_error=skip", **{"Idempotency-Key": "skip"}) for _ in range(2))
    assert first.json()["error_count"] == 1
    assert first.content == again.content


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_of_no_or_too_much_length_is_refused(shared: Running, key: str) -> None:
    assert shared.post(GOOD, **{"Idempotency-Key": key}).status_code == 422


def test_requests_at_the_same_time_under_the_same_key_store_once(shared: Running) -> None:
    before = len(shared.rows())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: shared.post([GOOD] * 3, **{"Idempotency-Key": "together"}), range(16)))
    assert {answer.content for answer in answers} == {answers[0].content}
    assert len(shared.rows()) == before + 3


def test_many_posts_at_the_same_time_are_each_stored_once(shared: Running) -> None:
    before = len(shared.rows())
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: shared.post([{**GOOD, "id": f"t{n}"}] * 2), range(60)))
    for n, answer in enumerate(answers):
        assert [row["id"] for row in added(shared, answer)] == [f"t{n}"] * 2
    assert len(shared.rows()) == before + 120


def test_a_key_holds_over_a_restart_and_rows_are_in_the_database(
    run: Callable[..., Any], wanted: Callable[..., Any], tmp_path: Path
) -> None:
    answers = []
    for _ in range(2):
        store = SqlStore(tmp_path / "generator.db")
        with run(wanted(tmp_path), store) as found:
            answers.append(found.post([GOOD, GOOD], **{"Idempotency-Key": "k"}))
            assert found.post({"id": "a", "target": 2}, "/outcomes", **{"Idempotency-Key": "o"}).status_code == 201
        store.close()
    assert answers[0].content == answers[1].content
    with sqlite3.connect(tmp_path / "generator.db") as database:
        assert database.execute("select count(*) from raw").fetchone() == (2,)
        assert database.execute("select id, target from outcomes").fetchall() == [("a", 2.0)]
        assert database.execute("select key from idempotency order by key").fetchall() == [("k",), ("o",)]
    database.close()


# Outcomes


def test_outcomes_are_stored_in_any_form(shared: Running) -> None:
    before = len(shared.rows("outcomes"))
    assert shared.post({"id": "a", "target": 1}, "/outcomes").json()["accepted"] == 1
    assert shared.post([{"id": "b", "target": 2.5}, {"id": 3, "target": -1}], "/outcomes").json()["accepted"] == 2
    lines = b'{"id": "d", "target": 4}\n{"id": "e", "target": 5}\n'
    answer = shared.post(lines, "/outcomes", NDJSON).json()
    assert (answer["first_offset"], answer["last_offset"]) == (before + 4, before + 5)
    rows = [(row["id"], row["target"]) for row in shared.rows("outcomes")[before:]]
    assert rows == [("a", 1.0), ("b", 2.5), ("3", -1.0), ("d", 4.0), ("e", 5.0)]
    assert [row["id"] for row in shared.get(f"/outcomes?limit={before + 5}")["records"]][before:] == ["a", "b", "3", "d", "e"]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"id": "a"},
        {"target": 1},
        {"id": "", "target": 1},
        {"id": "a", "target": "1"},
        {"id": "a", "target": True},
        {"id": "a", "target": None},
        {"id": "a", "target": 1e101},
        {"id": None, "target": 1},
        {"id": True, "target": 1},
        {"id": 1.5, "target": 1},
        {"id": "a" * 201, "target": 1},
        {"id": "a", "target": 1, "more": 1},
        [],
        7,
    ],
)
def test_one_bad_outcome_refuses_them_all(shared: Running, bad: Any) -> None:
    before = shared.rows("outcomes")
    answer = shared.post([{"id": "a", "target": 1}, bad], "/outcomes")
    assert answer.status_code == 422
    assert [error["index"] for error in answer.json()["errors"]] == [1]
    assert shared.rows("outcomes") == before
