"""Tensors of the Open Inference Protocol, to and from records.

Source: https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`.

Invariant: what a tensor declares (datatype, shape) is what it holds, or the request is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from correnteza.codec import ECHO
from correnteza.errors import InputError, Problem
from correnteza.records import ID, Schema
from correnteza.trainer.answers import Answered

Size = Annotated[int, Meta(ge=0)]
Shape = Annotated[list[Size], Meta(min_length=1, max_length=2)]

_ANY_INTEGER = ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8")
_ANY_NUMBER = ("FP64", "FP32", "FP16", *_ANY_INTEGER)
DATATYPES: dict[str, tuple[str, ...]] = {
    "float": _ANY_NUMBER,
    "integer": ("INT64", *(t for t in _ANY_NUMBER if t != "INT64")),
    "category": ("BYTES", *_ANY_INTEGER),
    "text": ("BYTES",),
    "timestamp": ("BYTES",),
}
"""Datatypes that a field's tensor may have, by kind of field; the first is the one that the metadata name."""


def _element(datatype: str) -> Any:
    """What an element of a datatype is in JSON; the fractions of FP32 and FP16 come as the doubles that they are."""
    if datatype == "BYTES":
        return str
    if datatype.startswith("FP"):
        return float
    bits = int(datatype.lstrip("UINT"))
    if datatype.startswith("U"):
        return Annotated[int, Meta(ge=0)] if bits == 64 else Annotated[int, Meta(ge=0, lt=2**bits)]
    return Annotated[int, Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]


_ELEMENTS: dict[str, Any] = {name: list[_element(name) | None] for name in ("BYTES", *_ANY_NUMBER)}  # type: ignore[misc]


class Input(msgspec.Struct, frozen=True):
    """An input tensor: the values of one field."""

    name: str
    shape: Shape
    datatype: str
    data: list[Any] | UnsetType = UNSET
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] | None = None


class Request(msgspec.Struct, frozen=True):
    """The body of `infer`."""

    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


class Output(msgspec.Struct, frozen=True):
    """An output tensor."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any]


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of the answer."""

    model_name: str
    model_version: str
    outputs: list[Output]
    id: str | None = None


def records_of(inputs: Sequence[Input], schema: Schema) -> list[dict[str, Any]]:
    """One record per element of the tensors.

    Args:
        inputs: at most one for each field and for `id`; all of them with N elements, shape [N] or [N, 1].
        schema: of the records.

    Raises:
        InputError: they are anything else (400).

    >>> from correnteza.records import Field
    >>> schema = Schema((Field("age", "float"), Field("job", "category")), target="income")
    >>> records_of([Input("age", [2], "FP64", [31.5, None]), Input("job", [2, 1], "BYTES", [["cook"], ["nurse"]])], schema)
    [{'age': 31.5, 'job': 'cook'}, {'age': None, 'job': 'nurse'}]
    """
    if not inputs:
        raise _refused("inputs is empty; send a tensor for at least one field, whose shape says how many records there are")
    columns: dict[str, list[Any]] = {}
    for tensor in inputs:
        if tensor.name in columns:
            raise _refused(f"input {tensor.name[:ECHO]!r} stands there twice; send one tensor for a field")
        columns[tensor.name] = _values(tensor, _kind(tensor.name, schema))
    rows = {tensor.name: tensor.shape[0] for tensor in inputs}
    if len(set(rows.values())) > 1:
        raise _refused(f"the tensors have different numbers of records: {rows}; send all of them with the same first dimension")
    names = list(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _kind(name: str, schema: Schema) -> str:
    """The kind of the field that a tensor is for; ids are like categories, texts or whole numbers."""
    kind = "category" if name == ID else schema.kind_of(name)
    if kind is not None:
        return kind
    reason = "is the target, which is what is asked for; leave it out" if name == schema.target else "is not a field"
    fields = ", ".join((ID, *(field.name for field in schema.fields)))
    raise _refused(f"input {name[:ECHO]!r} {reason}; the inputs are {fields}")


def _values(tensor: Input, kind: str) -> list[Any]:
    where = f"input {tensor.name!r}"
    if tensor.datatype not in DATATYPES[kind]:
        fits = ", ".join(DATATYPES[kind])
        raise _refused(
            f"{where} has datatype {tensor.datatype[:ECHO]!r}, which does not fit its kind, {kind}; send one of {fits}"
        )
    if tensor.data is UNSET:
        raise _refused(f"{where} has no data; binary tensors and shared memory are not supported, send the values as JSON")
    flat = _flat(tensor, where)
    try:
        return list(msgspec.convert(flat, _ELEMENTS[tensor.datatype]))
    except (msgspec.ValidationError, OverflowError):
        raise InputError(f"{where} holds what is no {tensor.datatype}", _faults(tensor, flat), status=400) from None


def _flat(tensor: Input, where: str) -> list[Any]:
    """The elements, in row-major order; the data may be nested as the shape is, or flat."""
    data: list[Any] = [] if tensor.data is UNSET else tensor.data
    rows, *width = tensor.shape
    if width not in ([], [1]):
        raise _refused(f"{where} has shape {tensor.shape}; expected [N] or [N, 1], one value for each of N records")
    if width and data and all(isinstance(row, list) and len(row) == 1 for row in data):
        data = [row[0] for row in data]
    if len(data) != rows:
        raise _refused(f"{where} has shape {tensor.shape} and {len(data)} elements; expected {rows}")
    return data


def _faults(tensor: Input, flat: list[Any]) -> list[Problem]:
    found = []
    for index, value in enumerate(flat):
        try:
            msgspec.convert([value], _ELEMENTS[tensor.datatype])
        except (msgspec.ValidationError, OverflowError) as error:
            found.append(Problem(index, tensor.name, str(error).partition(" - at `")[0]))
    return found


def outputs_of(answered: Answered, wanted: Sequence[str]) -> list[Output]:
    """The output tensors of an answer.

    Args:
        answered: the answer.
        wanted: names of those that are asked for, in their order; all when empty.

    Raises:
        InputError: one is not known (400).
    """
    columns = _columns(answered)
    rows = len(answered.ids)
    names = wanted or list(columns)
    for name in names:
        if name not in columns:
            if name in OUTPUTS:
                reason = f"is not known for version {answered.version}; ask for it once GET /evaluation has a multiplier"
            else:
                reason = f"is not an output; the outputs are {', '.join(OUTPUTS)}"
            raise _refused(f"output {name[:ECHO]!r} {reason}")
    return [Output(name, OUTPUTS[name], [rows], columns[name]) for name in names]


OUTPUTS = {"prediction": "FP64", "lower": "FP64", "upper": "FP64", "model_version": "INT64", "id": "BYTES"}
"""Outputs and their datatypes; all have shape [N]."""


def _columns(answered: Answered) -> Mapping[str, list[Any]]:
    predictions, half = answered.predictions, answered.halves
    interval = {} if half is None else {"lower": (predictions - half).tolist(), "upper": (predictions + half).tolist()}
    versions = [answered.version] * len(answered.ids)
    return {"prediction": predictions.tolist(), **interval, "model_version": versions, "id": list(answered.ids)}


def tensors_of(schema: Schema) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Inputs and outputs as the model's metadata list them; -1 stands for N."""
    inputs = [("id", "BYTES"), *((field.name, DATATYPES[field.kind][0]) for field in schema.fields)]
    return _listed(inputs), _listed(list(OUTPUTS.items()))


def _listed(tensors: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in tensors]


def _refused(message: str) -> InputError:
    return InputError(message, status=400)
