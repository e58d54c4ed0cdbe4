"""What `POST /predict` answers with: predictions as JSON, NDJSON or an Arrow stream.

Invariant: the same numbers stand in all of them, to the last bit.
"""

from __future__ import annotations

from itertools import repeat

import msgspec
import numpy as np
import pyarrow as pa

from correnteza.codec import ARROW, JSON, NDJSON, arrow_stream
from correnteza.features import Floats
from correnteza.trainer.answers import Answered

_AT_ONCE = 500
"""Answers that one call into C encodes, so that other threads get their turn within a fraction of a millisecond."""
_ENCODER = msgspec.json.Encoder()


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer for one record; see `EXAMPLE`."""

    id: str
    prediction: float
    lower: float | None
    upper: float | None
    model_version: int


EXAMPLE = {"id": "9f2c61d0a7be-1", "prediction": 4213.7, "lower": 3402.1, "upper": 5025.3, "model_version": 3}


def media_for(accept: bytes) -> str:
    """The media type of an answer, for the header `Accept`.

    >>> media_for(b"application/vnd.apache.arrow.stream"), media_for(b"*/*")
    ('application/vnd.apache.arrow.stream', 'application/json')
    """
    return next((media for media in (ARROW, NDJSON) if media.encode() in accept), JSON)


def encode(answered: Answered, media: str, single: bool) -> bytes:
    """The body of an answer.

    Args:
        answered: what was predicted.
        media: the body's media type.
        single: whether one object was asked for rather than a list; only JSON knows the difference.
    """
    if media == ARROW:
        return arrow_stream(_columns(answered))
    if media == JSON and single:
        return _ENCODER.encode(_one(answered))
    answers = _answers(answered)
    parts = [answers[i : i + _AT_ONCE] for i in range(0, len(answers), _AT_ONCE)]
    lines = b"".join(map(_ENCODER.encode_lines, parts))
    return lines if media == NDJSON else b"[" + lines[:-1].replace(b"\n", b",") + b"]"  # no line has a break inside


def encode_each(answered: Answered) -> list[bytes]:
    """The answers, each as the body of the JSON answer to a single record."""
    return list(map(_ENCODER.encode, _answers(answered)))


def _one(answered: Answered) -> Answer:
    prediction, low, high = float(answered.predictions[0]), None, None
    if answered.halves is not None:
        half = float(answered.halves[0])
        low, high = prediction - half, prediction + half
    return Answer(answered.ids[0], prediction, low, high, answered.version)


def _answers(answered: Answered) -> list[Answer]:
    low, high = _interval(answered)
    bounds = (repeat(None), repeat(None)) if low is None or high is None else (low.tolist(), high.tolist())
    return list(map(Answer, answered.ids, answered.predictions.tolist(), *bounds, repeat(answered.version)))


def _interval(answered: Answered) -> tuple[Floats, Floats] | tuple[None, None]:
    half = answered.halves
    return (None, None) if half is None else (answered.predictions - half, answered.predictions + half)


def _columns(answered: Answered) -> pa.RecordBatch:
    rows, (low, high) = len(answered.ids), _interval(answered)
    unknown = pa.nulls(rows, pa.float64())
    columns = {
        "id": pa.array(answered.ids, pa.string()),
        "prediction": pa.array(answered.predictions),
        "lower": unknown if low is None else pa.array(low),
        "upper": unknown if high is None else pa.array(high),
        "model_version": pa.array(np.full(rows, answered.version)),
    }
    return pa.RecordBatch.from_pydict(columns)
