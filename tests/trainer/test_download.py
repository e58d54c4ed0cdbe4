"""Laws of `GET /models/{version}/model.onnx`: the registered bytes, with their digest, and of use to anybody."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from tests.tools import PATIENCE_S

from .speaking import NAME, Speaking

ALONE = """
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
records = json.load(sys.stdin)
numbers = [[np.nan if r.get(n) is None else r[n] for n in json.loads(about["numbers"])] for r in records]
texts = [[r.get(n) or "" for n in json.loads(about["categories"])] for r in records]
feed = {"numbers": np.array(numbers, np.float64), "categories": np.array(texts, object)}
found = session.run(["prediction"], feed)[0]
assert not [name for name in sys.modules if name.split(".")[0] in ("correnteza", "sklearn", "joblib", "onnx")]
json.dump(found[:, 0].tolist(), sys.stdout)
"""
RECORDS = [
    {"size": 31.5, "rooms": 2, "kind": "flat"},
    {"size": 120.0, "rooms": 8, "kind": "house"},
    {"size": 0.1, "kind": "boat"},
    {"rooms": 3},
    {},
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Speaking:
    world = Speaking(tmp_path_factory.mktemp("download"))
    world.add(1)
    world.add(2)
    world.serve(2, 10.0)
    return world


def path_of(version: object) -> str:
    return f"/models/{version}/model.onnx"


def test_a_downloaded_model_answers_in_onnxruntime_alone_as_predict_does(world: Speaking, tmp_path: Path) -> None:
    with world.listening() as address:
        answer = requests.get(f"http://{address}{path_of(2)}", timeout=PATIENCE_S)
        expected = requests.post(f"http://{address}/predict", json=RECORDS, timeout=PATIENCE_S).json()
    file = tmp_path / "model.onnx"
    file.write_bytes(answer.content)
    assert hashlib.sha256(answer.content).hexdigest() == answer.headers["X-SHA256"]
    command = [sys.executable, "-I", "-c", ALONE, str(file)]
    done = subprocess.run(
        command, input=json.dumps(RECORDS), capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [prediction["prediction"] for prediction in expected]


def test_the_bytes_are_the_registered_ones_and_the_headers_say_their_digest(world: Speaking) -> None:
    for version in (1, 2):
        reply = world.ask(path_of(version))
        digest = hashlib.sha256(reply.body)
        assert reply.body == world.registry.model_bytes(version)
        assert digest.hexdigest() == world.registry.get(version).sha256 == reply.headers["x-sha256"]
        assert reply.headers["etag"] == f'"{digest.hexdigest()}"'
        assert reply.headers["content-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-length"] == str(len(reply.body))
        assert reply.headers["content-disposition"] == f'attachment; filename="{NAME}-{version}.onnx"'


def test_what_the_client_has_already_is_not_sent_again(world: Speaking) -> None:
    tag = world.ask(path_of(1)).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        reply = world.ask(path_of(1), if_none_match=known)
        assert (reply.status, reply.body, reply.headers["etag"]) == (304, b"", tag)
    for known in ('"other"', tag.strip('"'), world.ask(path_of(2)).headers["etag"]):
        assert world.ask(path_of(1), if_none_match=known).status == 200


def test_a_head_request_has_the_headers_alone(world: Speaking) -> None:
    with world.listening() as address:
        whole = requests.get(f"http://{address}{path_of(1)}", timeout=PATIENCE_S)
        head = requests.head(f"http://{address}{path_of(1)}", timeout=PATIENCE_S)
        unchanged = requests.head(
            f"http://{address}{path_of(1)}", headers={"If-None-Match": whole.headers["ETag"]}, timeout=PATIENCE_S
        )
    assert (head.status_code, head.content, unchanged.status_code) == (200, b"", 304)
    for name in ("ETag", "Content-Digest", "X-SHA256", "Content-Length", "Content-Type"):
        assert head.headers[name] == whole.headers[name]


@pytest.mark.parametrize(("version", "status"), [("3", 404), ("9007199254740992", 404), ("0", 422), ("-1", 422), ("x", 422)])
def test_a_version_that_is_none_is_refused(world: Speaking, version: str, status: int) -> None:
    reply = world.ask(path_of(version))
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert "version" in reply.json["detail"]


def test_a_version_whose_files_were_removed_is_not_found(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    for version in (1, 2, 3):
        world.add(version)
    world.registry.prune(1)
    reply = world.ask(path_of(1))
    assert reply.status == 404
    assert "keep_versions" in reply.json["detail"]


@pytest.mark.parametrize("name", ["model.onnx", "model.json"])
def test_a_file_that_is_not_the_registered_one_is_never_sent_and_told(tmp_path: Path, name: str) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    tag = world.ask(path_of(1)).headers["etag"]
    path = tmp_path / "models" / "1" / name
    path.write_bytes(path.read_bytes().replace(b"price", b"prize").replace(b"test", b"best"))
    for known in ("", tag):
        reply = world.ask(path_of(1), if_none_match=known)
        assert (reply.status, reply.headers["content-type"]) == (409, "application/problem+json")
        assert name in reply.json["detail"]
    assert world.kinds_of_events() == ["model_refused"] * 2


def test_the_document_shows_the_route_once_with_its_headers(world: Speaking) -> None:
    path = world.app.openapi()["paths"]["/models/{version}/model.onnx"]
    assert list(path) == ["get"]
    assert set(path["get"]["responses"]["200"]["headers"]) == {"ETag", "X-SHA256", "Content-Digest"}
    assert set(path["get"]["responses"]["200"]["content"]) == {"application/octet-stream"}
