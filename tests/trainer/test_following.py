"""Laws of the memory that a server follows: it is the normalizer's, it says how old it is, and nothing is silent."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.codec import ARROW, JSON, NDJSON, arrow_stream
from correnteza.errors import NoModelError
from correnteza.features import Scaler
from correnteza.records import with_offsets
from correnteza.trainer.answers import Answered, rows_of
from correnteza.trainer.asked import normalized
from correnteza.trainer.questions import Question, Reader

from .remembering import FIELDS, LIMITS, NOW_US, Followed, Remembering, settings_in

START = datetime(2026, 1, 1, tzinfo=UTC)
RAW_NUMBERS = 2  # line and x stand before the derived columns

records = st.fixed_dictionaries(
    {
        "at": st.one_of(st.none(), st.integers(-90_000, 200_000).map(lambda s: START + timedelta(seconds=s))),
        "shop": st.sampled_from(["a", "b", "7", None]),
        "line": st.sampled_from([None, 0, 1, 2]),
        "x": st.sampled_from([None, 0.0, 0.1, -2.5, 1e9]),
    }
)
labelled = st.builds(lambda record, y: {**record, "y": y}, records, st.sampled_from([None, 1.5, -0.1, 3.0]))


def bodies(rows: list[dict[str, Any]], raw: pa.Schema) -> list[tuple[bytes, str]]:
    """The same records in every form that is read."""
    plain = [{**row, "at": None if row["at"] is None else row["at"].isoformat()} for row in rows]
    plain = [{name: row[name] for name in FIELDS} for row in plain]
    columns = {"columns": list(plain[0]), "rows": [list(row.values()) for row in plain]}
    fields = pa.schema([f for f in raw if f.name not in ("id", "y")])
    return [
        (json.dumps(plain).encode(), JSON),
        (json.dumps(columns).encode(), JSON),
        ("\n".join(json.dumps(row) for row in plain).encode(), NDJSON),
        (arrow_stream(pa.RecordBatch.from_pylist(rows, schema=fields)), ARROW),
    ]


def bits(matrix: np.ndarray) -> list[list[str]]:
    return [[float(value).hex() for value in row] for row in matrix]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(labelled, max_size=12), min_size=1, max_size=6), st.lists(records, min_size=1, max_size=4), st.data())
def test_a_question_in_any_form_sees_the_normalizers_memory(
    tmp_path: Path, batches: list[list[dict[str, Any]]], asked: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Whenever the follower looked in between; alone or together with others; a record without a time is asked about now."""
    stream = Remembering(settings_in(tmp_path))
    follower = Followed(stream)
    for batch in batches:
        if batch:
            stream.add([{"id": None, **row} for row in batch])
        if data.draw(st.booleans()):
            assert follower.memory.tick()
            if data.draw(st.booleans()):
                stream.forget()
    while not follower.memory.tick() or follower.memory.age().rows_behind:  # type: ignore[union-attr]
        pass
    raw = stream.settings.schema_of_records.raw
    now = datetime.fromtimestamp(NOW_US / 1e6, UTC)
    rows = [{**row, "at": row["at"] or now} for row in asked]
    expected = stream.kept.recall().vector(pa.RecordBatch.from_pylist(rows, schema=raw))
    matrix = bits(np.column_stack([expected[name] for name in follower.deriving.names]))
    reader = Reader(stream.settings.schema_of_records)
    for body, kind in bodies(asked, raw):
        found = follower.deriving.complete(reader.read(body, kind))
        assert bits(found.numbers[:, RAW_NUMBERS:]) == matrix
    for row, wanted in zip(asked, matrix, strict=True):
        body, kind = bodies([row], raw)[0]
        assert bits(follower.deriving.complete(reader.read(body[1:-1], kind)).numbers[:, RAW_NUMBERS:]) == [wanted]


def shop(name: str, y: float | None = None, **more: Any) -> dict[str, Any]:
    return {"id": None, "at": START, "shop": name, "line": 1, "x": 1.0, "y": y, **more}


def ask(follower: Followed, body: bytes) -> Question:
    return follower.deriving.complete(Reader(follower.of.settings.schema_of_records).read(body, JSON))


def values(follower: Followed, body: bytes) -> list[dict[str, float]]:
    names = follower.deriving.names
    return [dict(zip(names, row, strict=True)) for row in ask(follower, body).numbers[:, RAW_NUMBERS:].tolist()]


def test_records_of_one_question_do_not_see_each_other_and_leave_nothing(tmp_path: Path) -> None:
    stream = Remembering(settings_in(tmp_path))
    stream.add([shop("a", 5.0)])
    follower = Followed(stream)
    follower.memory.tick()
    found = values(follower, b'[{"shop": "a"}, {"shop": "a"}, {"shop": "b"}]')
    assert [(row["last"], row["seen"]) for row in found[:2]] == [(5.0, 1.0)] * 2
    assert np.isnan(found[2]["last"])
    assert found[2]["seen"] == 0.0
    assert values(follower, b'{"shop": "a"}')[0]["seen"] == 1.0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"shop": "never seen", "line": 77}', {"seen": 0.0, "last": np.nan, "hour_sum": np.nan}),
        (b'{"shop": null}', {"seen": np.nan, "last": np.nan}),
        (b'{"shop": ""}', {"seen": np.nan, "last": np.nan}),
        (b'{"shop": 7, "line": 1}', {"seen": 1.0, "last": 2.0}),
        (b'{"shop": "a", "at": "9999-12-31T23:59:59Z"}', {"last": 5.0, "hour_sum": np.nan, "day_ago": 2.0, "hour": 23.0}),
        (b'{"shop": "a", "at": "0001-01-01T00:00:00Z"}', {"last": 5.0, "hour_sum": np.nan, "day_ago": np.nan, "since": np.nan}),
        (b'{"shop": "a", "at": "2026-01-01T00:30:00", "line": 1}', {"since": 1800.0, "hour_sum": 2.0, "hour": 0.0}),
    ],
)
def test_odd_keys_and_times_have_a_meaning(tmp_path: Path, body: bytes, expected: dict[str, float]) -> None:
    """A whole number is the text of a category; times years off have empty windows; a time without a zone is in UTC."""
    stream = Remembering(settings_in(tmp_path))
    stream.add([shop("a", 5.0), shop("7", 2.0)])
    follower = Followed(stream)
    follower.memory.tick()
    found = values(follower, body)[0]
    np.testing.assert_array_equal([found[name] for name in expected], list(expected.values()))


