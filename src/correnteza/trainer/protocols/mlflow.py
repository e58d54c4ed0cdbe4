"""MLflow's scoring protocol (MLflow 2 and later), for clients that send to an `mlflow models serve`.

Source: https://mlflow.org/docs/latest/, "Deploy MLflow Model as a Local Inference Server".

Columns go by name, so lists of unnamed values are refused; null, NaN and an empty cell are missing values.
The answer is the predictions alone; the header `Model-Version` says which version made them.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from correnteza.codec import ECHO, JSON
from correnteza.errors import InputError
from correnteza.records import ID, Schema
from correnteza.trainer.answers import Answered
from correnteza.trainer.protocols import bodies
from correnteza.trainer.protocols.asking import Asked, Desk, media_of
from correnteza.trainer.protocols.forms import Form, error_schema, json_response

CSV = "text/csv"
PATHS = ("/invocations", "/ping", "/health", "/version")
_CODES = {
    HTTPStatus.NOT_FOUND: "ENDPOINT_NOT_FOUND",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL_ERROR",
    HTTPStatus.SERVICE_UNAVAILABLE: "TEMPORARILY_UNAVAILABLE",
}
FORM = Form(
    owns=PATHS.__contains__,
    body=lambda status, message: {"error_code": _CODES.get(HTTPStatus(status), "BAD_REQUEST"), "message": message},
)
Records = list[dict[str, Any]]


class Split(msgspec.Struct, frozen=True):
    """A data frame as `DataFrame.to_dict(orient="split")` writes it; `index` is not used."""

    columns: list[str]
    data: list[list[Any]]
    index: list[Any] | None = None


class Scoring(msgspec.Struct, frozen=True):
    """The body of `/invocations`: exactly one of the first four."""

    dataframe_split: Split | UnsetType = UNSET
    dataframe_records: Records | UnsetType = UNSET
    inputs: Records | dict[str, list[Any]] | UnsetType = UNSET
    instances: Records | UnsetType = UNSET
    params: dict[str, Any] | None = None


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
"""The forms of a body."""


def routes_of(desk: Desk) -> APIRouter:
    """The routes of the protocol.

    Args:
        desk: where to ask.
    """
    errors = error_schema("MLflow's error form.", "error_code", "message")
    routes = APIRouter(tags=["MLflow"], responses=errors)

    @routes.post("/invocations", summary="Predict", responses=_ok(), openapi_extra={"requestBody": _request_body()})
    async def invocations(request: Request) -> Response:
        media = media_of(request, JSON, CSV)
        body = await request.body()
        return await desk.respond(len(body), lambda: _read(desk.schema, body, media), _written)

    def ready() -> Response:
        desk.ready()
        return Response("\n", media_type=JSON)

    for path in ("/ping", "/health"):
        name = f"mlflow_{path[1:]}"
        routes.get(path, name=name, operation_id=name, summary="Whether there is a model", response_class=Response)(ready)

    @routes.get("/version", summary="The version of this server", response_class=Response)
    def about() -> Response:
        return Response(version("correnteza"), media_type="text/plain")

    return routes


def _read(schema: Schema, body: bytes, media: str) -> Asked:
    return Asked(records_of_csv(body, schema) if media == CSV else records_of(bodies.read(body, Scoring)))


def _written(_: Asked, answered: Answered) -> Response:
    return json_response({"predictions": answered.predictions.tolist()}, headers={"Model-Version": str(answered.version)})


def records_of(asked: Scoring) -> Records:
    """The records of a request.

    Args:
        asked: the request.

    Raises:
        InputError: it has none of the four forms, or several, or is not of one piece (400).

    >>> records_of(Scoring(dataframe_split=Split(["age", "job"], [[31.5, "cook"]])))
    [{'age': 31.5, 'job': 'cook'}]
    >>> records_of(Scoring(inputs={"age": [31.5, None]}))
    [{'age': 31.5}, {'age': None}]
    """
    there = [name for name in FORMATS if getattr(asked, name) is not UNSET]
    if len(there) != 1:
        raise _refused(f"the body has {' and '.join(there) or 'none'} of {', '.join(FORMATS)}; send exactly one of them")
    if asked.params:
        raise _refused(f"params {', '.join(asked.params)[:ECHO]!r} are not known; this model takes none")
    found: Split | Mapping[str, list[Any]] | Records = getattr(asked, there[0])
    if isinstance(found, Split):
        return _rows(found.columns, found.data, "dataframe_split.data")
    return found if isinstance(found, list) else _columns(found)


def _columns(columns: Mapping[str, list[Any]]) -> Records:
    lengths = {name[:ECHO]: len(values) for name, values in list(columns.items())[:ECHO]}
    if len({len(values) for values in columns.values()}) > 1:
        raise _refused(
            f"the columns of inputs have different lengths: {lengths}; send one value for each record in all of them"
        )
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows(columns: list[str], rows: list[list[Any]], where: str) -> Records:
    if len(set(columns)) < len(columns):
        raise _refused(f"{where}: a column stands there twice; send each once")
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise _refused(f"{where}: row {index} has {len(row)} values; expected {len(columns)}, one for each column")
    return [dict(zip(columns, row, strict=True)) for row in rows]


def records_of_csv(body: bytes, schema: Schema) -> Records:
    """The records of a table with a line of names; empty cells are missing values.

    Args:
        body: UTF-8 text, as `DataFrame.to_csv(index=False)` writes it.
        schema: says which columns are numbers; what is none there stays a text, which is refused later.

    Raises:
        InputError: it is no such table (400).
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(f"the body is not CSV in UTF-8: {error}") from None
    if not lines:
        raise _refused("the body is empty; send a line with the columns' names, then one for each record")
    known = (ID, *(field.name for field in schema.fields))
    unknown = [name[:ECHO] for name in lines[0] if name not in known]
    if unknown:
        raise _refused(f"CSV: column {unknown[0]!r} is not one of {', '.join(known)}; leave it out, and the index too")
    numeric: dict[str, Callable[[str], Any]] = dict.fromkeys(schema.numeric, number_of)
    records = _rows(lines[0], lines[1:], "CSV")
    return [{name: numeric.get(name, _text)(value) for name, value in record.items()} for record in records]


