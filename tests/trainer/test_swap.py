"""Laws of swaps: what comes into service answers as it did when it was made, and no request notices the change."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tools import until

from correnteza.log.memory import MemoryStore
from correnteza.trainer import probe
from correnteza.trainer.predictor import Predictor

from .test_service import Trainer, made, served, version_of

__all__ = ["made"]  # a fixture
CONNECTIONS = 16
SWAPS = 12


def test_probe_answers_stand_in_the_manifest_and_are_those_of_the_model(made: Trainer) -> None:
    made.add(1)
    stored = made.registry.manifest(1)["probe"]
    predictor = Predictor(made.registry.model_bytes(1))
    found = predictor.predict(np.array(stored["numbers"]), np.array(stored["categories"], object))
    assert found.tolist() == stored["predictions"]
    assert len(found) == probe.ROWS
    assert {text for row in stored["categories"] for text in row} == {"", "a", "b"}
    probe.check(predictor, stored)
    probe.check(predictor, {})


def test_missing_numbers_are_kept_in_a_manifest(made: Trainer) -> None:
    made.add(1)
    stored = made.registry.manifest(1)["probe"]
    predictor = Predictor(made.registry.model_bytes(1))
    (answer,) = predictor.predict(np.array([[np.nan]]), np.array([[""]], object))
    probe.check(predictor, {"numbers": [[None]], "categories": [[""]], "predictions": [answer]})
    with pytest.raises(ValueError, match="probe row 0"):
        probe.check(predictor, {**stored, "predictions": [p + 1 for p in stored["predictions"]]})


def test_a_version_that_answers_otherwise_than_when_it_was_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tmp_path, MemoryStore())
    trainer.add(1)
    with served(trainer.app, trainer.service) as url:
        assert version_of(url) == 1
        monkeypatch.setattr(probe, "taken", spoilt)
        trainer.add(2)
        until(lambda: "probe row 3" in trainer.service.describe()["reason"], "the refusal")
        assert version_of(url) == 1
        assert trainer.service.events.counts["model_refused"] == 1


def spoilt(*arguments: Any, taken: Any = probe.taken) -> dict[str, Any]:
    """Probe answers as of another ONNX Runtime."""
    answers: dict[str, Any] = taken(*arguments)
    answers["predictions"][3] *= 1.001
    return answers


def test_sixteen_connections_notice_no_swap(made: Trainer) -> None:
    """No request fails, no connection is cut, no answer mixes versions; large and small requests alike."""
    made.add(1)
    found: list[tuple[int, Any]] = []
    done = threading.Event()
    large = json.dumps([{"size": 0.0, "kind": "a"}] * 2000).encode()

    def ask(address: tuple[str, int], body: bytes) -> None:
        with socket.create_connection(address, 30) as connection, connection.makefile("rb") as answers:
            while not done.is_set():
                connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                found.append(read(answers))

    with served(made.app, made.service) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        bodies = [large, *[b'[{}, {"size": 1.0}, {"kind": "b"}]'] * (CONNECTIONS - 1)]
        askers = [threading.Thread(target=ask, args=(address, body)) for body in bodies]
        for asker in askers:
            asker.start()
        for version in range(2, SWAPS + 2):
            made.add(version)
            until(lambda wanted=version: found[-1][1][0]["model_version"] == wanted, "the new version")  # type: ignore[misc]
        done.set()
        for asker in askers:
            asker.join()
    assert {status for status, _ in found} == {200}
    assert {len(answers) for _, answers in found} == {3, 2000}
    for _, answers in found:
        version = answers[0]["model_version"]
        assert {answer["model_version"] for answer in answers} == {version}
        assert all(abs(answer["prediction"] - 1000 * version) < 10 for answer in answers)
    assert {answers[0]["model_version"] for _, answers in found} >= set(range(2, SWAPS + 2))


def read(answers: Any) -> tuple[int, Any]:
    """Status and JSON of one answer."""
    status, length = int(answers.readline().split()[1]), 0
    while line := answers.readline().strip():
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return status, json.loads(answers.read(length))