def test_before_there_is_a_memory_nothing_is_answered(tmp_path: Path) -> None:
    stream = Remembering(settings_in(tmp_path), down=True)
    follower = Followed(stream)
    assert not follower.memory.tick()
    assert "does not answer" in (follower.memory.not_ready() or "")
    with pytest.raises(NoModelError, match=r"no memory of the stream yet.*does not answer"):
        ask(follower, b"{}")
    stream.down = False
    assert follower.memory.tick()
    assert follower.memory.not_ready() is None


def test_a_memory_that_cannot_be_followed_answers_on_and_grows_old(tmp_path: Path) -> None:
    stream = Remembering(settings_in(tmp_path))
    stream.add([shop("a", 5.0)])
    follower = Followed(stream)
    follower.memory.tick()
    stream.add([shop("a", 6.0)])
    stream.down = True
    for _ in range(3):
        follower.now_us += 10_000_000
        assert not follower.memory.tick()
    assert values(follower, b'{"shop": "a"}')[0]["last"] == 5.0
    age = follower.memory.age()
    assert age is not None
    told = age.plain(follower.now_us / 1e6)
    assert (told["offset"], told["behind_s"]) == (1, 30.0)
    assert "does not answer" in told["reason"]
    assert follower.kinds() == ["memory_not_followed"]
    stream.down = False
    assert follower.memory.tick()
    assert values(follower, b'{"shop": "a"}')[0]["last"] == 6.0
    assert follower.memory.age().plain(follower.now_us / 1e6) == {  # type: ignore[union-attr]
        "offset": 2, "rows_behind": 0, "behind_s": 0.0, "reason": "",
    }  # fmt: skip
    assert follower.kinds() == ["memory_not_followed", "memory_followed"]


def test_rows_that_were_removed_unread_are_had_from_the_snapshot(tmp_path: Path) -> None:
    stream = Remembering(settings_in(tmp_path))
    follower = Followed(stream)
    stream.add([shop("a", 1.0)])
    follower.memory.tick()
    for i in range(3 * LIMITS.snapshot_rows):
        stream.add([shop("a" if i % 2 else "b", float(i))])
    stream.forget()
    assert stream.kept.entries.bounds().first > 2
    assert not follower.memory.tick()
    assert values(follower, b'{"shop": "a"}')[0]["last"] == 1.0, "until the new one is there, the old one answers"
    assert follower.memory.tick()
    assert values(follower, b'{"shop": "a"}')[0]["last"] == 47.0
    assert follower.kinds() == ["memory_not_followed", "memory_followed"]


@pytest.mark.parametrize("kind", [JSON, ARROW])
def test_an_example_has_the_features_that_were_predicted_on(tmp_path: Path, kind: str) -> None:
    """However the memory goes on after the answer: what is stored holds them, to the last bit."""
    stream = Remembering(settings_in(tmp_path))
    stream.add([shop("a", 0.1), shop("a", 1 / 3)])
    follower = Followed(stream)
    follower.memory.tick()
    asked = {"at": START, "shop": "a", "line": 3, "x": 0.7}
    forms = {media: body for body, media in bodies([asked], stream.settings.schema_of_records.raw)[1:]}
    body = forms[ARROW] if kind == ARROW else b'{"at": "2026-01-01T00:00:00Z", "shop": "a", "line": 3, "x": 0.7}'
    question = follower.deriving.complete(Reader(stream.settings.schema_of_records).read(body, kind))
    stream.add([shop("a", 99.0)])
    follower.memory.tick()
    answered = Answered(["p"], 1, np.zeros(1), None, question.records, NOW_US, derived=question.derived)
    rows = with_offsets(rows_of([answered]), 1)
    numbers = len(stream.schema.numeric)
    found = normalized(rows, stream.schema, Scaler(1, np.zeros(numbers), np.ones(numbers)), {"shop": ["a"]}, 1)
    learned = [[found[name][0].as_py() for name in stream.schema.numeric]]
    assert bits(np.array(learned, np.float64)) == bits(question.numbers)


def test_without_features_a_question_is_left_as_it_is(tmp_path: Path) -> None:
    follower = Followed(Remembering(settings_in(tmp_path, ())))
    question = Reader(follower.of.settings.schema_of_records).read(b'{"x": 1.0}', None)
    assert follower.deriving.complete(question) is question
    assert follower.memory.age() is None


def test_parts_of_a_time_need_no_memory(tmp_path: Path) -> None:
    """They are of the event time, or of now."""
    stream = Remembering(settings_in(tmp_path, [{"name": "hour", "of": "at", "how": "hour"}]), down=True)
    follower = Followed(stream)
    now = datetime.fromtimestamp(NOW_US / 1e6, UTC)
    assert [row["hour"] for row in values(follower, b'[{}, {"at": "2026-01-01T05:00:00Z"}]')] == [now.hour, 5.0]
