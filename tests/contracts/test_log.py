"""Every adapter of the log obeys every law of the contract."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.errors import DamagedLogError, LogError
from correnteza.log.base import Policy, Store
from correnteza.log.memory import MemoryStore
from correnteza.log.sql import SqlStore
from correnteza.records import OFFSET, Field, Schema
from correnteza.testing import LOG_LAWS, SCHEMA, STORE_LAWS, Subject, read_all, rows

Make = Callable[[], Subject]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    """Makes stores by kind, each with a file of its own, and closes them at the end."""
    made: list[Store] = []

    def make(kind: str) -> Store:
        made.append(MemoryStore() if kind == "memory" else SqlStore(tmp_path / f"{len(made)}.db"))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.mark.parametrize("law", LOG_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_log(law: Callable[[Make], None], kind: str, stores: Callable[[str], Store]) -> None:
    def make() -> Subject:
        log = stores(kind).log("raw", SCHEMA.raw)
        return Subject(log, log)

    law(make)


@pytest.mark.parametrize("law", STORE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_store(law: Callable[[Callable[[], Store]], None], kind: str, stores: Callable[[str], Store]) -> None:
    law(lambda: stores(kind))


def test_rows_survive_a_reopened_file(tmp_path: Path) -> None:
    """What was appended is there, and offsets go on, after the file was closed and opened again."""
    first = SqlStore(tmp_path / "a.db")
    first.log("raw", SCHEMA.raw).append(rows(5))
    cursor = first.log("raw", SCHEMA.raw).read(None, 3).next
    first.close()
    second = SqlStore(tmp_path / "a.db")
    log = second.log("raw", SCHEMA.raw)
    assert [row[OFFSET] for row in read_all(log, after=cursor)] == [4, 5]
    assert log.append(rows(1)).first == 6
    second.close()


def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    """Two stores on one file see each other's rows and never give an offset twice."""
    first, second = SqlStore(tmp_path / "a.db"), SqlStore(tmp_path / "a.db")
    a, b = first.log("raw", SCHEMA.raw), second.log("raw", SCHEMA.raw)
    assert [a.append(rows(2)).first, b.append(rows(2)).first, a.append(rows(1)).first] == [1, 3, 5]
    assert len(read_all(b)) == 5
    first.close()
    second.close()


def test_a_lost_row_is_named_and_not_skipped(tmp_path: Path) -> None:
    """Damaged data stops the reader with the offset."""
    store = SqlStore(tmp_path / "a.db")
    log = store.log("raw", SCHEMA.raw)
    log.append(rows(10))
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute(f"delete from raw where {OFFSET} = 4")
    with pytest.raises(DamagedLogError, match="offset 4") as caught:
        log.read(None, 10)
    assert caught.value.offset == 4
    store.close()


def test_a_value_of_another_type_is_damage(tmp_path: Path) -> None:
    """A text where a number was written is damage, named with the offset of the slice."""
    store = SqlStore(tmp_path / "a.db")
    log = store.log("raw", SCHEMA.raw)
    log.append(rows(10))
    with sqlite3.connect(tmp_path / "a.db") as raw:
        raw.execute(f"update raw set x = 'seven' where {OFFSET} = 7")
    with pytest.raises(DamagedLogError, match="offset"):
        log.read(None, 10)
    store.close()


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Opening a file that is not SQLite says so with its path."""
    (tmp_path / "a.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(LogError, match=r"a\.db"):
        SqlStore(tmp_path / "a.db")


def test_retention_gives_space_back(tmp_path: Path) -> None:
    """After a trim the file is smaller, not only emptier."""
    store = SqlStore(tmp_path / "a.db")
    log = store.log("raw", SCHEMA.raw)
    for start in range(0, 30_000, 10_000):
        log.append(rows(10_000, start))
    pages, _ = store.connections.pages()
    log.trim(Policy(rows=100), 0.0)
    assert store.connections.pages()[0] < pages / 10
    store.close()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(min_size=1, max_size=30),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
            st.none() | st.integers(-(2**53), 2**53),
        ),
        max_size=40,
    )
)
def test_any_value_comes_back(
    stores: Callable[[str], Store], values: list[tuple[str | None, float | None, int | None]]
) -> None:
    """Texts of any characters and numbers of any size are read as they were written."""
    schema = Schema((Field("t", "text"), Field("x", "float"), Field("n", "integer")), target="y")
    columns = list(zip(*values, strict=True)) if values else [(), (), ()]
    batch = pa.RecordBatch.from_pydict(
        {
            "id": [str(i) for i in range(len(values))],
            "t": columns[0],
            "x": columns[1],
            "n": columns[2],
            "y": [None] * len(values),
        },
        schema=schema.raw,
    )
    log = stores("sqlite").log("raw", schema.raw)
    log.append(batch)
    assert log.read(None, 100).batch.drop_columns([OFFSET]).equals(batch)
