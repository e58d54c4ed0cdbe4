"""Rows that others post: one thread commits whatever is waiting, in one transaction.

Invariants:
- A post is answered after the commit that holds its rows; its rows are contiguous.
- An idempotency key and the answer it got are rows of the same transaction as the post's own, and one thread
  decides on all posts, so a key stores once: over restarts, and for requests that come at the same time.
- Posts of one record each become columns together, when their turn to be committed has come.
- Nothing else may append to a log while the offsets of an answer are being made out: every other
  writer goes through `OneAtATime`.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa

from correnteza.errors import InputError, LogError
from correnteza.events import Event, Events
from correnteza.flow import Flow
from correnteza.log.base import LATEST, Appended, Store
from correnteza.tracing import Tracer

NAME = "receiver"
TAKEN = frozenset({"raw", "outcomes", "rejected"})
"""The logs with what was posted."""
"""The name under which posts are committed; it has neither position nor state."""
IDEMPOTENCY_LOG = "idempotency"
IDEMPOTENCY = pa.schema([pa.field("key", pa.string()), pa.field("sha256", pa.string()), pa.field("answer", pa.string())])
"""Columns of the log of idempotency keys: what the body was, and the JSON that was answered."""
GROUP_ROWS = 100_000
"""No further post joins a transaction that has so many rows."""

_ENCODE = msgspec.json.Encoder().encode
_NOWHERE = {"first_offset": None, "last_offset": None}


@dataclass(frozen=True, slots=True)
class Post:
    """What one request wants stored.

    Args:
        log: name of the log whose offsets are answered.
        outputs: rows by name of the log; those of `log` may be none.
        answer: members of the answer beside the offsets.
        key: its idempotency key, or None.
        sha256: of what was sent, for comparison under the same key.
        events: what happened out of the ordinary.
        record: one record for `log`, as `Codec.accept` returned it, instead of `outputs`.
        trace: what the request belongs to, as a `traceparent`; empty where nothing is traced.
    """

    log: str
    outputs: Mapping[str, pa.RecordBatch]
    answer: Mapping[str, object]
    key: str | None = None
    sha256: str = ""
    events: Sequence[Event] = ()
    record: Any = None
    trace: str = ""

    @property
    def rows(self) -> int:
        """Rows in the log whose offsets are answered."""
        return int(self.outputs[self.log].num_rows) if self.record is None else 1


def digest(path: str, body: bytes) -> str:
    """What makes two requests under one key the same request: where they went, and their bytes."""
    return hashlib.sha256(path.encode() + b"\n" + body).hexdigest()


@dataclass(frozen=True, slots=True)
class _Answer:
    sha256: str
    body: bytes


class OneAtATime:
    """A store whose commits wait for a lock, for writers beside a `Receiver`.

    Args:
        store: the store; everything but `commit` goes straight to it.
        turn: the lock.
    """

    def __init__(self, store: Store, turn: threading.Lock) -> None:
        self.log, self.logs, self.bounded = store.log, store.logs, store.bounded
        self.claim, self.close = store.claim, store.close
        self._store = store
        self._turn = turn

    def commit(
        self, stage: str, epoch: int, position: str | None, state: bytes, outputs: Mapping[str, pa.RecordBatch]
    ) -> dict[str, Appended]:
        """See `Store.commit`."""
        with self._turn:
            return self._store.commit(stage, epoch, position, state, outputs)


class Receiver:
    """Commits posts.

    Args:
        store: where; its log `idempotency` is opened here, the others before.
        turn: the lock that every other writer of the store holds while it commits.
        events: where the posts' events go.
        keys: idempotency keys that are remembered.
        batch_of: makes rows of posts' records; never fails, for one that does would take all others with it.
        tracer: remembers which rows came with which request; None where nothing is traced.
    """

    def __init__(
        self,
        store: Store,
        turn: threading.Lock,
        events: Events,
        keys: int,
        batch_of: Callable[[Sequence[Any]], pa.RecordBatch],
        tracer: Tracer | None = None,
    ) -> None:
        self.posted_rows = 0
        self._tracer = tracer
        self._batch_of = batch_of
        self.flow = Flow()
        self._store = store
        self._turn = turn
        self._events = events
        self._keys = keys
        self._log = store.log(IDEMPOTENCY_LOG, IDEMPOTENCY)
        self._known: OrderedDict[str, _Answer] = OrderedDict()
        self._epoch = 0
        self._waiting: queue.SimpleQueue[tuple[Post, Future[bytes]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)

    def start(self) -> None:
        """Take over from an earlier process, remember its keys, begin to commit."""
        self._epoch = self._store.claim(NAME).epoch
        rows = self._log.read(LATEST, self._keys, back=self._keys).batch
        for key, sha256, answer in zip(*(rows.column(name).to_pylist() for name in IDEMPOTENCY.names), strict=True):
            self._known[key] = _Answer(sha256, answer.encode())
        self._thread.start()

    def stop(self) -> None:
        """Commit what is waiting, then end."""
        self._waiting.put(None)
        self._thread.join(5.0)

    def submit(self, post: Post) -> Future[bytes]:
        """Hand over a post; the result is the JSON of its answer, once it is committed.

        The future raises InputError where the key stands for another request, LogError where nothing was stored.
        """
        future: Future[bytes] = Future()
        self._waiting.put((post, future))
        return future

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            group, rows = [waiting], waiting[0].rows
            while rows < GROUP_ROWS and not self._waiting.empty():
                following = self._waiting.get()
                if following is None:
                    self._waiting.put(None)
                    break
                group.append(following)
                rows += following[0].rows
            # Whoever has gone away by now gets nothing stored; from here on nobody can.
            self._settle([(post, future) for post, future in group if future.set_running_or_notify_cancel()])

    def _settle(self, group: Sequence[tuple[Post, Future[bytes]]]) -> None:
        """Commit a group and answer it; an error is everybody's, for nothing was stored."""
        try:
            with self._turn:
                answers = self._commit([post for post, _ in group])
        except Exception as error:
            for _, future in group:
                future.set_exception(error)
            return
        for (_, future), answer in zip(group, answers, strict=True):
            if isinstance(answer, InputError):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _commit(self, posts: Sequence[Post]) -> list[bytes | InputError]:
        """Store what is new, in one transaction, and say what each post is answered."""
        stored = self._unknown(posts)
        # What is answered under a key is stored beside the rows, so it must be known before they are.
        foretold = _bodies(stored, self._ends(stored)) if any(post.key for post in stored) else None
        new = {p.key: _Answer(p.sha256, body) for p, body in zip(stored, foretold or (), strict=False) if p.key is not None}
        bodies = _bodies(stored, self._append(stored, new))
        if foretold is not None and foretold != bodies:
            raise LogError("another process appended to the log as well; run one generator on a data folder")
        plain = iter([body for post, body in zip(stored, bodies, strict=True) if post.key is None])
        answers = [next(plain) if p.key is None else _told(p, new.get(p.key) or self._known[p.key]) for p in posts]
        self._remember(new)
        return answers

    def _unknown(self, posts: Sequence[Post]) -> list[Post]:
        """The posts whose key, if any, comes for the first time."""
        keys: set[str] = set()
        found = []
        for post in posts:
            if post.key is None or not (post.key in keys or post.key in self._known):
                found.append(post)
            keys.add(post.key or "")
        return found

    def _ends(self, posts: Sequence[Post]) -> dict[str, int]:
        """The offset that the next row of each log will have."""
        return {name: self._store.logs()[name].bounds().next for name in {post.log for post in posts}}

    def _append(self, posts: Sequence[Post], new: Mapping[str, _Answer]) -> dict[str, int]:
        """Commit, and return the first offset in each log."""
        outputs = self._together(posts)
        if new:
            columns = [list(new), [a.sha256 for a in new.values()], [a.body.decode() for a in new.values()]]
            outputs[IDEMPOTENCY_LOG] = pa.RecordBatch.from_arrays(
                [pa.array(c, pa.string()) for c in columns], schema=IDEMPOTENCY
            )
        events = [event for post in posts for event in post.events]
        if events:
            outputs["events"] = self._events.rows(events)
        if not outputs:
            return {}
        began = time.perf_counter()
        appended = self._committed(posts, outputs)
        commit_s = time.perf_counter() - began
        self.flow.note({name: rows for name, rows in outputs.items() if name in TAKEN}, outputs, 0.0, commit_s)
        self.posted_rows += sum(post.rows for post in posts if post.log == "raw")
        for event in events:
            self._events.announce(event)
        return {name: rows.first for name, rows in appended.items()}

    def _committed(self, posts: Sequence[Post], outputs: Mapping[str, pa.RecordBatch]) -> dict[str, Appended]:
        if self._tracer is None:
            return self._store.commit(NAME, self._epoch, None, b"", outputs)
        with self._tracer.writing(outputs):
            appended = self._store.commit(NAME, self._epoch, None, b"", outputs)
            following = {name: rows.first for name, rows in appended.items()}
            for post in posts:
                first = following.get(post.log, 0)
                following[post.log] = first + post.rows
                self._tracer.note(post.log, first, first + post.rows - 1, post.trace)
            return appended

    def _together(self, posts: Sequence[Post]) -> dict[str, pa.RecordBatch]:
        """The rows of all posts by log, in the order of the posts."""
        parts: dict[str, list[pa.RecordBatch]] = {}
        for (log, single), some in groupby(posts, lambda post: (post.log, post.record is not None)):
            if single:
                parts.setdefault(log, []).append(self._batch_of([post.record for post in some]))
                continue
            for name, batch in (output for post in some for output in post.outputs.items() if output[1].num_rows):
                parts.setdefault(name, []).append(batch)
        return {name: pa.concat_batches(batches) if batches[1:] else batches[0] for name, batches in parts.items()}

    def _remember(self, new: Mapping[str, _Answer]) -> None:
        self._known.update(new)
        while len(self._known) > self._keys:
            self._known.popitem(last=False)


def _bodies(posts: Sequence[Post], firsts: Mapping[str, int]) -> list[bytes]:
    """The answers of posts whose rows stand one behind the other in their logs, from these offsets on."""
    following = dict(firsts)
    bodies = []
    for post in posts:
        first = following.get(post.log, 0)
        following[post.log] = first + post.rows
        offsets = {"first_offset": first, "last_offset": first + post.rows - 1}
        bodies.append(_ENCODE({"accepted": post.rows, **(offsets if post.rows else _NOWHERE), **post.answer}))
    return bodies


def _told(post: Post, known: _Answer) -> bytes | InputError:
    """What a post under a known key is answered."""
    if known.sha256 == post.sha256:
        return known.body
    return InputError(f"Idempotency-Key {post.key!r} came before with another request; use a new key for a new request")
