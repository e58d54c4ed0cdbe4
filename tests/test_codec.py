"""Laws of the codec: whatever the bytes are, they become a batch, problems or an InputError, and nothing else."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from correnteza.codec import (
    ARROW,
    BAD_RECORDS,
    ECHO,
    ID_LIMIT,
    JSON,
    MEDIA_TYPES,
    NDJSON,
    Codec,
    Decoded,
    arrow_stream,
    encode_rows,
    plain_values,
)
from correnteza.described import json_schema
from correnteza.errors import InputError
from correnteza.records import INTEGER_LIMIT, TEXT_LIMIT, Field, Schema
from correnteza.validation import problems

SCHEMA = Schema(
    (
        Field("at", "timestamp"),
        Field("size m2", "float", minimum=-10, maximum=1e6),
        Field("rooms", "integer", minimum=0),
        Field("kind", "category", required=True),
        Field("note.text-1", "text"),
        Field("f0", "float"),
    ),
    target="price",
    timestamp="at",
)
WHOLE, PARTIAL = Codec(SCHEMA), Codec(SCHEMA, partial=True)
CODECS = pytest.mark.parametrize("codec", [WHOLE, PARTIAL], ids=["whole", "partial"])
MEDIA = pytest.mark.parametrize("media", MEDIA_TYPES, ids=["json", "ndjson", "arrow"])
GOOD: dict[str, Any] = {
    "id": "a1",
    "at": "2026-01-31T12:00:00Z",
    "size m2": 52.5,
    "rooms": 3,
    "kind": "flat",
    "note.text-1": "à beira-mar",
    "f0": None,
    "price": 1.5,
}


def laws(codec: Codec, body: bytes, media: str) -> Decoded | None:
    """Decode, and hold the answer to the contract; None where the body was refused."""
    try:
        decoded = codec.decode(body, media)
    except InputError as error:
        reasoned(error)
        return None
    batch = decoded.batch
    batch.validate(full=True)
    assert batch.schema.equals(codec.schema.raw)
    bad = {problem.index for problem in decoded.problems}
    assert bad <= set(range(batch.num_rows))
    assert [p.index for p in decoded.problems] == sorted(p.index for p in decoded.problems)
    good = without(batch, bad)
    assert problems(good, codec.schema) == []
    msgspec.json.encode(encode_rows(good))
    return decoded


def reasoned(error: InputError) -> None:
    """A refusal has a client's status and a reason for everything."""
    assert error.status in (400, 415, 422)
    assert str(error)
    assert all(problem.reason for problem in error.problems)


def without(batch: pa.RecordBatch, bad: set[int]) -> pa.RecordBatch:
    """The rows of a batch that are not at fault."""
    return batch.filter(pa.array([i not in bad for i in range(batch.num_rows)], pa.bool_()))


def written(rows: list[dict[str, Any]], media: str) -> bytes:
    """Rows as a body; in Arrow their times are times."""
    if media == JSON:
        return json.dumps(rows).encode()
    if media == NDJSON:
        return b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return arrow_stream(expected(rows))


def expected(rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """What valid rows stand for, made without the codec."""
    plain = [{name: None if value == "" else value for name, value in row.items()} for row in rows]
    for row in plain:
        row["at"] = None if row["at"] is None else datetime.fromisoformat(row["at"]).astimezone(UTC)
    return pa.RecordBatch.from_pylist(plain, schema=SCHEMA.raw)


def of_target(rows: list[dict[str, Any]], codec: Codec) -> list[dict[str, Any]]:
    """The rows as this codec takes them: questions have no target."""
    return rows if codec is WHOLE else [{name: value for name, value in row.items() if name != "price"} for row in rows]


# ---------------------------------------------------------------------------------------------------- strategies

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
TIMES = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)).map(lambda time: time.replace(tzinfo=UTC).isoformat())
NUMBERS = st.floats(-1e100, 1e100, allow_nan=False)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.none() | TEXTS,
            "at": st.none() | TIMES,
            "size m2": st.none() | st.floats(-10, 1e6),
            "rooms": st.none() | st.integers(0, INTEGER_LIMIT),
            "kind": TEXTS.filter(bool),
            "note.text-1": st.none() | TEXTS,
            "f0": st.none() | NUMBERS,
            "price": st.none() | NUMBERS,
        }
    ),
    max_size=4,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "x"]) | st.text(max_size=3), inner),
    max_leaves=6,
)
NEARLY = st.lists(
    st.dictionaries(st.sampled_from([*GOOD, "x", "price "]), ANYTHING).map(lambda odd: {**GOOD, **odd}) | ANYTHING, max_size=3
)


