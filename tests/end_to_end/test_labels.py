"""Late labels in the whole system: each is joined once, and counts the answer that was given, whoever is killed."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import requests
from tests.tools import PATIENCE_S

from correnteza.client import Client

from .conftest import Pipeline

RATE, DELAY_S, HORIZON_ROWS = 200, 1.0, 50_000  # a horizon that a busy machine does not fall behind
DELAY_ROWS = int(RATE * DELAY_S)
TOML = f"""
[generator]
start_time = "2026-01-01T00:00:00Z"
records_per_second = {RATE}
label_delay_s = {DELAY_S}

[trainer]
params = {{ n_estimators = 5, min_samples_leaf = 5 }}
retrain_every_s = 0.5
label_horizon_rows = {HORIZON_ROWS}
"""
SERVICES = ("generator", "normalizer", "trainer")
SETTLED_ROWS = 1200
"""Records after the last kill: more than the delay's median is taken from."""

ANSWERED = """
select normalized_offset, model_version, prediction, lower, upper from evaluations
where target is null order by normalized_offset
"""
COUNTED = """
select normalized_offset, model_version, prediction, lower, upper from evaluations
where label_offset is not null and normalized_offset is not null order by normalized_offset
"""


def test_late_labels_are_joined_once_and_count_the_answer_that_was_given(
    pipelines: Callable[[str, str], Pipeline],
) -> None:
    """With the learner and the generator killed once each, and a label for a prediction besides those of records."""
    pipeline = pipelines("labels", TOML)
    pipeline.start(*SERVICES)
    pipeline.wait(lambda: pipeline.get("trainer", "/health/ready"), "a model")
    with Client(f"http://127.0.0.1:{pipeline.base}") as client:
        answer = client.predict({"age": 40})
        killed(pipeline)
        outcomes = [{"id": answer["id"], "target": 12_345.0}, {"id": "nobody", "target": 1.0}]
        client.post_outcomes(outcomes)
    pipeline.wait(lambda: pipeline.get("trainer", "/status")["model_version"] > 1, "a second version")
    begun = effects(pipeline)["joined"]
    pipeline.wait(lambda: effects(pipeline)["joined"] > begun + SETTLED_ROWS, "the delay to settle")
    shown = pipeline.get("trainer", "/status")["labels"]
    assert 0.2 * DELAY_S < shown["delay_median_s"] < 5.0 * DELAY_S  # a busy machine brings records and outcomes unevenly
    assert 0.0 < shown["open_share"] < 1.0
    pause(pipeline)
    last = int(pipeline.get("trainer", "/status")["learned_rows"])
    at_the_end = pipeline.get("trainer", "/status")["labels"]
    early = at_the_end["effects"].pop("early")  # on a busy machine an outcome may overtake its record
    assert early >= 1
    assert at_the_end["effects"] == {"joined": last - DELAY_ROWS + 1}
    assert (at_the_end["open"], at_the_end["waiting"]) == (DELAY_ROWS, 1)
    with Client(f"http://127.0.0.1:{pipeline.base}") as client:
        told = list(client.records("trainer", log="labels"))
    assert set(pipeline.stop().values()) == {0}, pipeline.last_words()
    assert_each_joined_once(pipeline, last - DELAY_ROWS)
    assert_told(told, answer["id"])
    given = "select model_version, prediction, target, normalized_offset from evaluations where id = '{}'"
    expected = (answer["model_version"], answer["prediction"], 12_345.0, None)
    assert pipeline.query("trainer", given.format(answer["id"])) == [expected]


def killed(pipeline: Pipeline) -> None:
    """`kill -9` of the learner, then of the generator, each while labels come, and are waited for."""
    begun = effects(pipeline).get("joined", 0)
    assert pipeline.kill_child("trainer")
    pipeline.wait(lambda: effects(pipeline).get("joined", 0) > begun + DELAY_ROWS, "the learner to join again")
    begun = effects(pipeline)["joined"]
    pipeline.kill("generator")
    pipeline.start("generator")
    pipeline.wait(lambda: effects(pipeline).get("joined", 0) > begun + DELAY_ROWS, "the generator to go on")


def effects(pipeline: Pipeline) -> dict[str, int]:
    """What became of outcomes so far, as `/status` says it."""
    found: dict[str, int] = (pipeline.get("trainer", "/status") or {}).get("labels", {}).get("effects", {})
    return found


def pause(pipeline: Pipeline) -> None:
    """Let nothing more come, and the trainer read all that is there."""
    requests.put(pipeline.url("generator", "/rate"), json={"records_per_second": 0}, timeout=PATIENCE_S).raise_for_status()

    def read() -> bool:
        logs = pipeline.get("generator", "/status")["logs"]
        records, outcomes = (logs[name]["next_offset"] - 1 for name in ("records", "outcomes"))
        counts = effects(pipeline)
        taken = counts.get("joined", 0) + 1  # besides those that are joined, one waits for nobody
        return bool(pipeline.get("trainer", "/status")["learned_rows"] == records and taken == outcomes)

    pipeline.wait(read, "the trainer to have read all")


def assert_each_joined_once(pipeline: Pipeline, older: int) -> None:
    """Each record older than the delay has one label, and, if it was answered, one evaluation: of that answer."""
    joined = pipeline.query("trainer", "select of_offset from labels where effect = 'joined' and of_offset is not null")
    assert sorted(offset for (offset,) in joined) == list(range(1, older + 1))
    answered, counted = pipeline.query("trainer", ANSWERED), pipeline.query("trainer", COUNTED)
    assert counted == [row for row in answered if row[0] <= older]
    assert len(counted) > SETTLED_ROWS
    assert len({row[1] for row in counted}) > 1
    delays_s = pipeline.query("trainer", "select delay_s from evaluations where normalized_offset is not null and delay_s > 0")
    assert 0.2 * DELAY_S < statistics.median(delay for (delay,) in delays_s) < 5.0 * DELAY_S


def assert_told(told: list[dict[str, Any]], prediction_id: str) -> None:
    """`GET /labels` says what became of the outcomes that were posted."""
    effects_of = {key: [row["effect"] for row in told if row["id"] == key] for key in (prediction_id, "nobody")}
    assert effects_of == {prediction_id: ["joined"], "nobody": ["early"]}
