"""Another service's log, over HTTP.

Delivery: `append` returns after the other service has committed. Each append carries an idempotency
key, so one that is tried again after a lost answer stores its rows once. `read` is as in the contract.
"""

from __future__ import annotations

import threading
import uuid
from http import HTTPStatus
from typing import Any

import pyarrow as pa
import requests

from correnteza.codec import ARROW, arrow_stream
from correnteza.errors import (
    CursorError,
    DamagedLogError,
    InputError,
    LogError,
    LogUnavailableError,
    OffsetRemovedError,
    Problem,
)
from correnteza.log.base import Appended, Bounds, Slice
from correnteza.records import as_batch, empty, with_offsets
from correnteza.tracing import Traces, outgoing

CONNECT_S = 2.0
ANSWER_S = 30.0
"""How long an answer may take beyond the time that the server was asked to wait."""
TRIES = 3
"""How often one append is sent before it is LogUnavailableError, always with the same key."""


def new_session() -> requests.Session:
    """A session that asks no proxy and no .netrc, as fits services of one's own network."""
    session = requests.Session()
    session.trust_env = False
    return session


class HttpLog:
    """A log of another service. Safe to use from several threads.

    Args:
        url: base address of the service, as in `http://127.0.0.1:8001`.
        name: name of the log.
        schema: the columns it is expected to have, without `offset`.
        path: where it is read, as in `records`.
        reader: name under which this reader registers, so that nothing it has not read is removed.
        keep_rows: rows before its position that it wants to be able to read again.
    """

    def __init__(
        self, url: str, *, name: str, schema: pa.Schema, path: str = "records", reader: str | None = None, keep_rows: int = 0
    ) -> None:
        self.name = name
        self.schema = schema
        self.url = url.rstrip("/")
        self._path = path
        self._expected = with_offsets(empty(schema), 1).schema
        self._registration: dict[str, str] = {} if reader is None else {"reader": reader, "keep_rows": str(keep_rows)}
        self._local = threading.local()

    def append(self, batch: pa.RecordBatch) -> Appended:
        """See `Log.append`; sends `POST` to the log's path.

        Raises:
            InputError: the service refuses the rows.
        """
        if not batch.schema.equals(self.schema):
            raise LogError(
                f"log {self.name}: a batch with columns {batch.schema.names} of other names or types than {self.schema.names}"
            )
        headers = {"Content-Type": ARROW, "Idempotency-Key": uuid.uuid4().hex, **outgoing()}
        body = arrow_stream(batch)
        for remaining in reversed(range(TRIES)):
            try:
                answer = self._call("POST", self._path, ANSWER_S, data=body, headers=headers).json()
                return Appended(answer["first_offset"], answer["last_offset"])
            except LogUnavailableError:
                if not remaining:
                    raise
        raise AssertionError("unreachable")

    def read(self, after: str | None, limit: int, wait_s: float = 0.0, back: int = 0) -> Slice:
        """See `Log.read`."""
        query = {"limit": str(limit), "wait_s": str(wait_s), "back": str(back), **self._registration}
        if after is not None:
            query["after"] = after
        answer = self._call("GET", self._path, wait_s + ANSWER_S, params=query, headers={"Accept": ARROW})
        try:
            table = pa.ipc.open_stream(answer.content).read_all()
            batch = as_batch(table, self._expected)
            return Slice(batch, answer.headers["Next-Cursor"], int(answer.headers["Lag-Rows"]), Traces.told(answer.headers))
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise LogError(
                f"{self.url}/{self._path} did not answer rows with the columns {self._expected.names}: {error!r}"
            ) from None

    def needs_behind(self, cursor: str | None) -> None:
        """Say that this reader still needs all rows behind a cursor, though it reads further; from the next read on.

        Args:
            cursor: of this log; empty is its beginning; None: what is read is passed, as usual.
        """
        registration = {key: value for key, value in self._registration.items() if key != "passed"}
        if registration and cursor is not None:
            registration["passed"] = cursor
        self._registration = registration

    def bounds(self) -> Bounds:
        """See `Log.bounds`; reads the service's `/status`."""
        logs = self._call("GET", "status", ANSWER_S).json()["logs"]
        ends = logs[self._path]
        return Bounds(ends["first_offset"], ends["next_offset"], ends["rows"])

    def _call(self, method: str, path: str, answer_s: float, **arguments: Any) -> requests.Response:
        session = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = new_session()
        url = f"{self.url}/{path}"
        try:
            answer = session.request(method, url, timeout=(CONNECT_S, answer_s), **arguments)
        except requests.RequestException as error:
            raise LogUnavailableError(f"{url} does not answer ({type(error).__name__}); is the service running?") from None
        if answer.status_code >= HTTPStatus.BAD_REQUEST:
            raise _error(url, answer)
        return answer


def _error(url: str, answer: requests.Response) -> Exception:
    """What a refusal means, from its problem+json body."""
    try:
        body = answer.json()
    except ValueError:
        body = {}
    detail = body.get("detail", answer.reason)
    if answer.status_code == HTTPStatus.GONE and "first_offset" in body:
        return OffsetRemovedError(detail, body["first_offset"])
    if "damaged_offset" in body:
        return DamagedLogError(detail, body["damaged_offset"])
    if answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
        return InputError(detail, [Problem(**problem) for problem in body.get("errors", ())])
    if answer.status_code == HTTPStatus.BAD_REQUEST:
        return CursorError(detail)
    if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return LogUnavailableError(f"{url} answers {answer.status_code}: {detail}")
    return LogError(f"{url} answers {answer.status_code}: {detail}")
