"""Laws of the thread that commits what is posted."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pyarrow as pa
import pytest
from tests.tools import PATIENCE_S

from correnteza import events
from correnteza.errors import FencedError, InputError, LogError, LogUnavailableError
from correnteza.events import Event, Events
from correnteza.generator.receiver import IDEMPOTENCY, NAME, OneAtATime, Post, Receiver, digest
from correnteza.log.memory import MemoryStore
from correnteza.testing import read_all

ROWS = pa.schema([pa.field("n", pa.int64())])


class Slow(MemoryStore):
    """A store whose commits can be held up, and made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()
        self.may_go.set()
        self.at_work = threading.Event()
        self.commits = 0
        self.fails: Exception | None = None
        for name in ("raw", "outcomes", "rejected"):
            self.log(name, ROWS)
        self.log("events", events.SCHEMA)

    def commit(self, *args: Any) -> Any:
        self.at_work.set()
        assert self.may_go.wait(PATIENCE_S)
        if self.fails is not None:
            raise self.fails
        self.commits += 1
        return super().commit(*args)


def receiver_of(store: MemoryStore, keys: int = 100, turn: threading.Lock | None = None) -> Receiver:
    receiver = Receiver(store, turn or threading.Lock(), Events("generator", store.logs()["events"]), keys, batch)
    receiver.start()
    return receiver


def batch(numbers: Sequence[int]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(numbers, pa.int64())], schema=ROWS)


def post(numbers: list[int], key: str | None = None, log: str = "raw", **more: Any) -> Post:
    return Post(log, {log: batch(numbers)}, {}, key, digest(log, str(numbers).encode()), **more)


def answer(future: Future[bytes]) -> dict[str, Any]:
    return dict(json.loads(future.result(PATIENCE_S)))


def numbers(store: MemoryStore, log: str = "raw") -> list[int]:
    return [row["n"] for row in read_all(store.logs()[log])]


def test_single_records_and_batches_keep_their_order_and_their_offsets() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    futures = [receiver.submit(post([0]))]
    assert store.at_work.wait(PATIENCE_S)
    singles = [Post("raw", {}, {}, record=n) for n in (1, 2)]
    futures += [
        receiver.submit(one) for one in (*singles, post([3, 4]), Post("raw", {}, {}, record=5), post([7], log="outcomes"))
    ]
    store.may_go.set()
    offsets = [(told["accepted"], told["first_offset"]) for told in map(answer, futures)]
    assert offsets == [(1, 1), (1, 2), (1, 3), (2, 4), (1, 6), (1, 1)]
    assert (numbers(store), numbers(store, "outcomes"), store.commits) == ([0, 1, 2, 3, 4, 5], [7], 2)


def test_an_answer_names_the_offsets_of_its_rows() -> None:
    store = Slow()
    receiver = receiver_of(store)
    assert answer(receiver.submit(post([7, 8]))) == {"accepted": 2, "first_offset": 1, "last_offset": 2}
    assert answer(receiver.submit(post([9], log="outcomes"))) == {"accepted": 1, "first_offset": 1, "last_offset": 1}
    assert answer(receiver.submit(post([9]))) == {"accepted": 1, "first_offset": 3, "last_offset": 3}
    assert answer(receiver.submit(post([]))) == {"accepted": 0, "first_offset": None, "last_offset": None}
    assert (numbers(store), numbers(store, "outcomes"), receiver.posted_rows) == ([7, 8, 9], [9], 3)


def test_posts_that_wait_together_share_a_commit_and_keep_their_own_offsets() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    futures = [receiver.submit(post([0]))]
    assert store.at_work.wait(PATIENCE_S)
    futures += [receiver.submit(post([10 * i, 10 * i + 1])) for i in range(1, 50)]
    store.may_go.set()
    answers = [answer(future) for future in futures]
    assert store.commits == 2
    found = numbers(store)
    for sent, told in enumerate(answers):
        rows = found[told["first_offset"] - 1 : told["last_offset"]]
        assert rows == ([0] if sent == 0 else [10 * sent, 10 * sent + 1])


def test_nothing_is_answered_before_the_commit() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    future = receiver.submit(post([1]))
    assert store.at_work.wait(PATIENCE_S)
    assert not future.done()
    assert numbers(store) == []
    store.may_go.set()
    assert answer(future)["accepted"] == 1


def test_the_same_key_stores_once_and_answers_the_same() -> None:
    store = Slow()
    receiver = receiver_of(store)
    first = answer(receiver.submit(post([1, 2], "k")))
    answer(receiver.submit(post([3])))
    assert answer(receiver.submit(post([1, 2], "k"))) == first
    assert numbers(store) == [1, 2, 3]


def test_requests_with_the_same_key_at_the_same_time_store_once() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    futures = [receiver.submit(post([0]))]
    assert store.at_work.wait(PATIENCE_S)
    futures = [receiver.submit(post([1, 2], "k")) for _ in range(20)]
    store.may_go.set()
    assert {json.dumps(answer(future)) for future in futures} == {'{"accepted": 2, "first_offset": 2, "last_offset": 3}'}
    assert numbers(store) == [0, 1, 2]


def test_the_same_key_with_another_body_is_refused_also_in_one_group() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    receiver.submit(post([0]))
    assert store.at_work.wait(PATIENCE_S)
    good, bad, other = receiver.submit(post([1], "k")), receiver.submit(post([2], "k")), receiver.submit(post([3]))
    store.may_go.set()
    with pytest.raises(InputError, match=r"Idempotency-Key 'k' came before with another request"):
        bad.result(PATIENCE_S)
    assert [answer(future)["first_offset"] for future in (good, other)] == [2, 3]
    assert numbers(store) == [0, 1, 3]