def as_json(value: Any) -> bytes:
    """JSON with NaN, infinities and lone surrogates, as careless programs write it."""
    return json.dumps(value, ensure_ascii=True).encode()


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """A body with some bits flipped, bytes taken out or put in, or its end cut off."""
    bent = bytearray(body)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(bent) - 1))
        how = draw(st.sampled_from(["bit", "byte", "out", "in", "cut"]))
        if how == "bit":
            bent[place] ^= 1 << draw(st.integers(0, 7))
        elif how == "byte":
            bent[place] = draw(st.integers(0, 255))
        elif how == "out":
            del bent[place : place + draw(st.sampled_from([1, 4, 8]))]
        elif how == "in":
            bent[place:place] = bytes(draw(st.sampled_from([1, 4, 8])))
        else:
            del bent[place:]
        bent = bent or bytearray(b"\0")
    return bytes(bent)


# ---------------------------------------------------------------------------------------------------- bad bodies


@CODECS
@MEDIA
@given(body=st.binary(max_size=200))
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_a_batch_or_refused(codec: Codec, media: str, body: bytes) -> None:
    laws(codec, body, media)


@CODECS
@given(value=ANYTHING | NEARLY)
@settings(max_examples=100, deadline=None)
@example(value={**GOOD, "kind": "\ud800"})
@example(value={"\ud800": 1})
@example(value=[{**GOOD, "at": "0001-01-01T10:00:00.1234567+23:59"}])
def test_any_json_is_a_batch_or_refused(codec: Codec, value: Any) -> None:
    """One record per item, in JSON and in NDJSON alike."""
    decoded = laws(codec, as_json(value), JSON)
    if decoded is not None:
        assert decoded.batch.num_rows == (len(value) if isinstance(value, list) else 1)
        assert decoded.single == (not isinstance(value, list))
    for item in value if isinstance(value, list) else [value]:
        laws(codec, as_json(item), NDJSON)


@CODECS
@MEDIA
@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_damaged_body_is_a_batch_or_refused(codec: Codec, media: str, data: st.DataObject) -> None:
    rows = [GOOD, {**GOOD, "id": 7, "rooms": None}] if media != ARROW else [GOOD, {**GOOD, "rooms": None}]
    laws(codec, data.draw(damaged(written(of_target(rows, codec), media))), media)


@CODECS
@pytest.mark.parametrize("empty", [b"", b" ", b"\n\r\t \n"], ids=["nothing", "a-space", "blank-lines"])
@MEDIA
def test_an_empty_body_is_refused_in_every_media_type(codec: Codec, empty: bytes, media: str) -> None:
    with pytest.raises(InputError, match="empty") as caught:
        codec.decode(empty, media)
    assert caught.value.status == 400


@pytest.mark.parametrize("deep", [b"[", b'{"at":', b'[{"at":'], ids=["arrays", "objects", "both"])
@pytest.mark.parametrize("media", [JSON, NDJSON])
def test_deep_nesting_is_refused(deep: bytes, media: str) -> None:
    with pytest.raises(InputError, match="nested too deeply") as caught:
        WHOLE.decode(deep * 100_000, media)
    assert caught.value.status == 400


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 10_000, "-" + "9" * 10_000, "NaN", "Infinity"])
@pytest.mark.parametrize("field", ["size m2", "rooms", "kind", "at", "price", "id"])
def test_what_is_no_finite_number_is_refused_in_every_field(field: str, number: str) -> None:
    body = json.dumps({**GOOD, field: "@"}).replace('"@"', number).encode()
    for media in (JSON, NDJSON):
        with pytest.raises(InputError):
            WHOLE.decode(body, media)


