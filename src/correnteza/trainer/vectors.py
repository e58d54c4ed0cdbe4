"""`GET /features` and `GET /features/{key}`: the derived features as of now, as a prediction would see them.

Invariant: what is shown comes from the memory that answers predictions, by the same code.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import pyarrow as pa
from fastapi import APIRouter, Path, Query
from starlette.exceptions import HTTPException
from starlette.responses import Response

from correnteza.codec import ECHO, JSON
from correnteza.records import INTEGER_LIMIT, TEXT_LIMIT, Schema
from correnteza.times import parse_times
from correnteza.trainer.deriving import Deriving
from correnteza.trainer.following import Following

PATH = "/features"
DESCRIPTION = """Of a record that has no more than this key and an event time: what features by another key, or of
further fields, would be is missing. A key never seen has an empty memory."""
_VALUE = {"type": ["number", "null"]}
VECTOR = {
    "type": "object",
    "properties": {
        "key": {"type": ["string", "integer", "null"]},
        "by": {"type": ["string", "null"]},
        "known": {"type": "boolean"},
        "features": {"type": "object", "additionalProperties": _VALUE},
        "offset": {"type": "integer"},
        "rows_behind": {"type": "integer"},
        "behind_s": _VALUE,
    },
    "required": ["key", "by", "known", "features", "offset", "rows_behind", "behind_s"],
}
"""JSON Schema of the answer."""

Key = Annotated[str, Path(max_length=TEXT_LIMIT, description="A value of the field `by`.")]
By = Annotated[str | None, Query(description="The field that the key is of, where features have keys of several fields.")]
At = Annotated[str | None, Query(description="Event time in ISO 8601; absent: now.", examples=["2026-01-31T12:00:00Z"])]


@dataclass(frozen=True, slots=True)
class Vectors:
    """Answers for keys.

    Args:
        schema: with the definitions.
        memory: what the features are made from.
        deriving: makes them.
    """

    schema: Schema
    memory: Following
    deriving: Deriving

    def vector(self, text: str | None, by: str | None, at: str | None) -> dict[str, Any]:
        """The body of an answer.

        Args:
            text: the key as it stands in the address; None where none was given.
            by: the field that it is of, if it was named.
            at: event time, if it was given.

        Raises:
            HTTPException: 404, there are no derived features, or none with such a key; 400, key or time are none.
            NoModelError: there is no memory yet.
        """
        if not self.schema.derived:
            raise HTTPException(HTTPStatus.NOT_FOUND, "no [[features]] are declared; records are predicted on as they are")
        field = None if text is None else self._field(by)
        key = None if text is None or field is None else self._key(text, field)
        features = self.deriving.of_key(field, key, None if at is None else self._time_us(at))
        age = self.memory.age()
        told = {"offset": 0, "rows_behind": 0, "behind_s": None} if age is None else age.plain(time.time())
        told.pop("reason", None)
        known = self.memory.knows(field, "" if key is None else key)
        return {"key": key, "by": field, "known": known, "features": features, **told}

    def _field(self, by: str | None) -> str:
        fields = list(dict.fromkeys(one.by for one in self.schema.derived if one.by is not None))
        if not fields:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"no feature has a key (`by`); GET {PATH} has the features")
        if by is None and len(fields) > 1:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST, f"there are keys of {', '.join(fields)}; say which with ?by={fields[0]}"
            )
        if by is not None and by not in fields:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST, f"by = {by[:ECHO]!r}: no feature has it; expected one of {', '.join(fields)}"
            )
        return by or fields[0]

    def _key(self, text: str, by: str) -> str | int:
        if not text:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"the key is empty; name a value of {by}, or GET {PATH}")
        if self.schema.kind_of(by) != "integer":
            return text
        try:
            number = int(text)
        except ValueError:
            number = INTEGER_LIMIT + 1
        if abs(number) > INTEGER_LIMIT:
            raise HTTPException(
                HTTPStatus.BAD_REQUEST, f"key {text[:ECHO]!r}: expected a whole number; {by} is an integer field"
            )
        return number

    def _time_us(self, text: str) -> int:
        times, bad = parse_times(pa.array([text], pa.string()))
        if bad[0] or times.null_count:
            raise HTTPException(HTTPStatus.BAD_REQUEST, f"at = {text[:ECHO]!r}: expected a time in ISO 8601")
        return int(times.cast(pa.int64())[0].as_py())


def routes_of(schema: Schema, memory: Following, deriving: Deriving) -> APIRouter:
    """The routes.

    Args:
        schema: with the definitions.
        memory: what the features are made from.
        deriving: makes them.
    """
    vectors = Vectors(schema, memory, deriving)
    routes = APIRouter(tags=["model"])
    answers: Any = {200: {"description": "The features by name; null is missing.", "content": {JSON: {"schema": VECTOR}}}}
    about: Any = {"description": DESCRIPTION, "response_class": Response, "responses": answers}

    @routes.get(PATH, summary="The derived features as of now, without a key", **about)
    def features(at: At = None) -> Response:
        return Response(msgspec.json.encode(vectors.vector(None, None, at)), media_type=JSON)

    @routes.get(f"{PATH}/{{key:path}}", summary="The derived features of a key as of now", **about)
    def features_of_key(key: Key, by: By = None, at: At = None) -> Response:
        return Response(msgspec.json.encode(vectors.vector(key, by, at)), media_type=JSON)

    return routes