def test_keys_are_remembered_by_the_next_process() -> None:
    store = Slow()
    old = receiver_of(store)
    first = answer(old.submit(post([1], "k")))
    old.stop()
    new = receiver_of(store)
    assert answer(new.submit(post([1], "k"))) == first
    assert numbers(store) == [1]


def test_the_latest_keys_are_remembered_before_and_after_a_restart() -> None:
    store = Slow()
    receiver = receiver_of(store, keys=2)
    for number in (1, 2, 3):
        answer(receiver.submit(post([number], f"k{number}")))
    assert answer(receiver.submit(post([2], "k2")))["first_offset"] == 2
    assert answer(receiver.submit(post([1], "k1")))["first_offset"] == 4
    receiver.stop()
    again = receiver_of(store, keys=2)
    assert answer(again.submit(post([3], "k3")))["first_offset"] == 3
    assert answer(again.submit(post([2], "k2")))["first_offset"] == 5


def test_after_a_failed_commit_everybody_is_told_and_the_same_post_may_come_again() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    receiver.submit(post([0]))
    assert store.at_work.wait(PATIENCE_S)
    futures = [receiver.submit(post([1], "k")), receiver.submit(post([2]))]
    store.fails = LogUnavailableError("the disk is full")
    store.may_go.set()
    for future in futures:
        with pytest.raises(LogUnavailableError, match="the disk is full"):
            future.result(PATIENCE_S)
    assert (numbers(store), receiver.posted_rows) == ([], 0)
    store.fails = None
    assert answer(receiver.submit(post([1], "k")))["first_offset"] == 1


def test_an_older_process_is_fenced_off() -> None:
    store = Slow()
    old = receiver_of(store)
    new = receiver_of(store)
    with pytest.raises(FencedError):
        old.submit(post([1], "k")).result(PATIENCE_S)
    assert answer(new.submit(post([2])))["first_offset"] == 1
    assert numbers(store) == [2]


def test_what_was_given_up_before_its_turn_is_not_stored() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    receiver.submit(post([0]))
    assert store.at_work.wait(PATIENCE_S)
    given_up, kept = receiver.submit(post([1])), receiver.submit(post([2]))
    assert given_up.cancel()
    store.may_go.set()
    assert answer(kept)["first_offset"] == 2
    assert numbers(store) == [0, 2]


def test_offsets_are_right_while_a_stage_appends_to_the_same_log() -> None:
    store = Slow()
    turn = threading.Lock()
    receiver, other = receiver_of(store, turn=turn), OneAtATime(store, turn)
    epoch = other.claim("source").epoch

    def stage() -> None:
        for _ in range(200):
            other.commit("source", epoch, None, b"", {"raw": batch([-1, -1])})

    thread = threading.Thread(target=stage)
    thread.start()
    answers = [answer(receiver.submit(post([n], f"k{n}"))) for n in range(100)]
    thread.join(PATIENCE_S)
    found = numbers(store)
    assert len(found) == 500
    assert [found[told["first_offset"] - 1] for told in answers] == list(range(100))


@pytest.mark.parametrize("key", [None, "k"])
def test_an_append_that_went_past_the_lock_is_told_and_not_answered_with_wrong_offsets(key: str | None) -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    future = receiver.submit(post([1], key))
    assert store.at_work.wait(PATIENCE_S)
    store.logs()["raw"].append(batch([-1]))
    store.may_go.set()
    if key is None:
        assert answer(future)["first_offset"] == 2
        return
    with pytest.raises(LogError, match="another process appended to the log as well"):  # the answer under the key is wrong
        future.result(PATIENCE_S)


def test_events_and_rejects_are_stored_with_the_rows() -> None:
    store = Slow()
    receiver = receiver_of(store)
    outputs = {"raw": batch([1]), "rejected": batch([2])}
    told = answer(receiver.submit(Post("raw", outputs, {"errors": ["x"]}, events=(Event("odd", "because"),))))
    assert told == {"accepted": 1, "first_offset": 1, "last_offset": 1, "errors": ["x"]}
    assert (numbers(store), numbers(store, "rejected"), store.commits) == ([1], [2], 1)
    assert [row["kind"] for row in read_all(store.logs()["events"])] == ["odd"]


def test_stop_commits_what_is_waiting() -> None:
    store = Slow()
    receiver = receiver_of(store)
    store.may_go.clear()
    futures = [receiver.submit(post([n])) for n in range(5)]
    assert store.at_work.wait(PATIENCE_S)
    stopping = threading.Thread(target=receiver.stop)
    stopping.start()
    store.may_go.set()
    stopping.join(PATIENCE_S)
    assert all(future.done() for future in futures)
    assert numbers(store) == list(range(5))


def test_the_idempotency_log_holds_key_digest_and_answer() -> None:
    store = Slow()
    receiver = receiver_of(store)
    answer(receiver.submit(post([1], "k")))
    (row,) = read_all(store.log("idempotency", IDEMPOTENCY))
    assert (row["key"], row["sha256"]) == ("k", digest("raw", b"[1]"))
    assert json.loads(row["answer"]) == {"accepted": 1, "first_offset": 1, "last_offset": 1}
    assert store.claim(NAME).position is None
