"""The log over HTTP obeys the same laws: a real generator on a real socket, read and written through `HttpLog`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvicorn
from tests.tools import PATIENCE_S

from correnteza.config import Settings, load
from correnteza.errors import CursorError, LogError, LogUnavailableError
from correnteza.generator.service import build
from correnteza.listening import bind
from correnteza.log.base import Policy
from correnteza.log.http import HttpLog
from correnteza.log.sql import SqlStore
from correnteza.testing import LOG_LAWS, SCHEMA, Subject, rows


def settings_of(folder: Path) -> Settings:
    """A generator that only receives, with the laws' schema."""
    fields = {f.name: f.kind for f in SCHEMA.fields}
    return load(
        None,
        {
            "pipeline": {"data_dir": str(folder)},
            "generator": {"source": "none"},
            "schema": {"target": SCHEMA.target, "timestamp": SCHEMA.timestamp, "fields": fields},
        },
    )


@contextmanager
def generator(folder: Path) -> Iterator[Subject]:
    """A running generator, as the subject of a law."""
    store = SqlStore(folder / "generator.db")
    app, service = build(settings_of(folder), store)
    listening = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    service.start()
    thread.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield Subject(HttpLog(url, name="raw", schema=SCHEMA.raw), store.log("raw", SCHEMA.raw))
    finally:
        service.stopping = True
        server.should_exit = True
        thread.join(PATIENCE_S)
        service.stop()
        store.close()


@pytest.mark.parametrize("law", LOG_LAWS, ids=lambda law: law.__name__)
def test_log(law: Callable[[Callable[[], Subject]], None], tmp_path: Path) -> None:
    with ExitStack() as stack:
        law(lambda: stack.enter_context(generator(tmp_path)))


def test_a_reader_that_registers_is_waited_for(tmp_path: Path) -> None:
    """Reading over HTTP with a name keeps what comes behind the cursor, and `keep_rows` before it."""
    with generator(tmp_path) as subject:
        subject.log.append(rows(20))
        assert isinstance(subject.log, HttpLog)
        reader = HttpLog(subject.log.url, name="raw", schema=SCHEMA.raw, reader="slow", keep_rows=3)
        position = reader.read(None, 10).next
        reader.read(position, 1)
        assert subject.owned.trim(Policy(rows=1), 0.0).rows == 7
        assert subject.log.bounds().first == 8


def test_a_reader_may_read_further_than_it_has_passed(tmp_path: Path) -> None:
    """What it says that it still needs is kept, until it says that what it has read is passed."""
    with generator(tmp_path) as subject:
        subject.log.append(rows(20))
        assert isinstance(subject.log, HttpLog)
        reader = HttpLog(subject.log.url, name="raw", schema=SCHEMA.raw, reader="holding")
        reader.needs_behind("")
        held = reader.read(None, 4).next
        further = reader.read(held, 10).next
        assert subject.owned.trim(Policy(rows=1), 0.0).rows == 0
        reader.needs_behind(held)
        reader.read(further, 1)
        assert subject.owned.trim(Policy(rows=1), 0.0).rows == 4
        reader.needs_behind("nonsense")
        with pytest.raises(CursorError):
            reader.read(further, 1)
        reader.needs_behind(None)
        reader.read(further, 1)
        assert subject.owned.trim(Policy(rows=1), 0.0).rows == 10


def test_a_service_that_is_not_there_is_worth_a_retry() -> None:
    """A refused connection is LogUnavailableError with the address, not a traceback of the HTTP library."""
    with bind("127.0.0.1", 0) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(LogUnavailableError, match=address):
        HttpLog(address, name="raw", schema=SCHEMA.raw).read(None, 1)


def test_a_log_with_other_columns_is_refused(tmp_path: Path) -> None:
    """A reader that expects other columns gets an error with their names, and no rows."""
    with generator(tmp_path) as subject:
        subject.log.append(rows(1))
        assert isinstance(subject.log, HttpLog)
        with pytest.raises(LogError, match="raw_offset"):
            HttpLog(subject.log.url, name="raw", schema=SCHEMA.normalized).read(None, 1)