@pytest.mark.parametrize(
    "media", ["text/plain", "application/xml", "application/jsonp", "multipart/form-data", "\xff", "application/json+x"]
)
def test_other_media_types_are_refused_by_name(media: str) -> None:
    with pytest.raises(InputError, match="Content-Type") as caught:
        WHOLE.decode(as_json(GOOD), media)
    assert caught.value.status == 415


@pytest.mark.parametrize("media", [None, "", "application/json; charset=utf-8", "APPLICATION/JSON", " application/json "])
def test_json_is_read_however_it_is_announced(media: str | None) -> None:
    assert WHOLE.decode(as_json(GOOD), media).problems == ()


def test_a_name_that_is_not_in_the_schema_is_sent_back_in_part_only() -> None:
    """An answer is short however long the unknown name is."""
    long = "x" * 1_000_000
    (problem,) = WHOLE.decode(as_json({**GOOD, long: 1}), JSON).problems
    assert len(problem.field) == ECHO
    with pytest.raises(InputError) as caught:
        WHOLE.decode(arrow_stream(pa.RecordBatch.from_pydict({long: [1]})), ARROW)
    assert max(len(p.field) + len(p.reason) for p in caught.value.problems) < 500


def test_too_many_invalid_records_are_not_listed_one_by_one() -> None:
    """A body of millions of wrong items is refused after the first of them, quickly."""
    enough = b"[" + b"1," * BAD_RECORDS + b"1]"
    with pytest.raises(InputError, match=f"more than {BAD_RECORDS} of {BAD_RECORDS + 1} records"):
        WHOLE.decode(enough, JSON)
    assert len(WHOLE.decode(b"[" + b"1," * 99 + b"1]", JSON).problems) == 100