def number_of(text: str) -> float | str | None:
    """A cell as a finite number; missing when it is empty or NaN; as it stands when it is none.

    >>> number_of("31"), number_of("0.5"), number_of("nan"), number_of(""), number_of("inf"), number_of("x")
    (31, 0.5, None, None, 'inf', 'x')
    """
    if not text.strip():
        return None
    if not _NUMBER.fullmatch(text):
        return None if text.strip().lower() == "nan" else text
    try:
        return int(text)  # first, so that what is no exact float is seen to be none
    except ValueError:
        value = float(text)
        return text if math.isinf(value) else value


def _text(text: str) -> str:
    return text


def _refused(message: str) -> InputError:
    return InputError(message, status=400)


def _ok() -> dict[int | str, dict[str, Any]]:
    schema = {
        "type": "object",
        "properties": {"predictions": {"type": "array", "items": {"type": "number"}}},
        "required": ["predictions"],
    }
    header = {"Model-Version": {"description": "The version that made them.", "schema": {"type": "string"}}}
    content = {JSON: {"schema": schema, "example": {"predictions": [4213.7]}}}
    return {200: {"description": "The predictions.", "content": content, "headers": header}}


def _request_body() -> dict[str, Any]:
    records: dict[str, Any] = {"type": "array", "items": {"type": "object"}}
    split: dict[str, Any] = {
        "type": "object",
        "properties": {
            "columns": {"type": "array", "items": {"type": "string"}},
            "data": {"type": "array", "items": {"type": "array"}},
        },
        "required": ["columns", "data"],
    }
    columns: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "array"}}
    forms = {"dataframe_split": split, "dataframe_records": records, "instances": records}
    forms["inputs"] = {"oneOf": [records, columns]}
    one_of = [{"type": "object", "properties": {name: forms[name]}, "required": [name]} for name in FORMATS]
    example = {"dataframe_split": {"columns": ["age", "job"], "data": [[37.0, "Enfermeiro"]]}}
    return {
        "required": True,
        "content": {JSON: {"schema": {"oneOf": one_of}, "example": example}, CSV: {"schema": {"type": "string"}}},
    }
