"""What is learned, when, and how it comes into service: everything between two steps of the learner's stage.

    normalized --> [Upstream] --> [LearnerStage] --> evaluations          (Runner, one commit per batch)
                                       | committed rows
                                       v
                                   [Window] --> TrainingProcess --> Registry --> models, promotions

Invariants:
- A row enters the window only after its evaluation is committed, so a version never meets it before.
- A version's row and its promotion are one commit, together with the note that its training is done.
  A process killed before that commit trains again, and gets the same number, seed and rows.
- With a trigger by rows the reader waits for the training, so the same log gives the same versions
  and evaluations row by row.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from correnteza import config
from correnteza.errors import ConfigError, LogUnavailableError, TrainingFailedError
from correnteza.events import Event, Events
from correnteza.features import Floats, Scaler
from correnteza.log.base import Appended, Store
from correnteza.records import Schema
from correnteza.trainer import evaluation, prequential
from correnteza.trainer.champion import Champion, Follower
from correnteza.trainer.handover import REQUESTS
from correnteza.trainer.prequential import LearnerStage, State
from correnteza.trainer.registry import MODELS, PROMOTIONS, Meta, Registry, model_rows, promotion_rows
from correnteza.trainer.schedule import RowsSchedule, Schedule, SecondsSchedule
from correnteza.trainer.training import Job, Trained
from correnteza.trainer.upstream import Upstream
from correnteza.trainer.window import Expressed, Window

NAME = "registry"
"""The stage under which versions are committed, beside the learner's own."""
T = TypeVar("T")
POLL_S = 0.01
PAUSE_S = 0.2


class Training(Protocol):
    """What runs one training at a time, as `training.TrainingProcess` does."""

    def start(self, job: Job) -> None:
        """Begin a training and return at once."""

    def poll(self) -> Trained | None:
        """The outcome if it is there."""

    def kill(self, reason: str) -> None:
        """End the training under way."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What was done about trainings, saved with each attempt.

    Args:
        attempted: labelled rows at the last attempt.
        requested: offset of the last request that was met or refused.
    """

    attempted: int = 0
    requested: int = 0


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A training that was started: what it will be registered as, the progress that it makes, when it began."""

    version: int
    meta: Meta
    progress: Progress
    started_at: float


@dataclass(frozen=True, slots=True)
class Served:
    """The version in service as the learner's stage uses it: exactly the model that answers requests."""

    champion: Champion
    upstream: Upstream

    @property
    def version(self) -> int:
        """Its number."""
        return self.champion.version

    def predict(self, rows: pa.RecordBatch) -> Floats:
        """See `prequential.Scorer.predict`."""
        return self.champion.predictor.predict(*self.upstream.raw(rows))


