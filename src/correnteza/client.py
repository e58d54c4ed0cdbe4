"""The Python API over HTTP: what a program that uses the services calls.

    client = Client("http://127.0.0.1:8000")           # the address of `correnteza run`
    client.post_records([{"age": 41, "job": "nurse"}])
    client.predict({"age": 41, "job": "nurse"})["prediction"]
    for row in client.records("normalizer", limit=3):
        print(row["offset"], row["age"])

Invariants:
- Every request has a time-out; nothing here waits for ever, and nothing here tries again by itself.
- What is worth trying again is a LogUnavailableError, whose `retry_after_s` the caller should honour;
  what the caller must mend is an InputError with its problems.
- A record that was sent may have arrived although the answer was lost; `idempotency_key` makes the
  repetition safe.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import requests

from correnteza.calls import addresses, answer, cause, encode
from correnteza.codec import ARROW, JSON, arrow_stream
from correnteza.errors import ConfigError, InputError, LogUnavailableError, ServiceError
from correnteza.log.http import new_session
from correnteza.tracing import outgoing

__all__ = ["Client", "Page", "encode"]

CONNECT_S = 3.0
TIMEOUT_S = 30.0
PAGE_ROWS = 1000
"""Rows that `Client.records` asks for at once."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a log.

    Args:
        records: rows, oldest first, each with its `offset`.
        next: the cursor behind the last row; pass it as `after` to go on.
    """

    records: list[dict[str, Any]]
    next: str


class Client:
    """Calls the services. Safe to use from several threads: each has a session of its own.

    Args:
        address: the dashboard's address, from which the other ports follow (`http://127.0.0.1:8000`),
            or the address of each service by its name.
        timeout_s: longest wait for an answer, in seconds, beyond the `wait_s` of a call.
        session: makes the session of a thread; give one that adds headers, certificates or a proxy.

    Raises:
        ConfigError: an address is not `http://host:port` or `https://host:port`, or a service is not known.

    >>> Client("http://127.0.0.1:9000").url("trainer")
    'http://127.0.0.1:9003'
    >>> Client({"trainer": "http://10.0.0.7:80/"}).url("trainer")
    'http://10.0.0.7:80'
    """

    def __init__(
        self,
        address: str | Mapping[str, str] = "http://127.0.0.1:8000",
        *,
        timeout_s: float = TIMEOUT_S,
        session: Callable[[], requests.Session] = new_session,
    ) -> None:
        self._urls = addresses(address)
        self._timeout_s = timeout_s
        self._new_session = session
        self._mine = threading.local()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()

    def url(self, service: str) -> str:
        """The base address of a service, without a slash at its end.

        Raises:
            ConfigError: this client was given no address for it.
        """
        if service not in self._urls:
            raise ConfigError(f"service {service!r}: no address is known; known are {', '.join(self._urls)}")
        return self._urls[service]

    def close(self) -> None:
        """Close the connections of all threads; the client may be used again."""
        for session in list(self._sessions):
            session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What goes in

    def post_records(
        self,
        records: Mapping[str, Any] | Sequence[Mapping[str, Any]] | pa.RecordBatch,
        idempotency_key: str | None = None,
    ) -> Any:
        """Append records to the stream; it returns once they are committed.

        Args:
            records: one record, several, or a batch (sent as Arrow) with the schema's fields.
            idempotency_key: a text of your own; the same call with the same key stores nothing twice.

        Returns:
            `{"accepted": rows, "first_offset": a, "last_offset": b}`.

        Raises:
            InputError: a record is invalid; nothing was stored; `problems` lists index, field, reason.
            LogUnavailableError: try again, with the same key.
        """
        if isinstance(records, pa.RecordBatch):
            return self._post("generator", "/records", arrow_stream(records), ARROW, idempotency_key)
        return self._post("generator", "/records", encode(records), idempotency_key=idempotency_key)

    def post_outcomes(self, outcomes: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Any:
        """Tell the truth for records or predictions, whenever it is known.

        Args:
            outcomes: `{"id": ..., "target": ...}`, one or several; the target in its own unit.

        Raises:
            InputError: an outcome is invalid.
            LogUnavailableError: try again.
        """
        return self._post("generator", "/outcomes", encode(outcomes))

    # What comes out

    def predict(
        self,
        records: Mapping[str, Any] | Sequence[Mapping[str, Any]] | bytes,
        version: int | None = None,
        media: str = JSON,
    ) -> Any:
        """Predict the target of one record or of several.

        Args:
            records: raw fields, in their own units, or a body; fields that are left out are missing values.
            version: the model version that answers, without storing it; None is the one in service.
            media: media type of a body.

        Returns:
            `{"id", "prediction", "lower", "upper", "model_version"}`, for a list a list in its order.

        Raises:
            InputError: a record is invalid, and `problems` lists index, field, reason; or there is no such version.
            LogUnavailableError: no model yet, or the trainer is down.
        """
        path = "/predict" if version is None else f"/models/{int(version)}/predict"
        body, kind = (records, media) if isinstance(records, bytes) else (encode(records), JSON)
        return self._post("trainer", path, body, kind)

    def features(self, key: str | int | None = None, by: str | None = None, at: str | None = None) -> dict[str, Any]:
        """The derived features of a key as of now, by name.

        Args:
            key: of the memory; None for features without a key.
            by: the field that the key is of, where there are keys of several fields.
            at: event time in ISO 8601; None is now.

        Raises:
            InputError: no feature is derived, or there is no such key.
            LogUnavailableError: there is no memory yet, or the trainer is down.
        """
        path = "/features" if key is None else f"/features/{quote(str(key), safe='')}"
        query = {name: value for name, value in (("by", by), ("at", at)) if value is not None}
        return dict(self._call("GET", "trainer", path, params=query))

    def page(
        self,
        service: str,
        after: str | None = None,
        limit: int = PAGE_ROWS,
        wait_s: float = 0.0,
        log: str = "records",
        back: int = 0,
    ) -> Page:
        """One answer of a service's log.

        Args:
            service: `generator`, `normalizer`, `trainer` or `consumer`.
            after: `Page.next` of an earlier answer; None for the first row there; `latest` for what is new.
            limit: most rows, at least 1.
            wait_s: how long the service waits for a first row, in seconds.
            log: `records` for its main log, or the name of another: `rejected`, `outcomes`, `events`.
            back: start so many rows before the cursor; with `after="latest"` these are the last rows of the log.

        Raises:
            OffsetRemovedError: retention has removed the row behind the cursor; carries the first one there.
            InputError: the cursor is not one of this log; there is no such log.
            LogUnavailableError: try again.
        """
        query: dict[str, str | float] = {"limit": limit, "wait_s": wait_s, "back": back}
        if after is not None:
            query["after"] = after
        answer = self._call("GET", service, f"/{quote(log)}", wait_s=wait_s, params=query)
        try:
            return Page(answer["records"], answer["next"])
        except (TypeError, KeyError):
            raise ServiceError(f"{self.url(service)}/{log}: the answer is not a page of a log; is it the {service}?") from None

    def records(
        self, service: str, after: str | None = None, limit: int | None = None, wait_s: float = 0.0, log: str = "records"
    ) -> Iterator[dict[str, Any]]:
        """The rows of a service's log, oldest first, until its end.

        Args:
            service: as for `page`.
            after: as for `page`.
            limit: most rows in all; None for no limit.
            wait_s: at the end of the log, how long to wait for a further row, in seconds.
            log: as for `page`.

        Raises:
            OffsetRemovedError, InputError, LogUnavailableError: as for `page`.
        """
        left = limit
        while left is None or left > 0:
            page = self.page(service, after, PAGE_ROWS if left is None else min(left, PAGE_ROWS), wait_s, log)
            yield from page.records
            if not page.records:
                return
            after = page.next
            left = None if left is None else left - len(page.records)

    def table(self, service: str, rows: int, log: str = "records") -> pa.Table:
        """The last rows of a log with their types, oldest first.

        Args:
            service: as for `page`.
            rows: how many, at most 100,000.
            log: as for `page`.
        """
        query = {"after": "latest", "back": rows, "limit": rows}
        body = self._call("GET", service, f"/{quote(log)}", params=query, headers={"Accept": ARROW})
        return pa.ipc.open_stream(body).read_all()

    def status(self, service: str) -> dict[str, Any]:
        """What a service says of itself: uptime, its logs, its lag, what is particular to it."""
        return self._object("GET", service, "/status")

    def rate(self, service: str) -> float:
        """Records per second of the `generator`'s source, or requests per second of the `consumer`; inf is without a bound."""
        (value,) = self._object("GET", service, "/rate").values()
        return float(value)

    def set_rate(self, service: str, per_second: float) -> float:
        """Change a rate, at once and until the service ends; 0 pauses, inf is without a bound.

        Raises:
            InputError: the rate is negative.
        """
        unit = "records_per_second" if service == "generator" else "requests_per_second"
        wanted = "inf" if math.isinf(per_second) and per_second > 0 else per_second
        (value,) = self._object("PUT", service, "/rate", json={unit: wanted}).values()
        return float(value)

    def set_drift(self, factor: float) -> float:
        """Multiply the target of the demo's people from the next record on; 1 is the world as it was.

        Raises:
            InputError: the factor is not between 0.1 and 10, or the source is not the demo's.
        """
        return float(self._object("PUT", "generator", "/drift", json={"factor": factor})["factor"])

    def curve(self, block_rows: int = 100, blocks: int = 500, after: int = 0) -> list[dict[str, Any]]:
        """The errors over time, as the trainer's `GET /evaluation/history` has them.

        Args:
            block_rows: rows of a block.
            blocks: how many, at most, the last ones.
            after: only blocks that go on behind this offset of the log `evaluations`.
        """
        query = {"block_rows": block_rows, "blocks": blocks, "after": after}
        return list(self._object("GET", "trainer", "/evaluation/history", params=query)["blocks"])

    def evaluation(self) -> dict[str, Any]:
        """The trainer's errors, rolling and since the stream began (`total`), coverage and drift state, per model version."""
        return self._object("GET", "trainer", "/evaluation")

    # The registry

    def models(self) -> Any:
        """The model versions, as the trainer lists them."""
        return self._call("GET", "trainer", "/models")

    def model(self, version: int) -> dict[str, Any]:
        """All that is known of one model version.

        Raises:
            InputError: there is no such version.
        """
        return self._object("GET", "trainer", f"/models/{int(version)}")

    def history(self, last: int = 100) -> list[str]:
        """What became of the last versions, in sentences, oldest first."""
        return list(self._call("GET", "trainer", "/models/history", params={"last": last}))

    def promote(self, version: int) -> dict[str, Any]:
        """Put a version into service and keep it there.

        Raises:
            InputError: there is no such version.
        """
        return self._object("POST", "trainer", f"/models/{int(version)}/promote")

    def unpin(self) -> dict[str, Any]:
        """Let the newest good version into service again, after a `promote`."""
        return self._object("POST", "trainer", "/models/unpin")

    # How it is done

    def _post(self, service: str, path: str, body: bytes, media: str = JSON, idempotency_key: str | None = None) -> Any:
        headers = {"Content-Type": media}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return self._call("POST", service, path, data=body, headers=headers)

    def _object(self, method: str, service: str, path: str, **more: Any) -> dict[str, Any]:
        answer = self._call(method, service, path, **more)
        if not isinstance(answer, dict):
            raise ServiceError(f"{self.url(service)}{path}: the answer is not a JSON object; is it the {service}?")
        return answer

    def _call(self, method: str, service: str, path: str, wait_s: float = 0.0, **more: Any) -> Any:
        url = self.url(service) + path
        more["headers"] = {**more.get("headers", {}), **outgoing()}
        try:
            response = self._session().request(
                method, url, timeout=(CONNECT_S, self._timeout_s + wait_s), allow_redirects=False, **more
            )
        except requests.Timeout as error:
            raise LogUnavailableError(f"{url}: no answer within {self._timeout_s + wait_s:g} s") from error
        except requests.ConnectionError as error:
            raise LogUnavailableError(f"{url}: no connection ({cause(error)}); is the {service} running?") from error
        except ValueError as error:  # as a line break in the idempotency key
            raise InputError(f"{url}: not to be sent: {error}", status=400) from None
        except requests.RequestException as error:
            raise LogUnavailableError(f"{url}: the answer broke off ({cause(error)})") from error
        return answer(response, url, service)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._mine, "session", None)
        if session is None:
            session = self._mine.session = self._new_session()
            self._sessions.add(session)
        return session
