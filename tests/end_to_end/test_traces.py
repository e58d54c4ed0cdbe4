"""One trace from a post to the version that learned from it, and from a question to its stored answer, over real services."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import requests
from tests.tools import PATIENCE_S

from .conftest import Pipeline
from .otlp import Receiver, context_of, receiving

TOML = """
[tracing]
endpoint = "{url}"

[schema]
target = "y"
fields = {{ x = "float" }}

[generator]
source = "none"

[trainer]
params = {{ n_estimators = 3, min_samples_leaf = 5 }}
policy = "plain"
min_rows = 20
retrain_every_rows = 40
"""
POST, ASKED, LARGE = context_of(0xA), context_of(0xB), context_of(0xE)
TWO = (context_of(0xC), context_of(0xD))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


def post(pipeline: Pipeline, rows: int, context: str) -> None:
    records = [{"x": float(i), "y": 2.0 * i} for i in range(rows)]
    answer = requests.post(
        pipeline.url("generator", "/records"), json=records, headers={"traceparent": context}, timeout=PATIENCE_S
    )
    assert answer.status_code == 201, answer.text


def test_a_trace_leads_from_the_post_to_the_version_and_from_the_question_to_the_stored_answer(
    pipelines: Callable[..., Pipeline], receiver: Receiver
) -> None:
    pipeline = pipelines("traced", TOML.format(url=receiver.url))
    pipeline.start("generator", "normalizer", "trainer")
    pipeline.wait(lambda: pipeline.lives("generator"), "the generator")
    post(pipeline, 50, POST)

    # From the post to the version: one trace, each span under the one before.
    chain = [
        ("correnteza-generator", receiver.the("POST /records")),
        ("correnteza-normalizer", receiver.the("step normalizer")),
        ("correnteza-learner", receiver.the("step learner")),
        ("correnteza-learner", receiver.the("train", **{"correnteza.model_version": 1})),
        ("correnteza-learner", receiver.the("register and promote", **{"correnteza.model_version": 1})),
    ]
    assert [span.service for _, span in chain] == [service for service, _ in chain]
    assert {span.trace_id for _, span in chain} == {POST[3:35]}
    first = chain[0][1]
    assert (first.parent_id, first.kind) == (POST[36:52], 2)
    assert first.values["http.response.status_code"] == 201
    assert (first.values["correnteza.first_offset"], first.values["correnteza.last_offset"]) == (1, 50)
    assert chain[1][1].parent_id == first.span_id
    assert chain[4][1].parent_id == chain[3][1].span_id

    # From the question to the stored answer.
    pipeline.wait(lambda: pipeline.get("trainer", "/health/ready"), "the model")
    asked = requests.post(
        pipeline.url("trainer", "/predict"), json=[{"x": 1}] * 3, headers={"traceparent": ASKED}, timeout=PATIENCE_S
    )
    assert asked.status_code == 200, asked.text
    question, stored = receiver.the("POST /predict"), receiver.the("store predictions")
    assert (question.trace_id, question.parent_id, question.service) == (ASKED[3:35], ASKED[36:52], "correnteza-trainer")
    assert (question.values["correnteza.rows"], question.values["correnteza.model_version"]) == (3, 1)
    assert (stored.trace_id, stored.parent_id) == (question.trace_id, question.span_id)

    # A large question is answered in a thread, which is in the same span.
    many = requests.post(
        pipeline.url("trainer", "/predict"), json=[{"x": 1}] * 300, headers={"traceparent": LARGE}, timeout=PATIENCE_S
    )
    assert many.status_code == 200, many.text
    large = receiver.the("POST /predict", **{"correnteza.rows": 300})
    assert receiver.the("store predictions", **{"correnteza.rows": 300}).parent_id == large.span_id
    assert large.trace_id == LARGE[3:35]

    # Two posts that the normalizer takes together.
    pipeline.kill("normalizer")
    for context in TWO:
        post(pipeline, 5, context)
    posts = [receiver.wait(lambda: by_trace(receiver, "POST /records", context), "a post") for context in TWO]  # noqa: B023
    pipeline.start("normalizer")
    merged = receiver.the("step normalizer", **{"correnteza.rows": 10})
    assert merged.links == tuple(span.context for span in posts)
    assert merged.trace_id not in {context[3:35] for context in (POST, ASKED, *TWO)}
    assert not merged.parent_id
    after = receiver.wait(lambda: by_trace(receiver, "step learner", merged.context), "the learner's step")
    assert after.parent_id == merged.span_id
    assert set(pipeline.stop().values()) == {0}, pipeline.last_words()


def by_trace(receiver: Receiver, name: str, context: str) -> object:
    return next((span for span in receiver.named(name) if span.trace_id == context[3:35]), None)
