"""What is learned, when, and how it comes into service: everything between two steps of the learner's stage.

    normalized --> [Upstream] --> [LearnerStage] --> evaluations          (Runner, one commit per batch)
                                       | committed rows
                                       v
                    [Window] --> plan --> TrainingProcess --> Registry --> models: a challenger
                                                                              | a test beside the champion
                                                                              v
                                                             promotions, or a refusal; perhaps a rollback

Invariants:
- A row enters the window only after its evaluation is committed, so a version never meets it before.
- A version's row, what was decided about it and the note that its training is done are one commit. A process
  killed before that commit trains again, and gets the same number, recipe and rows.
- With a trigger by rows the reader waits for the training, and versions are judged at fixed rows, so the same
  log gives the same versions and evaluations row by row.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import pyarrow as pa

from correnteza import config
from correnteza.errors import ConfigError, LogUnavailableError, TrainingFailedError
from correnteza.events import Event, Events
from correnteza.log.base import Store
from correnteza.metrics import SECONDS_LONG, Histogram
from correnteza.records import Schema
from correnteza.tracing import Tracer
from correnteza.trainer import evaluation, forest, judging, labels, lineage, plan, prequential
from correnteza.trainer.books import Books
from correnteza.trainer.champion import Follower
from correnteza.trainer.foresight import Coming, Foresight
from correnteza.trainer.handover import REQUESTS, TRAININGS
from correnteza.trainer.jobs import Jobs, Memory, UnderWay, Wish
from correnteza.trainer.lineage import Ancestor
from correnteza.trainer.prequential import LearnerStage
from correnteza.trainer.process import Training
from correnteza.trainer.promotions import PROMOTIONS
from correnteza.trainer.recipe import Recipe
from correnteza.trainer.registry import Registry
from correnteza.trainer.rolling import Rolling
from correnteza.trainer.served import Served
from correnteza.trainer.state import State, drift_of
from correnteza.trainer.totals import Totals
from correnteza.trainer.tracks import Tracks
from correnteza.trainer.training import Trained
from correnteza.trainer.triggers import Due, Triggers
from correnteza.trainer.upstream import Upstream
from correnteza.trainer.window import Window

T = TypeVar("T")
SETTLE_S = 0.1
"""Seconds in which a reader that waits for a training notices that it is to stop."""
PAUSE_S = 0.2


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
        tracer: makes spans of trainings and versions; None where nothing is traced.
        past: reads again what was read before a position, where the source is more than the log `normalized`.

    Attributes:
        window: the labelled rows that are learned from.
        failure: why the last training failed, or what is waited for; empty if nothing is wrong.
        drift: what is known of drift, as plain values.
        trainings: seconds that trainings took, by how they ended.
        totals: errors since the stream began.
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
        past: Callable[[str, int], Iterator[pa.RecordBatch]] | None = None,
        coming: Coming | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.stage = LearnerStage(
            schema,
            upstream.features,
            evaluate_every=settings.evaluate_every,
            level=settings.level,
            margin=settings.margin,
            alpha=settings.alpha,
            horizon_rows=settings.label_horizon_rows,
        )
        self._adaptive = lineage.adaptive(settings)
        windows = lineage.WINDOWS if self._adaptive else 1
        self.window = Window(windows * settings.window_rows, schema.features)
        self.failure = ""
        self.drift: dict[str, Any] = {}
        self.trainings = {outcome: Histogram(SECONDS_LONG) for outcome in TRAININGS}
        self.totals = Totals()
        self._past = past
        self._settings = settings
        self._schema = schema
        self._store = store
        self._registry = registry
        self._upstream = upstream
        self._training = training
        self._events = events
        self._stopping = stopping
        self._clock = clock
        self._evaluations = store.log(prequential.LOG, evaluation.EVALUATIONS)
        self._rolling = Rolling(self._evaluations, settings.metric_rows, settings.label_horizon_rows)
        self._triggers = Triggers(settings, store.log("requests", REQUESTS), clock)
        self._labels = store.log(labels.LOG, labels.LABELS)
        self._tracks = Tracks(tracer)
        self._books = Books(store, registry, events, self._tracks)
        self._jobs = Jobs(settings, schema, registry, upstream)
        self._foresight = None if coming is None else Foresight(coming, self._jobs, training)
        self._follower = Follower(schema, registry, store.log("promotions", PROMOTIONS, bounded=False), events)
        self._ancestor: Ancestor | None = None
        self._remembered: deque[int] = deque(maxlen=forest.GENERATIONS)  # versions whose parts the training process has
        self._learned = 0
        self._labelled = 0
        self._under_way: UnderWay | None = None

    @property
    def learned_rows(self) -> int:
        """Offset of the last row of `normalized` that was evaluated, committed and learned from."""
        return self._learned

    @property
    def labelled_rows(self) -> int:
        """Labelled rows since the stream began, as of the last commit."""
        return self._labelled

    @property
    def challenger(self) -> int | None:
        """The version in shadow, or None."""
        return None if self.stage.challenger is None else self.stage.challenger.version

    @property
    def request_wait_s(self) -> float:
        """Seconds until somebody who asks for a training gets one at the earliest, but for the one under way."""
        return self._triggers.request_wait_s()

    @property
    def training(self) -> bool:
        """Whether a training is under way."""
        return self._under_way is not None

    def restore(self) -> None:
        """Become the only learner, and take up what the last one left: window, versions, a due training."""
        self._patiently(self._restore)

    def limit(self, state: State) -> int:
        """Most rows of the next batch, so that it ends where a training by rows is due, or a version is judged."""
        return self._triggers.limit(state.rows, self._books.progress)

    def between(self, state: State) -> None:
        """Learn from what was committed, judge versions, end and begin trainings, take up promotions."""
        self._tracks.stepped()
        self._patiently(lambda: self._look_around(state))
        while self._triggers.schedule.waits and self._under_way is not None and not self._stopping.is_set():
            self._training.settle(SETTLE_S)
            self._patiently(self._conclude)
        self._patiently(self._follow)

    def _restore(self) -> None:
        self._books.claim()  # before `recover`, which must not meet a version on its way to a commit
        claim = self._store.claim(prequential.NAME)
        for name in self._registry.recover():
            self._events.emit("model_removed", f"{name} was left by a process that ended before registering it", name=name)
        anew = self._books.progress.anew
        self._ancestor = None if anew else lineage.newest(self._registry, self._settings, self._schema)
        if claim.state is None or claim.position is None:
            return
        state = self.stage.load(claim.state)
        self.window = self._window(claim.position, state)
        horizon = self._settings.label_horizon_rows
        last = evaluation.rows_since(self._evaluations, state.offset - horizon, horizon)
        self.stage.opened.restore(last)
        self.stage.counted.restore(last)
        self._labelled, self._learned = state.rows, state.offset
        if len(self.window) < min(state.rows, self._settings.window_rows):
            reason = f"the normalizer keeps only {len(self.window)} of the labelled rows that the window had"
            self._events.emit("window_short", reason, rows=len(self.window))
        self._follow()
        self._take_up_watched()
        self._take_up_challenger()
        self.between(state)

    def _window(self, position: str, state: State) -> Window:
        """The window as it was at a position, read back."""
        if self._past is None:
            return self._upstream.window(self.window.capacity, position, state.offset, state.rows)
        past = self._past
        return self._upstream.window_of(self.window.capacity, state.rows, lambda rows: past(position, rows))

    def _take_up_watched(self) -> None:
        """Go on comparing the version in service with the one that it replaced."""
        before = self._books.replaced() if self._tested() else None
        loaded = None if before is None else self._follower.load(before, datetime.now(UTC))
        self.stage.parent = None if loaded is None else Served(loaded, self._upstream)

    def _take_up_challenger(self) -> None:
        """Go on testing the version that was in shadow when the process ended."""
        last = next(reversed(self._registry.versions()), None)
        if last is not None and last.version not in self._registry.decisions() and self.stage.scorer is not None:
            self._shadow(last.version)

    def _look_around(self, state: State) -> None:
        self.drift, self.totals = drift_of(state), state.totals
        if state.rows > self._labelled and state.fresh is not None:  # outcomes alone do not move the offset
            self._upstream.learn(self.window, state.fresh)
        self._labelled, self._learned = state.rows, state.offset
        self._conclude()
        self._follow()
        if self._triggers.judged(state.rows):
            self._judge(state)
        self._consider(state)

    def _follow(self) -> None:
        """Take up what was promoted, by ourselves or by hand."""
        if self._follower.look() and self._follower.champion is not None:
            served = Served(self._follower.champion, self._upstream)
            current = self._registry.current()
            watched = current is not None and not current.pinned and self._tested()
            before = self.stage.scorer
            self.stage.parent = before if watched and before is not None and before.version < served.version else None
            self.stage.scorer = served
            if self.stage.challenger is not None and self.stage.challenger.version <= served.version:
                self.stage.challenger = None

    def _tested(self) -> bool:
        return self._settings.promotion == "tested"

    def _judge(self, state: State) -> None:
        """Promote or refuse the challenger, or put the champion's parent back, if that is settled."""
        champion, challenger, parent = self.stage.scorer, self.stage.challenger, self.stage.parent
        if champion is None or self._books.pinned() is not None:
            return
        if challenger is not None:
            ruling = judging.ruling(state.trial, challenger.version, champion.version)
            if ruling is not None:
                self._books.decide(challenger.version, champion.version, ruling)
                self.stage.challenger = None
                self._go_on_from(None if ruling.promoted else champion.version)
        elif parent is not None and self._under_way is None:
            back = judging.rolled_back(state.watch, champion.version, parent.version)
            if back is not None:
                self._books.roll_back(champion.version, parent.version, back)
                self._go_on_from(parent.version)

    def _go_on_from(self, version: int | None) -> None:
        """Take up a promotion; and let the next version be made from another one than the newest, if it is given."""
        if version is not None:
            self._ancestor = lineage.of(self._registry, version, self._settings, self._schema)
        self._follow()

    def _consider(self, state: State) -> None:
        """Begin a training if one is due or asked for."""
        if self._under_way is not None:
            return
        free = self.stage.challenger is None or self._books.pinned() is not None
        due = self._triggers.due(state, self._books.progress, self._follower.seen == 1, free)
        if due is None:
            return
        if len(self.window) >= self._settings.min_rows:
            self._begin(state, due)
        elif due.asked:
            reason = f"the window holds {len(self.window)} labelled rows; trainer.min_rows = {self._settings.min_rows}"
            progress = replace(self._books.progress, requested=due.progress.requested)
            self._books.commit({}, [Event("training_refused", reason)], progress)

    def _begin(self, state: State, due: Due) -> None:
        champion = self._follower.champion
        parent, labelled = None if champion is None else champion.version, self._labels.bounds().next - 1
        wish = Wish(self._registry.next_version(), parent, due.reason, labelled, due.changed)
        ancestor, progress = self._ancestor, replace(due.progress, anew=False)
        if self.stage.challenger is not None and champion is not None:  # whose end is open: it may have no descendants
            ancestor = lineage.of(self._registry, champion.version, self._settings, self._schema)
        if self._training.fresh:
            self._remembered.clear()
        memory = Memory(self._remembered, self._training.fresh)
        job, meta = self._jobs.make(wish, state, self.window, ancestor, memory)
        if job.warm and ancestor is not None:
            self._remembered.append(ancestor.version)
        if job.recipe is not None:
            progress = replace(progress, worth=plan.due_rows(job.recipe, state.drag))
        self._training.start(job)
        self._tracks.began(wish.version, len(job.targets), due.reason)
        young = meta.rows if job.recipe is None else job.recipe.youngest_rows
        self._under_way = UnderWay(wish.version, meta, progress, self._clock(), due.changed is not None, young)
        self._triggers.started(due)
        if self._foresight is not None and job.recipe is not None:
            self._foresight.look(state, self.window, job.recipe, self._triggers.left(state.rows, progress))
        self._rolling.look()  # now, beside the training, so that there is less to read when it has ended

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

    def _fail(self, under_way: UnderWay, reason: str) -> None:
        self.failure = reason
        self._ancestor = None  # what the training process remembers is in doubt
        event = Event("training_failed", reason, {"version": under_way.version})
        self._patiently(lambda: self._books.commit({}, [event], replace(under_way.progress, anew=True)))
        self._end(under_way, "failed")

    def _take(self, under_way: UnderWay, trained: Trained) -> None:
        if self._books.pinned() is None:  # else it does not come into service
            self._follower.foresee(trained.onnx)
        challenger = self.stage.challenger
        metrics = evaluation.metrics(self._rolling.look())
        meta = replace(under_way.meta, evaluation={} if metrics is None else asdict(metrics))
        ruling = judging.at_once(self._follower.seen == 1, under_way.drift, under_way.young_rows, self._tested())
        shadow = None if challenger is None else challenger.version
        try:
            outcome = self._patiently(
                lambda: self._books.register(under_way.version, trained, meta, ruling, shadow, under_way.progress)
            )
        except OSError as error:
            self._fail(under_way, f"the version could not be written: {error}")
            return
        if outcome is None:
            return  # the process is to end; the training is due again at the next start
        self.failure, self.stage.challenger = "", None
        self._end(under_way, "trained")
        if outcome == "shadow":
            self._shadow(under_way.version)
        self._remembered.append(under_way.version)
        if meta.recipe is not None:
            self._ancestor = Ancestor(under_way.version, Recipe.of(meta.recipe))
        self._registry.prune(self._settings.keep_versions, self._settings.keep_older)

    def _shadow(self, version: int) -> None:
        """Let a version answer beside the champion."""
        loaded = self._follower.load(version, datetime.now(UTC))
        self.stage.challenger = None if loaded is None else Served(loaded, self._upstream)

    def _end(self, under_way: UnderWay, outcome: str) -> None:
        self._under_way = None
        self._tracks.ended(outcome, self.failure)
        self.trainings[outcome].note(self._clock() - under_way.started_at)
        self._triggers.schedule.ended(outcome == "failed")

    def _patiently(self, call: Callable[[], T]) -> T | None:
        """The call's answer; tried again while a log cannot answer; None when the process is to end."""
        while True:
            try:
                return call()
            except LogUnavailableError as error:
                self.failure = str(error)
                if self._stopping.wait(PAUSE_S):
                    return None
