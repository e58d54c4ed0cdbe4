"""Features are changed in the file: the old version answers, everything is made anew, the better one takes over."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from tests.tools import PATIENCE_S

from .conftest import Pipeline

ROWS = 1500
TOML = """
[schema]
target = "y"
fields = { x = "float" }

[generator]
source = "none"

[trainer]
min_rows = 100
metric_rows = 500
window_rows = 1000
"""
LAG = '[[features]]\nname = "last"\nof = "y"\nhow = "lag"\nrows = 1\n'
MEAN = '[[features]]\nname = "mean"\nof = "y"\nhow = "mean"\nrows = 3\n'


def test_the_old_version_answers_until_the_new_one_is_not_worse(pipelines: Callable[[str, str], Pipeline]) -> None:
    """The target goes its own way from record to record, so without memory it is hard to predict."""
    pipeline = pipelines("change", TOML)
    pipeline.start("generator", "normalizer", "trainer")
    pipeline.wait(lambda: pipeline.get("generator", "/health/ready"), "the generator")
    for start in range(0, ROWS, 100):
        requests.post(pipeline.url("generator", "/records"), json=walk(start, 100), timeout=PATIENCE_S).raise_for_status()
    learned(pipeline)
    old = ask(pipeline)["model_version"]
    before = pages(pipeline)

    change(pipeline, LAG)
    first = ask(pipeline)
    assert first["model_version"] == old, "the version of the first lineage answers at once"
    pipeline.wait(lambda: status(pipeline, "trainer").get("lineage") == {"number": 2, "took_over": True}, "the new lineage")
    learned(pipeline)
    assert status(pipeline, "normalizer")["lineage"] == {"number": 2, "backfill": 1.0}
    assert ask(pipeline)["model_version"] > old, "versions count on"
    after = pages(pipeline)
    assert [row["raw_offset"] for row in after] == [row["raw_offset"] for row in before]
    kinds = {row["kind"] for name in ("normalizer", "trainer") for row in pipeline.get(name, "/events")["records"]}
    assert {"lineage_began", "lineage_took_over"} <= kinds

    newest = ask(pipeline)["model_version"]
    change(pipeline, MEAN)
    answer = ask(pipeline)
    assert answer["model_version"] >= newest, "that of the lineage with a memory, which is asked with its own features"
    pipeline.wait(lambda: status(pipeline, "trainer")["lineage"]["number"] == 3, "a third lineage")

    change(pipeline, LAG)
    assert status(pipeline, "trainer")["lineage"] == {"number": 2, "took_over": True}, "definitions that come back go on"


def walk(start: int, rows: int) -> list[dict[str, Any]]:
    """Records whose target is a random walk."""
    chance = random.Random(1)
    level, made = 0.0, []
    for number in range(start + rows):
        level += chance.gauss(0, 1)
        made.append({"id": f"r{number}", "x": chance.gauss(0, 1), "y": level})
    return made[start:]


def change(pipeline: Pipeline, features: str) -> None:
    """Stop, put other features into the file, start, and wait until something answers."""
    pipeline.stop()
    path = Path(pipeline.folder) / "correnteza.toml"
    text = path.read_text(encoding="utf-8").partition("[[features]]")[0]
    path.write_text(text + features, encoding="utf-8")
    pipeline.start("generator", "normalizer", "trainer")
    pipeline.wait(lambda: pipeline.get("trainer", "/health/ready"), "an answering version")


def learned(pipeline: Pipeline) -> None:
    pipeline.wait(lambda: status(pipeline, "trainer").get("learned_rows") == ROWS, "the end of the stream")
    pipeline.wait(lambda: pipeline.get("trainer", "/health/ready"), "a version")


def status(pipeline: Pipeline, name: str) -> dict[str, Any]:
    return pipeline.get(name, "/status") or {}


def ask(pipeline: Pipeline) -> dict[str, Any]:
    answer = requests.post(pipeline.url("trainer", "/predict"), data=json.dumps({"x": 0.5}), timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def pages(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The rows of `normalized`."""
    found: list[dict[str, Any]] = pipeline.get("normalizer", "/records?limit=100000")["records"]
    return found