@pytest.mark.parametrize(
    ("odd", "field", "reason"),
    [
        ({"x": 1}, "x", "not a field"),
        ({"size m2": "52"}, "size m2", "Expected `float"),
        ({"size m2": True}, "size m2", "Expected `float"),
        ({"size m2": -10.5}, "size m2", "not within"),
        ({"rooms": 2.5}, "rooms", "Expected `int"),
        ({"rooms": 2**53 + 1}, "rooms", "<= 9007199254740992"),
        ({"rooms": -1}, "rooms", "not within"),
        ({"kind": None}, "kind", "is missing"),
        ({"kind": ""}, "kind", "is missing"),
        ({"kind": ["flat"]}, "kind", "Expected `int | str"),
        ({"kind": "a\0b"}, "kind", "NUL"),
        ({"note.text-1": "\0"}, "note.text-1", "NUL"),
        ({"note.text-1": "é" * (TEXT_LIMIT + 1)}, "note.text-1", "length <= 10000"),
        ({"at": "soon"}, "at", "is not a time"),
        ({"at": 5}, "at", "Expected `str"),
        ({"at": "10000-01-01"}, "at", "is not a time"),
        ({"price": "dear"}, "price", "Expected `float"),
        ({"price": 1e101}, "price", "not within"),
        ({"id": "x" * (ID_LIMIT + 1)}, "id", "length <= 200"),
        ({"id": int("9" * (ID_LIMIT + 1))}, "id", "longer than 200"),
        ({"id": "a\0"}, "id", "NUL"),
        ({"id": 1.5}, "id", "Expected `int | str"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_each_fault_is_found_among_good_records_and_named(odd: dict[str, Any], field: str, reason: str) -> None:
    """The good neighbours are as without it, on the fast path and on the slow one."""
    alone = WHOLE.decode(as_json([GOOD, GOOD]), JSON).batch
    decoded = laws(WHOLE, as_json([GOOD, {**GOOD, **odd}, GOOD]), JSON)
    assert decoded is not None
    assert {(p.index, p.field) for p in decoded.problems} == {(1, field)}
    assert reason in decoded.problems[0].reason
    assert without(decoded.batch, {1}).equals(alone)


def test_a_missing_field_is_named() -> None:
    decoded = WHOLE.decode(as_json([{k: v for k, v in GOOD.items() if k != "rooms"}]), JSON)
    assert [(p.index, p.field, p.reason) for p in decoded.problems] == [(0, "rooms", "is missing; send null if it is unknown")]


def test_of_a_key_that_stands_twice_the_last_value_counts() -> None:
    body = as_json(GOOD)[:-1] + b', "rooms": 4}'
    assert WHOLE.decode(body, JSON).batch["rooms"].to_pylist() == [4]


# ---------------------------------------------------------------------------------------------------- good bodies


@CODECS
@given(rows=ROWS)
@settings(max_examples=80, deadline=None)
def test_the_same_rows_are_the_same_batch_in_all_media_types(codec: Codec, rows: list[dict[str, Any]]) -> None:
    """And it is what the rows say: nothing is changed, nothing is left out."""
    wanted = expected(rows)
    if codec is PARTIAL:
        wanted = wanted.set_column(wanted.num_columns - 1, SCHEMA.raw.field("price"), pa.nulls(len(rows), pa.float64()))
    for media in (JSON, NDJSON) if rows else (JSON,):
        decoded = codec.decode(written(of_target(rows, codec), media), media)
        assert decoded.problems == ()
        assert decoded.batch.equals(wanted)
    columns = wanted if codec is WHOLE else wanted.drop_columns(["price"])
    decoded = codec.decode(arrow_stream(columns), ARROW)
    assert decoded.problems == ()
    assert decoded.batch.equals(wanted)


WRITTEN_TIMES = st.sampled_from(
    [
        "2026-01-31",
        "2026-01-31 10:00",
        "2026-01-31T10:00:00.1234567Z",
        "2026-01-31T10:00:00.123456789+02:00",
        " 2026-01-31T10:00:00Z",
        "20260131T100000Z",
        "2026-W05-6",
        "2026-01-31T10:00:00,5Z",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-01:00",
        "2026-02-30T00:00:00Z",
        "2026-01-31T23:59:60Z",
        "",
        "soon",
    ]
)


@given(
    st.lists(NEARLY.filter(len).map(lambda rows: rows[0]) | st.builds(lambda at: {**GOOD, "at": at}, WRITTEN_TIMES), max_size=4)
)
@example([GOOD, {**GOOD, "at": "2026-01-31"}])
@example([{**GOOD, "kind": ""}, {**GOOD, "id": 0}, {**GOOD, "note.text-1": "\0"}, {**GOOD, "id": ""}])
@example([{**GOOD, "id": number} for number in (2**53, 2**53 + 1, 10**199, 10**200, 10**4000)])
@settings(deadline=None)
def test_what_is_accepted_at_once_is_valid_and_read_in_the_same_way_alone_and_together(values: list[Any]) -> None:
    bodies = [as_json(value) for value in values]
    pairs = [(record, body) for body in bodies if (record := WHOLE.accept(body, JSON)) is not None]
    decoded = [WHOLE.decode(body, JSON) for _, body in pairs]
    assert [one.problems for one in decoded] == [()] * len(decoded)
    if pairs:
        together = pa.Table.from_batches([one.batch for one in decoded]).combine_chunks().to_batches()[0]
        assert WHOLE.batch([record for record, _ in pairs]).equals(together)


@given(ROWS)
def test_what_is_valid_is_accepted_at_once(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert WHOLE.accept(written([row], JSON)[1:-1], "application/json; charset=utf-8") is not None


@CODECS
@given(rows=ROWS)
@settings(max_examples=50, deadline=None)
def test_the_slow_path_reads_good_rows_as_the_fast_one(codec: Codec, rows: list[dict[str, Any]]) -> None:
    """One bad record sends all of them over the slow path."""
    rows = of_target(rows, codec)
    fast = codec.decode(as_json(rows), JSON)
    slow = codec.decode(as_json([*rows, 0]), JSON)
    assert {p.index for p in slow.problems} == {len(rows)}
    assert slow.batch.slice(0, len(rows)).equals(fast.batch)


@given(rows=ROWS.filter(bool), left_out=st.sets(st.sampled_from([f.name for f in SCHEMA.fields if not f.required])))
@settings(max_examples=40, deadline=None)
def test_in_a_question_a_field_that_is_left_out_is_null(rows: list[dict[str, Any]], left_out: set[str]) -> None:
    rows = of_target(rows, PARTIAL)
    without_them = [{name: value for name, value in row.items() if name not in left_out} for row in rows]
    with_nulls = [{name: None if name in left_out else value for name, value in row.items()} for row in rows]
    assert PARTIAL.decode(as_json(without_them), JSON).batch.equals(PARTIAL.decode(as_json(with_nulls), JSON).batch)


@pytest.mark.parametrize("media", MEDIA_TYPES)
def test_a_question_with_the_target_is_refused(media: str) -> None:
    try:
        found = PARTIAL.decode(written([GOOD], media), media).problems
    except InputError as error:
        found = error.problems
    assert [(p.field, p.reason) for p in found] == [("price", "is not a field of the schema")]


@pytest.mark.parametrize("number", [0, 7, -3, 2**53 + 1, 10**30])
def test_a_whole_number_as_id_or_category_is_its_text(number: int) -> None:
    batch = WHOLE.decode(as_json({**GOOD, "id": number, "kind": number}), JSON).batch
    assert (batch["id"].to_pylist(), batch["kind"].to_pylist()) == ([str(number)], [str(number)])


@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_what_is_shown_can_be_sent_again(rows: list[dict[str, Any]]) -> None:
    """`encode_rows` and `decode` are inverse, so a record that was read from a log can be posted."""
    batch = expected(rows)
    assert WHOLE.decode(msgspec.json.encode(encode_rows(batch)), JSON).batch.equals(batch)


@pytest.mark.parametrize(("body", "lines", "values"), [(b"[1, {}]", False, [1, {}]), (b"1\n\n{}\n", True, [1, {}])])
def test_plain_values_are_one_per_record(body: bytes, lines: bool, values: list[Any]) -> None:
    assert plain_values(body, lines) == (values, False)


def test_the_published_schema_names_every_column_and_every_limit_of_what_is_sent() -> None:
    schema = json_schema(SCHEMA.raw, "raw", SCHEMA.fields)
    assert list(schema["properties"]) == SCHEMA.raw.names
    assert schema["properties"]["size m2"] == {"type": ["number", "null"], "minimum": -10, "maximum": 1e6}
    assert schema["properties"]["price"] == {"type": ["number", "null"], "minimum": -1e100, "maximum": 1e100}
    assert schema["properties"]["rooms"] == {"type": ["integer", "null"], "minimum": 0, "maximum": 2**53}
    assert schema["properties"]["kind"]["type"] == ["string", "integer"]
    assert schema["properties"]["id"]["maxLength"] == ID_LIMIT
    assert schema["required"] == [f.name for f in SCHEMA.fields]


def test_the_published_schema_of_a_log_promises_no_limit() -> None:
    """Rows of a log of ours, such as rejects, hold what came."""
    schema = json_schema(pa.schema([pa.field("record", pa.string()), pa.field("n", pa.int64())]), "rejected")
    assert schema["properties"] == {"record": {"type": ["string", "null"]}, "n": {"type": ["integer", "null"]}}
