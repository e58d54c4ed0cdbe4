"""Versions over HTTP and on the command line: answers by number, the story, the decisions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import requests
from tests.tools import PATIENCE_S

from correnteza import cli
from correnteza.codec import ARROW, NDJSON
from correnteza.log.memory import MemoryStore
from correnteza.trainer.promotions import DECISIONS, decision_rows

from .speaking import Speaking
from .test_service import Trainer, served

RECORDS: list[dict[str, Any]] = [{"size": 31.5, "rooms": 2, "kind": "flat"}, {"size": 120.0, "kind": "boat"}, {}]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Speaking:
    """Version 3 is in service; version 2 has no files."""
    world = Speaking(tmp_path_factory.mktemp("versions"))
    for version in (1, 2, 3):
        world.add(version)
    shutil.rmtree(world.folder / "models" / "2")
    world.serve(3, 10.0)
    return world


@pytest.fixture(scope="module")
def port_base(world: Speaking) -> Iterator[str]:
    """For commands, the base of the port that the application listens on."""
    with world.listening() as address:
        yield str(int(address.rpartition(":")[2]) - 3)


def told(world: Speaking, version: object, body: Any = None, **headers: str) -> tuple[int, Any]:
    reply = world.ask(f"/models/{version}/predict", {} if body is None else body, **headers)
    assert reply.headers["content-type"] == ("application/json" if reply.status == 200 else "application/problem+json")
    return reply.status, reply.json


def test_a_version_answers_by_its_number_as_it_did_in_service(world: Speaking) -> None:
    world.serve(1, None)
    in_service = world.predicted([{**record, "id": f"r{i}"} for i, record in enumerate(RECORDS)])
    world.serve(3, 10.0)
    status, answers = told(world, 1, [{**record, "id": f"r{i}"} for i, record in enumerate(RECORDS)])
    assert (status, answers) == (200, in_service)
    assert {answer["model_version"] for answer in answers} == {1}


def test_the_version_in_service_answers_by_its_number_as_without(world: Speaking) -> None:
    record = {**RECORDS[0], "id": "x"}
    assert told(world, 3, record) == (200, world.predicted([record])[0])


def test_nothing_that_is_asked_by_number_is_stored(world: Speaking) -> None:
    before = world.answers.served_rows
    assert told(world, 1, RECORDS)[0] == told(world, 3, RECORDS)[0] == 200
    assert world.answers.served_rows == before


def test_all_media_types_are_read_and_written_as_by_predict(world: Speaking) -> None:
    expected = [answer["prediction"] for answer in told(world, 1, RECORDS)[1]]
    lines = b"\n".join(json.dumps(record).encode() for record in RECORDS)
    columns = {"columns": ["size", "rooms", "kind"], "rows": [[r.get(n) for n in ("size", "rooms", "kind")] for r in RECORDS]}
    for body, headers in ((lines, {"content_type": NDJSON}), (columns, {})):
        assert [answer["prediction"] for answer in told(world, 1, body, **headers)[1]] == expected
    reply = world.ask("/models/1/predict", RECORDS, accept=NDJSON)
    assert [json.loads(line)["prediction"] for line in reply.body.splitlines()] == expected
    reply = world.ask("/models/1/predict", RECORDS, accept=ARROW)
    assert reply.headers["content-type"] == ARROW
    assert pa.ipc.open_stream(reply.body).read_all()["prediction"].to_pylist() == expected


@pytest.mark.parametrize(
    ("version", "body", "status", "words"),
    [
        (9, {}, 404, "no model version 9; there are 1 to 3"),
        (2, {}, 404, "`correnteza models rebuild 2 --keep` makes them again"),
        (0, {}, 422, "greater than or equal to 1"),
        ("x", {}, 422, "valid integer"),
        (1, {"size": "big"}, 422, "1 of the records are refused"),
        (1, {"price": 3.0}, 422, "1 of the records are refused"),
        (1, b"[", 400, ""),
    ],
)
def test_what_cannot_be_answered_is_a_problem(world: Speaking, version: object, body: Any, status: int, words: str) -> None:
    found, problem = told(world, version, body)
    assert found == status
    assert words in problem["detail"]


def test_before_the_first_model_a_number_is_unknown(tmp_path: Path) -> None:
    status, problem = told(Speaking(tmp_path), 1)
    assert (status, problem["detail"]) == (404, "no model version 1; there is none yet")


def test_a_tampered_version_answers_nobody_and_is_told(tmp_path: Path) -> None:
    world = Speaking(tmp_path)
    world.add(1)
    (tmp_path / "models" / "1" / "model.onnx").write_bytes(b"?")
    status, problem = told(world, 1)
    assert status == 409
    assert "model.onnx" in problem["detail"]
    assert "model_refused" in world.kinds_of_events()


# On the command line


def test_the_command_prints_what_the_version_answers(port_base: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options, version in (([], 3), (["--version", "1"], 1)):
        assert cli.main(["predict", "--record", '{"size": 31.5}', "--port-base", port_base, *options]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["model_version"] == version
        assert abs(answer["prediction"] - 1000 * version) < 500


def test_a_file_is_answered_line_by_line_over_several_requests(
    port_base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("correnteza.models_cli.LINES_AT_ONCE", 2)
    file = tmp_path / "some.ndjson"
    file.write_text("\n".join(f'{{"id": "r{i}", "size": {i}}}' for i in range(5)) + "\n\n")
    command = ["predict", "--file", str(file), "--version", "1", "--port-base", port_base]
    assert cli.main(command) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer["id"], answer["model_version"]) for answer in answers] == [(f"r{i}", 1) for i in range(5)]
    file.write_text('{"size": 1}\n\n{"size": 2}\n{"size": 3}\n{"size": "big"}\n')
    assert cli.main(command) == 1
    assert f"error: {file}: line 5: size: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--record", "{}", "--version", "9"], 1, "no model version 9; there are 1 to 3"),
        (["--record", '{"size": "big"}'], 1, "error: record 0: size: "),
        (["--record", "{"], 1, "error: "),
        (["--file", "not-there.ndjson"], 1, "--file not-there.ndjson: cannot be read: No such file"),
        ([], 2, "expected either --record or --file"),
        (["--record", "{}", "--file", "x"], 2, "expected either --record or --file"),
    ],
)
def test_a_mistake_is_one_line(
    port_base: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert cli.main(["predict", *arguments, "--port-base", port_base]) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err
    assert told.err.count("\n") == 1


# Story and decisions


def test_story_and_decisions_are_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Trainer(tmp_path, MemoryStore())
    made.add(1)
    made.add(2, promoted=False)
    evidence = {"rows": 50, "champion_mae": 2.0, "challenger_mae": 3.5}
    row = decision_rows(2, datetime.now(UTC), "refused", "worse than version 1", evidence)
    made.store.log("decisions", DECISIONS).append(row)
    with served(made.app, made.service) as url:
        base = str(int(url.rpartition(":")[2]) - 3)
        listed = requests.get(f"{url}/models", timeout=PATIENCE_S).json()
        one = requests.get(f"{url}/models/2", timeout=PATIENCE_S).json()
        logged = requests.get(f"{url}/decisions", timeout=PATIENCE_S).json()["records"]
        requests.post(f"{url}/models/2/promote", timeout=PATIENCE_S).raise_for_status()
        history = requests.get(f"{url}/models/history", timeout=PATIENCE_S).json()
        too_many = requests.get(f"{url}/models/history?last=0", timeout=PATIENCE_S)
        assert cli.main(["models", "history", "--port-base", base]) == 0
        assert capsys.readouterr().out.splitlines() == history
        assert cli.main(["models", "history", "--last", "1", "--port-base", base]) == 0
        assert [line.split(" version ")[1][0] for line in capsys.readouterr().out.splitlines()] == ["2", "2"]
        assert cli.main(["models", "list", "--port-base", base]) == 0
        assert "refused" in capsys.readouterr().out.splitlines()[2]
    assert [entry["decision"] for entry in listed] == [None, "refused"]
    assert one["decision"] == "refused"
    assert (logged[0]["version"], json.loads(logged[0]["evidence"])) == (2, evidence)
    assert too_many.status_code == 422
    assert [sentence.partition(" version ")[2] for sentence in history] == [
        "1 was trained on 90 rows (test) and was put into service: test",
        "2 was trained on 90 rows (test); it answered 50 records (MAE 3.5 against 2) and was refused: worse than version 1",
        "2 was put into service by hand and pinned",
    ]
