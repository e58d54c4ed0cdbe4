"""JSON bodies of clients that write NaN for what is missing.

Invariant: NaN becomes null, a missing value; an infinity, or a number too large for a float, is refused.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeVar

import msgspec

from correnteza.errors import InputError

T = TypeVar("T")


def read(body: bytes, kind: type[T]) -> T:
    """A body as a value of a type.

    Args:
        body: JSON; the word NaN, which Python's writers use and RFC 8259 does not know, stands for null.
        kind: what it must be, for `msgspec`.

    Raises:
        InputError: it is something else (400).

    >>> read(b'[1, NaN]', list[float | None])
    [1.0, None]
    """
    if not body or body.isspace():
        raise InputError("the body is empty; send a JSON object", status=400)
    try:
        if b"NaN" in body:
            return _read_with_nan(body, kind)
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"the body is not as the protocol has it: {error}", status=400) from None
    except RecursionError:
        raise InputError("the body is not valid JSON: it is nested too deeply", status=400) from None
    except (msgspec.DecodeError, ValueError) as error:  # UnicodeDecodeError is a ValueError, and so are errors of `json`
        raise InputError(f"the body is not valid JSON: {error}", status=400) from None


def _read_with_nan(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)  # where only a text holds the word
    except (msgspec.ValidationError, msgspec.DecodeError):
        plain: Any = json.loads(body, parse_constant=_constant, parse_float=_finite)
        return msgspec.convert(plain, kind)


def _constant(name: str) -> None:
    if name != "NaN":
        _refuse(name)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        _refuse(text)
    return value


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not a finite number")
