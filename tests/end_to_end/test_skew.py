"""What is served over HTTP is what scikit-learn says: scaler and forest of the checkpoint, on raw records.

The stream's means and deviations move all the time, so the window that the model was trained on spans
several scaler versions; missing values, unseen categories and values far outside are asked for.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import requests
from tests.tools import PATIENCE_S

from correnteza.features import OTHER
from correnteza.log.sql import SqlStore
from correnteza.trainer.registry import Registry, load_key

from .conftest import Pipeline

ROWS = 4_000
TOML = """
[schema]
target = "y"
fields = {{ a = "float", n = "integer", kind = "category", colour = "category" }}

[generator]
source = "replay"
path = "{path}"
records_per_second = inf

[normalizer]
block_rows = 64

[trainer]
params = {{ n_estimators = 20, min_samples_leaf = 2 }}
window_rows = 2500
retrain_every_rows = 4000
min_rows = 2500
"""


def test_served_answers_equal_scikit_learn(pipelines: Callable[[str, str], Pipeline], tmp_path: Path) -> None:
    """To 1e-9 relative, for every random record, alone and in an array."""
    pipeline = pipelines("skew", TOML.format(path=moving_stream(tmp_path / "moving.csv")))
    pipeline.start("generator", "normalizer", "trainer")
    pipeline.wait(lambda: (pipeline.get("trainer", "/status") or {}).get("learned_rows") == ROWS, "the end of the stream")
    pipeline.wait(lambda: pipeline.get("trainer", "/health/ready"), "the first version")
    version = pipeline.get("trainer", "/models")[-1]["version"]
    records = [random_record(random.Random(seed)) for seed in range(400)]
    served = [ask(pipeline, record) for record in records]
    together = [answer["prediction"] for answer in ask(pipeline, records)]
    assert {answer["model_version"] for answer in served} == {version}
    pipeline.stop()
    assert scaler_versions_in_the_window(pipeline, version) > 3
    expected = by_scikit_learn(pipeline, version, records)
    np.testing.assert_allclose([answer["prediction"] for answer in served], expected, rtol=1e-9)
    np.testing.assert_array_equal(together, [answer["prediction"] for answer in served])


def moving_stream(path: Path) -> Path:
    """Rows whose statistics and categories change as they go."""
    chance = random.Random(3)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["a", "n", "kind", "colour", "y"])
        for i in range(ROWS):
            a, n = chance.gauss(i / 50, 1 + i / 400), chance.randint(0, 5 + i // 100)
            kind, colour = f"k{chance.randint(0, 2 + i // 500)}", chance.choice(["red", "green", ""])
            row: list[object] = [a, n, kind, colour, 3 * a - n + len(colour)]
            if chance.random() < 0.1:
                row[chance.randint(0, 3)] = ""
            out.writerow(row)
    return path


def random_record(chance: random.Random) -> dict[str, Any]:
    """Fields present, null or absent; values within, far outside, unseen."""
    record = {
        "a": chance.choice([None, chance.gauss(40, 30), chance.gauss(0, 1e6), 1e99, -1e99, 0.0]),
        "n": chance.choice([None, chance.randint(-5, 60), 2**53]),
        "kind": chance.choice([None, "", f"k{chance.randint(0, 12)}", "never seen", "ção"]),
        "colour": chance.choice([None, "red", "green", "blue"]),
    }
    return {name: value for name, value in record.items() if chance.random() < 0.8}


def ask(pipeline: Pipeline, body: Any) -> Any:
    """The answer of POST /predict."""
    answer = requests.post(pipeline.url("trainer", "/predict"), json=body, timeout=PATIENCE_S)
    assert answer.status_code == 200, answer.text
    return answer.json()


def scaler_versions_in_the_window(pipeline: Pipeline, version: int) -> int:
    """Scaler versions among the rows that a model version was trained on."""
    first, last = pipeline.query("trainer", f"select first_offset, last_offset from models where version = {version}")[0]
    between = f"select count(distinct scaler_version) from normalized where offset between {first} and {last}"
    return int(pipeline.query("normalizer", between)[0][0])


def by_scikit_learn(pipeline: Pipeline, version: int, records: list[dict[str, Any]]) -> list[float]:
    """The fitted estimator of the checkpoint, behind its scaler and codes, in plain Python."""
    store = SqlStore(pipeline.data / "trainer.db")
    held = Registry(pipeline.data / "models", store, load_key(pipeline.data)).checkpoint(version)
    store.close()
    codes = {name: {value: code for code, value in enumerate(values, 1)} for name, values in held["codes"].items()}
    rows = np.empty((len(records), 4))
    for row, record in zip(rows, records, strict=True):
        numbers = [record.get("a"), record.get("n")]
        row[:2] = [np.nan if value is None else float(value) for value in numbers]
        texts = {name: record.get(name) for name in ("kind", "colour")}
        row[2:] = [np.nan if not text else codes[name].get(text, OTHER) for name, text in texts.items()]
    rows[:, :2] = (rows[:, :2] - held["scaler"].mean) / held["scaler"].scale
    return list(held["estimator"].predict(np.clip(rows, -1e15, 1e15)))
