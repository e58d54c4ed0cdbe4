"""The Open Inference Protocol V2 over HTTP, as KServe, Triton and MLServer speak it; without binary tensors.

Source: https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`.

Each field is an input tensor of its own; fields without a tensor are missing values, and so are null
and NaN in a tensor. Request parameters are accepted and mean nothing here, as the protocol leaves it to servers.
"""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from correnteza.codec import ECHO, JSON
from correnteza.errors import InputError
from correnteza.trainer.answers import Answered
from correnteza.trainer.protocols import bodies, tensors
from correnteza.trainer.protocols.asking import LARGE, Asked, Desk, media_of
from correnteza.trainer.protocols.forms import Form, error_schema, json_response

PREFIX = "/v2"
PLATFORM = "onnx_onnxv1"
BINARY_HEADER = "inference-header-content-length"
"""Sent by clients whose tensors follow the JSON as bytes."""
FORM = Form(owns=lambda path: path == PREFIX or path.startswith(f"{PREFIX}/"), body=lambda _, message: {"error": message})

Name = Annotated[
    str, Path(description="`pipeline.name` of the settings.", json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"})
]
Version = Annotated[
    str, Path(description="A version whose files are kept.", json_schema_extra={"pattern": "^[1-9][0-9]{0,14}$"})
]
_JSON_TYPES = {str: "string", bool: "boolean", list: "array"}
_EXAMPLE_OUTPUT = {"name": "prediction", "datatype": "FP64", "shape": [1], "data": [4213.7]}


def routes_of(name: str, desk: Desk) -> APIRouter:
    """The routes of the protocol.

    Args:
        name: of the model.
        desk: where to ask.
    """
    model = Model(name, desk)
    routes = APIRouter(tags=["Open Inference Protocol"], responses=error_schema("The protocol's error form.", "error"))
    _add_health(routes, desk)
    _add_metadata(routes, model)
    _add_inference(routes, model)
    return routes


class Model:
    """The model as the protocol sees it.

    Args:
        name: its name.
        desk: where to ask.
    """

    def __init__(self, name: str, desk: Desk) -> None:
        self._name = name
        self._desk = desk

    def known(self, name: str) -> None:
        """Nothing, when the name is the model's.

        Raises:
            HTTPException: 404, it is not.
        """
        if name != self._name:
            raise HTTPException(404, f"there is no model {name[:ECHO]!r}; the model here is {self._name!r}")

    def metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Name, versions, and the tensors in and out.

        Args:
            name: of the model.
            version: of the model, when one was named.
        """
        self.known(name)
        if version is not None:
            self._desk.versions.get(version)
        inputs, outputs = tensors.tensors_of(self._desk.schema)
        versions = [str(number) for number in self._desk.versions.listed()]
        return {"name": name, "versions": versions, "platform": PLATFORM, "inputs": inputs, "outputs": outputs}

    def ready(self, name: str, version: str | None = None) -> dict[str, Any]:
        """That it can be asked.

        Raises:
            NoModelError: there is no version in service yet, and none was named.
        """
        self.known(name)
        if version is None:
            self._desk.ready()
        else:
            self._desk.versions.get(version)
        return {"name": name, "ready": True}

    async def infer(self, request: Request, name: str, version: str | None = None) -> Response:
        """The answer to an inference request.

        Raises:
            InputError: the request is refused.
            HTTPException: there is no such model.
        """
        self.known(name)
        if BINARY_HEADER in request.headers:
            raise InputError("binary tensors are not supported; send the values as JSON (binary_data=False)", status=400)
        media_of(request, JSON)
        body = await request.body()
        at_hand = version is None or self._desk.versions.is_in_service(version)
        size = len(body) if at_hand else LARGE
        return await self._desk.respond(size, lambda: self._read(body, version), self._written)

    def _read(self, body: bytes, version: str | None) -> Asked:
        request = bodies.read(body, tensors.Request)
        serving = None if version is None else self._desk.versions.get(version)
        wanted = tuple(output.name for output in request.outputs or ())
        return Asked(tensors.records_of(request.inputs, self._desk.schema), serving, wanted, request.id)

    def _written(self, asked: Asked, answered: Answered) -> Response:
        outputs = tensors.outputs_of(answered, asked.wanted)
        return json_response(tensors.Response(self._name, str(answered.version), outputs, asked.id))


def _add_health(routes: APIRouter, desk: Desk) -> None:
    @routes.get(PREFIX, summary="The server", responses=_ok({"name": "correnteza", "version": "0.1.0", "extensions": []}))
    def server() -> Response:
        return json_response({"name": "correnteza", "version": version_of("correnteza"), "extensions": []})

    @routes.get(f"{PREFIX}/health/live", summary="Whether the process answers", responses=_ok({"live": True}))
    def live() -> Response:
        return json_response({"live": True})

    @routes.get(f"{PREFIX}/health/ready", summary="Whether there is a model", responses=_ok({"live": True, "ready": True}))
    def ready() -> Response:
        desk.ready()
        return json_response({"live": True, "ready": True})


def _add_metadata(routes: APIRouter, model: Model) -> None:
    path = f"{PREFIX}/models/{{name}}"
    inputs = [{"name": "age", "datatype": "FP64", "shape": [-1]}]
    outputs = [{"name": "prediction", "datatype": "FP64", "shape": [-1]}]
    example = {"name": "people", "versions": ["1"], "platform": PLATFORM, "inputs": inputs, "outputs": outputs}
    about = _ok(example)
    is_ready = _ok({"name": "people", "ready": True})

    @routes.get(path, summary="The model and its tensors", responses=about)
    def metadata(name: Name) -> Response:
        return json_response(model.metadata(name))

    @routes.get(f"{path}/versions/{{version}}", summary="The model and its tensors, for a version", responses=about)
    def metadata_of_version(name: Name, version: Version) -> Response:
        return json_response(model.metadata(name, version))

    @routes.get(f"{path}/ready", summary="Whether the model can be asked", responses=is_ready)
    def ready(name: Name) -> Response:
        return json_response(model.ready(name))

    @routes.get(f"{path}/versions/{{version}}/ready", summary="Whether a version can be asked", responses=is_ready)
    def ready_of_version(name: Name, version: Version) -> Response:
        return json_response(model.ready(name, version))


def _add_inference(routes: APIRouter, model: Model) -> None:
    path = f"{PREFIX}/models/{{name}}"
    example = {"model_name": "people", "model_version": "3", "id": "42", "outputs": [_EXAMPLE_OUTPUT]}
    answers = _ok(example, _schema(tensors.Response))
    about: dict[str, Any] = {"responses": answers, "openapi_extra": {"requestBody": _request_body()}}

    @routes.post(f"{path}/infer", summary="Predict with the version in service", **about)
    async def infer(request: Request, name: Name) -> Response:
        return await model.infer(request, name)

    @routes.post(f"{path}/versions/{{version}}/infer", summary="Predict with a version", **about)
    async def infer_with_version(request: Request, name: Name, version: Version) -> Response:
        return await model.infer(request, name, version)


def _request_body() -> dict[str, Any]:
    example = {"id": "42", "inputs": [{"name": "age", "datatype": "FP64", "shape": [1], "data": [37.0]}]}
    return {"required": True, "content": {JSON: {"schema": _schema(tensors.Request), "example": example}}}


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    definitions = msgspec.json.schema(kind)["$defs"]
    return dict(_inlined(definitions[kind.__name__], definitions))


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """A JSON Schema with its references resolved, because OpenAPI has them at another place."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items()}


def _ok(example: dict[str, Any], schema: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of a success; without a schema, of an object with the example's members."""
    if schema is None:
        members = {name: {"type": _JSON_TYPES[type(value)]} for name, value in example.items()}
        schema = {"type": "object", "properties": members, "required": list(members)}
    return {200: {"description": "Done.", "content": {JSON: {"schema": schema, "example": example}}}}