class Learner:
    """What happens between two steps of the learner's stage. For the runner's thread.

    Args:
        settings: the section `[trainer]`.
        schema: of the records.
        store: the trainer's store.
        registry: the model versions.
        upstream: the normalizer's logs.
        training: runs the trainings.
        events: where events go.
        stopping: set when the process is to end.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        settings: config.Trainer,
        schema: Schema,
        store: Store,
        registry: Registry,
        upstream: Upstream,
        training: Training,
        events: Events,
        stopping: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage = LearnerStage(
            schema, evaluate_every=settings.evaluate_every, level=settings.level, metric_rows=settings.metric_rows
        )
        self.window = Window(settings.window_rows, schema.features)
        self.failure = ""
        self._settings = settings
        self._schema = schema
        self._store = store
        self._registry = registry
        self._upstream = upstream
        self._training = training
        self._events = events
        self._stopping = stopping
        self._clock = clock
        self._schedule = _schedule(settings, clock)
        self._evaluations = store.log(prequential.LOG, evaluation.EVALUATIONS)
        self._models = store.log("models", MODELS, bounded=False)
        self._promotions = store.log("promotions", PROMOTIONS, bounded=False)
        self._requests = store.log("requests", REQUESTS)
        self._follower = Follower(schema, registry, self._promotions, events)
        self._learned = 0
        self._labelled = 0
        self._under_way: _UnderWay | None = None
        self._epoch = 0
        self._progress = Progress()

    @property
    def learned_rows(self) -> int:
        """Offset of the last row of `normalized` that was evaluated, committed and learned from."""
        return self._learned

    @property
    def labelled_rows(self) -> int:
        """Labelled rows since the stream began, as of the last commit."""
        return self._labelled

    @property
    def training(self) -> bool:
        """Whether a training is under way."""
        return self._under_way is not None

    def restore(self) -> None:
        """Become the only learner, and take up what the last one left: errors, window, version, a due training."""
        self._patiently(self._restore)

    def limit(self, state: State) -> int:
        """Most rows of the next batch, so that it ends where a training by rows is due."""
        return self._schedule.rows_left(state.rows) or self._settings.batch_rows

    def between(self, state: State) -> None:
        """Learn from what was committed, end and begin trainings, take up promotions."""
        self._patiently(lambda: self._look_around(state))
        while self._schedule.waits and self._under_way is not None and not self._stopping.wait(POLL_S):
            self._patiently(self._conclude)
        self._patiently(self._follow)

    def _restore(self) -> None:
        registered = self._store.claim(NAME)  # before `recover`, which must not meet a version on its way to a commit
        self._epoch = registered.epoch
        self._progress = Progress(**json.loads(registered.state)) if registered.state else Progress()
        claim = self._store.claim(prequential.NAME)
        for name in self._registry.recover():
            self._events.emit("model_removed", f"{name} was left by a process that ended before registering it", name=name)
        if claim.state is None or claim.position is None:
            return
        self.stage.errors = evaluation.residuals(self._last_rows())
        state = self.stage.load(claim.state)
        self.window = self._upstream.window(self._settings.window_rows, claim.position, state.offset, state.rows)
        self._learned = state.offset
        if len(self.window) < min(state.rows, self._settings.window_rows):
            reason = f"the normalizer keeps only {len(self.window)} of the labelled rows that the window had"
            self._events.emit("window_short", reason, rows=len(self.window))
        self.between(state)

    def _look_around(self, state: State) -> None:
        self._labelled = state.rows
        if state.offset > self._learned and state.fresh is not None:
            self._upstream.learn(self.window, state.fresh)
            self._learned = state.offset
        self._conclude()
        self._follow()
        self._consider(state)

    def _follow(self) -> None:
        if self._follower.look() and self._follower.champion is not None:
            self.stage.scorer = Served(self._follower.champion, self._upstream)

    def _consider(self, state: State) -> None:
        """Begin a training if one is due or asked for."""
        if self._under_way is not None:
            return
        progress = Progress(state.rows, self._requests.bounds().next - 1)
        asked = progress.requested > self._progress.requested
        if len(self.window) < self._settings.min_rows:
            if asked:
                reason = f"the window holds {len(self.window)} labelled rows; trainer.min_rows = {self._settings.min_rows}"
                self._commit({}, [Event("training_refused", reason)], replace(self._progress, requested=progress.requested))
            return
        if asked or self._schedule.due(state.rows, self._progress.attempted):
            self._begin(progress, "asked for" if asked else self._why(state))

    def _why(self, state: State) -> str:
        if self._follower.seen == 1:
            return f"the first {state.rows} labelled rows are there"
        if self._schedule.waits:
            return f"{state.rows - self._progress.attempted} labelled rows since the last training"
        return f"{self._settings.retrain_every_s:g} s since the last training"

    def _begin(self, progress: Progress, reason: str) -> None:
        expressed = self.window.expressed(self._upstream.scalers, len(self._schema.numeric))
        version = self._registry.next_version()
        self._training.start(self._job(version, expressed))
        self._under_way = _UnderWay(version, self._meta(expressed, reason), progress, self._clock())
        self._schedule.started()

    def _job(self, version: int, expressed: Expressed) -> Job:
        return Job(
            version=version,
            estimator=self._settings.estimator,
            params=self._settings.params,
            seed=self._settings.seed,
            features=expressed.features,
            targets=expressed.targets,
            scaler=self._upstream.scalers.versions.get(expressed.version, Scaler(1, np.zeros(0), np.ones(0))),
            codes=self._upstream.codes(expressed.last_raw_offset),
            schema=self._schema,
        )

    def _meta(self, expressed: Expressed, reason: str) -> Meta:
        champion = self._follower.champion
        return Meta(
            parent=None if champion is None else champion.version,
            created_at=datetime.now(UTC),
            reason=reason,
            decision="",
            estimator=self._settings.estimator,
            params=self._settings.params,
            seed=self._settings.seed,
            rows=len(expressed.targets),
            first_offset=expressed.first_offset,
            last_offset=expressed.last_offset,
            scaler_version=expressed.version,
            schema_sha256=self._schema.fingerprint,
            evaluation={},
        )

    def _conclude(self) -> None:
        """Register the training under way if it has ended, or end it if it takes too long."""
        if self._under_way is None:
            return
        try:
            trained = self._training.poll()
        except (TrainingFailedError, ConfigError) as error:
            self._fail(self._under_way, str(error))
            return
        if trained is not None:
            self._take(self._under_way, trained)
        elif self._clock() - self._under_way.started_at > self._settings.train_timeout_s:
            self._training.kill(
                f"it took longer than trainer.train_timeout_s = {self._settings.train_timeout_s:g}; "
                "raise that, or lower trainer.window_rows or trainer.params"
            )

    def _fail(self, under_way: _UnderWay, reason: str) -> None:
        self.failure = reason
        event = Event("training_failed", reason, {"version": under_way.version})
        self._patiently(lambda: self._commit({}, [event], under_way.progress))
        self._end(failed=True)

    def _take(self, under_way: _UnderWay, trained: Trained) -> None:
        try:
            registered = self._patiently(lambda: self._register(under_way, trained))
        except OSError as error:
            self._fail(under_way, f"the version could not be written: {error}")
            return
        if registered is None:
            return  # the process is to end; the training is due again at the next start
        seen, appended = registered
        self.failure = ""
        self._end(failed=False)
        if "promotions" in appended:
            self._patiently(lambda: self._keep_pin(seen, appended["promotions"].first))
        self._registry.prune(self._settings.keep_versions)

    def _register(self, under_way: _UnderWay, trained: Trained) -> tuple[int, dict[str, Appended]]:
        """Write the version, and commit its row together with its promotion.

        Returns:
            The offset that the next promotion had when it was looked up whether a version is pinned, and what was appended.
        """
        seen = self._promotions.bounds().next
        version, current = under_way.version, self._registry.current()
        pinned = current is not None and current.pinned
        decision = f"not promoted: version {current.version} is pinned" if current and pinned else "the newest version"
        metrics = evaluation.report(self._last_rows(), self._settings.level).overall
        meta = replace(under_way.meta, decision=decision, evaluation={} if metrics is None else asdict(metrics))
        outputs = {"models": model_rows(self._registry.write(version, trained, meta))}
        if not pinned:
            outputs["promotions"] = promotion_rows(version, datetime.now(UTC), decision)
        events = [Event("model_not_promoted" if pinned else "model_version", decision, {"version": version})]
        events += [Event("training_warned", text, {"version": version}) for text in trained.warnings]
        return seen, self._commit(outputs, events, under_way.progress)

    def _keep_pin(self, seen: int, promoted: int) -> None:
        """Put a version back that somebody pinned while the promotion at offset `promoted` was on its way."""
        if promoted > seen:
            last = self._promotions.read(self._promotions.cursor(promoted - 2), 1).batch
            if last["pinned"][0].as_py():
                self._registry.promote(last["version"][0].as_py(), "pinned while a newer version was on its way", pinned=True)

    def _last_rows(self) -> pa.RecordBatch:
        return evaluation.last_rows(self._evaluations, self._settings.metric_rows)

    def _end(self, failed: bool) -> None:
        self._under_way = None
        self._schedule.ended(failed)

    def _commit(self, outputs: dict[str, pa.RecordBatch], events: Sequence[Event], progress: Progress) -> dict[str, Appended]:
        blob = json.dumps(asdict(progress), sort_keys=True).encode()
        appended = self._store.commit(NAME, self._epoch, None, blob, {**outputs, "events": self._events.rows(events)})
        self._progress = progress
        for event in events:
            self._events.announce(event)
        return appended

    def _patiently(self, call: Callable[[], T]) -> T | None:
        """The call's answer; tried again while a log cannot answer; None when the process is to end."""
        while True:
            try:
                return call()
            except LogUnavailableError as error:
                self.failure = str(error)
                if self._stopping.wait(PAUSE_S):
                    return None


def _schedule(settings: config.Trainer, clock: Callable[[], float]) -> Schedule:
    if settings.retrain_every_rows is not None:
        return RowsSchedule(settings.min_rows, settings.retrain_every_rows)
    return SecondsSchedule(settings.retrain_every_s or 0.0, clock)
