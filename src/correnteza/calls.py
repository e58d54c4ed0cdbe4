"""How the client's requests are written, and how answers are read.

Invariant: every answer that is not a good one becomes an error of `correnteza.errors` which names the address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any
from urllib.parse import urlsplit

import requests

from correnteza.codec import ARROW
from correnteza.config import SERVICES
from correnteza.errors import ConfigError, InputError, LogUnavailableError, OffsetRemovedError, Problem, ServiceError

TRY_LATER = frozenset({429, 502, 503, 504})


def encode(records: object) -> bytes:
    """Records as JSON; dates and times as ISO 8601.

    Raises:
        InputError: a value has no place in JSON, as NaN and the infinities.

    >>> encode({"age": 41, "since": date(2024, 2, 29)})
    b'{"age": 41, "since": "2024-02-29"}'
    """
    try:
        return json.dumps(records, allow_nan=False, default=_plain).encode()
    except (ValueError, TypeError) as error:
        raise InputError(f"not to be written as JSON: {error}; leave missing values out") from None


def _plain(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if hasattr(value, "item"):  # a NumPy scalar
        return value.item()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def addresses(address: str | Mapping[str, str]) -> dict[str, str]:
    """The address of each service, from that of the dashboard or from one for each.

    Raises:
        ConfigError: one is none, or the service is not known.
    """
    if not isinstance(address, str):
        unknown = [name for name in address if name not in SERVICES]
        if unknown:
            raise ConfigError(f"service {unknown[0]!r} is not known; expected one of {', '.join(SERVICES)}")
        return {name: _checked(url).geturl().rstrip("/") for name, url in address.items()}
    base = _checked(address)
    host = f"[{base.hostname}]" if ":" in str(base.hostname) else base.hostname
    return {name: f"{base.scheme}://{host}:{(base.port or 80) + place}" for place, name in enumerate(SERVICES)}


def _checked(address: str) -> Any:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"address {address!r}: expected http://host:port")
    return parts


def answer(response: requests.Response, url: str, service: str) -> Any:
    """The JSON of a good answer, or its bytes where Arrow was asked for; the error of a bad one."""
    if response.ok and response.headers.get("Content-Type") == ARROW:
        return response.content
    try:
        body = response.json()
    except requests.JSONDecodeError:
        body = None
    status = response.status_code
    if 200 <= status < 300 and body is not None:
        return body
    reason = _reason(body) or response.reason or "no reason given"
    if status in TRY_LATER:
        raise LogUnavailableError(f"{url}: {reason} ({status})", _retry_after_s(response))
    if status == 410 and isinstance(body, dict) and isinstance(body.get("first_offset"), int):
        raise OffsetRemovedError(f"{url}: {reason}", body["first_offset"])
    if 400 <= status < 500:
        raise InputError(f"{url}: {reason} ({status})", _problems(body), status)
    raise ServiceError(f"{url}: answered {status} ({reason}); expected JSON of the {service}, look at its log output")


def _reason(body: Any) -> str:
    if not isinstance(body, dict):
        return ""
    return str(body.get("detail") or body.get("title") or "")


def _problems(body: Any) -> list[Problem]:
    listed = body.get("errors") if isinstance(body, dict) else None
    return [
        Problem(entry["index"], str(entry.get("field", "")), str(entry.get("reason", "")))
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("index"), int)
    ]


def _retry_after_s(response: requests.Response) -> float | None:
    """Seconds from the header Retry-After; its other form, a date, is of no use without the other side's clock."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def cause(error: BaseException) -> str:
    """The innermost cause, which is the one that a person can use."""
    inner: Any = error
    while True:
        below = getattr(inner, "reason", None) or inner.__cause__ or inner.__context__
        if not isinstance(below, BaseException):
            return str(inner) or type(inner).__name__
        inner = below
