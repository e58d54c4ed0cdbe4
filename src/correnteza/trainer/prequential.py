"""The learner's stage: every labelled row is predicted by the version in service before it may be learned from.

    row --> champion ----> evaluations, intervals, drift of the error     (when its target is known)
        --> challenger --> is it worse than the champion?       (shadow; nobody sees its answers)
        --> parent ------> was it better than the champion?     (until that is settled)

Invariants:
- A row is predicted by versions that were trained on rows before it, never on it or on later ones.
- Outputs and state do not depend on how the stream is cut into batches: sums are added in the order of
  the rows, and whatever changes in between changes after fixed numbers of rows.
- The state that is written down is small; what was answered to records whose outcome is still to come is read
  back from the log `evaluations`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from correnteza.events import Event
from correnteza.features import Floats, Ints
from correnteza.records import OFFSET, Schema, kept
from correnteza.stage import Step
from correnteza.trainer import drift, labels, scores
from correnteza.trainer.conformal import Conformal
from correnteza.trainer.duel import Duel
from correnteza.trainer.evaluation import EVALUATIONS
from correnteza.trainer.linear import LOCAL_ROWS
from correnteza.trainer.opened import Bools, Counted, Given, Opened, evaluation_rows
from correnteza.trainer.predictor import Answers
from correnteza.trainer.scores import Score
from correnteza.trainer.state import Change, State, Trial, dump, load

NAME = "learner"
LOG = "evaluations"
WATCH_ROWS = 2000
"""Rows over which a new champion is compared with its parent."""

MOVED = {
    "value": "its mean went from",
    "missing": "the share of missing values went from",
    "category": "the distance of its shares from those before went from",
}


class Scorer(Protocol):
    """A model version as the learner uses it: it predicts normalized rows."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def experts(self) -> tuple[int, ...]:
        """Ids of what its predictions are mixed from."""

    def answers(self, rows: pa.RecordBatch) -> Answers:
        """Predictions for rows of the log `normalized`, in the target's unit.

        A row's prediction does not depend on the other rows of the batch, bit for bit.
        """


@dataclass(frozen=True, slots=True)
class _Scored:
    """Labelled rows that are scored now, and what is known of each before its target is.

    Args:
        rows: of `normalized`, perhaps with the ledger's columns.
        numbers: which labelled row each is, shape [rows].
        baseline: mean of all targets before, NaN where there is none, shape [rows].
        last: target before, NaN where there is none, shape [rows].
        counted: which were answered when they arrived, so that their error counts; others are only tested on, shape [rows].
        before: how many of the counted ones were scored before each of them was answered, shape [counted rows].
    """

    rows: pa.RecordBatch
    numbers: Ints
    baseline: Floats
    last: Floats
    counted: Bools
    before: Ints


class LearnerStage:
    """Scores rows of `normalized` and writes `evaluations`.

    Args:
        schema: of the records.
        features: gives the features of rows in their own units, shape [rows, features], NaN is missing.
        evaluate_every: of every so many rows one is scored, by its offset.
        level: of the prediction intervals, between 0 and 1.
        margin: by how much a challenger may be worse, as a share of the champion's error.
        alpha: how often a test may err.
        horizon_rows: answers that are remembered until their outcome comes.

    Attributes:
        scorer: the version in service; None before the first. These three are changed between steps only.
        challenger: the version in shadow, or None.
        parent: the one that the champion replaced, as long as it may come back, or None.
        opened: what was answered to records whose outcome is still to come; read back from `evaluations` at a restart.
        counted: what was counted of outcomes that may still be corrected; read back likewise.
    """

    name = NAME
    outputs = {LOG: EVALUATIONS, labels.LOG: labels.LABELS}  # noqa: RUF012 - never changed; the shape of every stage

    def __init__(
        self,
        schema: Schema,
        features: Callable[[pa.RecordBatch], Floats],
        *,
        evaluate_every: int = 1,
        level: float = 0.9,
        margin: float = 0.02,
        alpha: float = 0.05,
        horizon_rows: int = 100_000,
    ) -> None:
        self.scorer: Scorer | None = None
        self.challenger: Scorer | None = None
        self.parent: Scorer | None = None
        self.opened = Opened(horizon_rows)
        self.counted = Counted(horizon_rows)
        self._schema = schema
        self._features = features
        self._evaluate_every = evaluate_every
        self._level = level
        self._duel = Duel(margin=margin, alpha=alpha)

    def initial(self) -> State:
        """See `Stage.initial`."""
        schema = self._schema
        return State(
            Conformal(self._level),
            drift.Monitor.of_errors(),
            drift.Monitors.start(schema.features, schema.categories),
            drift.Monitor(),
        )

    def dump(self, state: State) -> bytes:
        """See `Stage.dump`."""
        return dump(state)

    def load(self, blob: bytes) -> State:
        """See `Stage.load`."""
        return load(blob)

    def step(self, state: State, batch: pa.RecordBatch) -> Step[State]:
        """See `Stage.step`."""
        arrived, learned = labels.sorts_of(batch, self._schema.target)
        fresh = kept(batch, learned)
        targets = fresh[self._schema.target].to_numpy()
        with np.errstate(over="ignore"):
            sums = np.cumsum(np.concatenate([[state.target_sum], targets]))  # in the order of the rows, unlike np.sum
        numbers = state.rows + 1 + np.arange(len(targets))
        baseline = np.divide(sums[:-1], numbers - 1, out=np.full(len(targets), np.nan), where=numbers > 1)
        last = np.concatenate([[state.last_target], targets])
        asked = _asked(batch, arrived, learned)
        answered = (asked >= 0) | self.opened.knows(fresh)
        scored = self._sampled(fresh) & (answered | _first(fresh))
        places = np.flatnonzero(learned.to_numpy(zero_copy_only=False))[scored & answered]
        before = np.searchsorted(places, asked[scored & answered])
        rows = _Scored(
            kept(fresh, pa.array(scored)), numbers[scored], baseline[scored], last[:-1][scored], answered[scored], before
        )
        made, multipliers, after = self._score(state, rows)
        open_places, opened = self._open(batch, pc.and_(arrived, pc.invert(learned)), places, multipliers)
        outputs = _in_order([(places, made), (open_places, opened)])
        fields, target, events = self._watched(state, batch, arrived, fresh)
        after = replace(
            after,
            fields=fields,
            target=target,
            offset=batch[OFFSET][-1].as_py(),
            rows=state.rows + len(targets),
            target_sum=float(np.clip(sums[-1], -1e300, 1e300)),
            last_target=float(last[-1]),
            fresh=fresh,
        )
        return Step(*self._told(batch, outputs, state, after, events))

    def _sampled(self, fresh: pa.RecordBatch) -> Bools:
        """Of every so many labelled rows one, by the offset of what was answered, so that a correction meets the same."""
        offsets = fresh[OFFSET]
        if "effect" in fresh.schema.names:
            offsets = pc.coalesce(fresh["of_offset"], fresh["prediction_offset"], offsets)
        sampled: Bools = offsets.to_numpy(zero_copy_only=False) % self._evaluate_every == 0
        return sampled

    def _told(
        self, batch: pa.RecordBatch, outputs: dict[str, pa.RecordBatch], state: State, after: State, events: tuple[Event, ...]
    ) -> tuple[dict[str, pa.RecordBatch], State, tuple[Event, ...]]:
        """What else is written down: which outcomes were taken, and events."""
        if after.change is not None and after.change != state.change:
            events = (*events, _drifted(after.change, after.offset))
        if "effect" in batch.schema.names:
            taken = labels.label_rows(batch, self._schema.target)
            outputs |= {labels.LOG: taken} if taken.num_rows else {}
            events = (*events, *labels.label_events(batch))
        return outputs, after, events

    def _score(self, state: State, scored: _Scored) -> tuple[pa.RecordBatch | None, Floats, State]:
        """Rows of `evaluations`; the multiplier in force at each, and after the last, shape [rows + 1]; the next state."""
        champion, challenger = self.scorer, self.challenger
        if champion is None or not scored.rows.num_rows:
            return None, np.full(len(scored.before) + 1, _number(state.conformal.multiplier)), state
        target = scored.rows[self._schema.target].to_numpy()
        said = champion.answers(scored.rows)
        shadow = None if challenger is None else challenger.answers(scored.rows)
        counted = scored.counted
        rows, now = kept(scored.rows, pa.array(counted)), Given.now(champion.version, said).of(counted)
        given = self.opened.given(rows, now)
        errors = np.abs(target[counted] - given.prediction)
        multipliers, conformal = _multipliers(state.conformal, errors, given.spread)
        given = self.opened.given(rows, now.within(multipliers[scored.before]))
        rest = target - (shadow or said).experts[:, 0]
        error, change = self._risen(state, errors, scored.numbers[counted])
        after = replace(
            self._compared(state, scored, target, np.abs(target - said.prediction), shadow),
            conformal=conformal,
            error=error,
            change=change,
            scores=self._scores(state, target, said, shadow),
            recent=_recent(state, scored.numbers, rest),
            drag=state.drag.extended(rest),
        )
        columns = {
            "target": target[counted],
            **given.columns(),
            "baseline": scored.baseline[counted],
            "last_value": scored.last[counted],
            "challenger_version": None if challenger is None else np.full(len(errors), challenger.version),
            "challenger_prediction": None if shadow is None else shadow.prediction[counted],
        }
        made = evaluation_rows(rows, columns)
        return made, multipliers, replace(after, totals=state.totals.extended(*self.counted.signed(made)))

    def _open(
        self, batch: pa.RecordBatch, waiting: pa.Array, scored: Ints, multipliers: Floats
    ) -> tuple[Ints, pa.RecordBatch | None]:
        """Answers to records whose outcome is still to come: where they are in the batch, and as rows of `evaluations`."""
        places = np.flatnonzero(waiting.to_numpy(zero_copy_only=False))
        if self.scorer is None or "effect" not in batch.schema.names or not len(places):
            return places[:0], None
        rows = batch.take(pa.array(places))
        given = Given.now(self.scorer.version, self.scorer.answers(rows))
        given = given.within(multipliers[np.searchsorted(scored, places)])
        self.opened.add(rows[OFFSET].to_numpy(), given)
        return places, evaluation_rows(rows, given.columns())

    def _compared(self, state: State, scored: _Scored, target: Floats, errors: Floats, shadow: Answers | None) -> State:
        """The tests of challenger against champion, and of champion against parent, some rows further."""
        assert self.scorer is not None  # noqa: S101 - the caller looked
        trial = watch = None
        if self.challenger is not None and shadow is not None:
            trial = self._trial(state.trial, self.challenger.version, self.scorer.version)
            trial = replace(trial, duel=trial.duel.extend(errors, np.abs(target - shadow.prediction)))
        if self.parent is not None:
            watch = self._trial(state.watch, self.scorer.version, self.parent.version)
            if watch.duel.verdict is None and watch.duel.rows < WATCH_ROWS:
                before = np.abs(target - self.parent.answers(scored.rows).prediction)
                watch = replace(watch, duel=watch.duel.extend(before, errors))
        return replace(state, trial=trial, watch=watch)

    def _trial(self, known: Trial | None, version: int, against: int) -> Trial:
        if known is not None and (known.version, known.against) == (version, against):
            return known
        return Trial(version, against, self._duel)

    def _scores(self, state: State, target: Floats, said: Answers, shadow: Answers | None) -> Mapping[int, Score]:
        """The experts' errors; one that is in both versions counts as the challenger has it."""
        assert self.scorer is not None  # noqa: S101 - the caller looked
        columns = {number: said.experts[:, place] for place, number in enumerate(self.scorer.experts)}
        if self.challenger is not None and shadow is not None:
            columns |= {number: shadow.experts[:, place] for place, number in enumerate(self.challenger.experts)}
        alive = {number: score for number, score in state.scores.items() if number in columns}
        errors = np.abs(np.stack(list(columns.values()), axis=1) - target[:, None])
        return scores.extended(alive, tuple(columns), errors)

    def _risen(self, state: State, errors: Floats, numbers: Ints) -> tuple[drift.Monitor, Change | None]:
        """Whether the champion's error has risen, and since when."""
        found, monitor = state.error.extend(errors)
        change = state.change
        for detection in found:
            number = int(numbers[detection.row])
            change = Change(number, max(1, number - detection.width_rows * self._evaluate_every + 1))
        return monitor, change

    def _watched(
        self, state: State, batch: pa.RecordBatch, arrived: pa.Array, fresh: pa.RecordBatch
    ) -> tuple[drift.Monitors, drift.Monitor, tuple[Event, ...]]:
        """Whether a field, or the target, is distributed otherwise than before; fields speak before labels come."""
        records = kept(batch, arrived)
        inputs, fields = state.fields.extend(self._features(records)) if records.num_rows else ([], state.fields)
        targets = fresh[self._schema.target].to_numpy()
        found, target = state.target.extend(targets) if len(targets) else ([], state.target)
        events = [_moved("input_drift", each.name, each, records) for each in inputs if each.told]
        events += [_moved("target_drift", self._schema.target, each, fresh) for each in found]
        return fields, target, tuple(events)


def _asked(batch: pa.RecordBatch, arrived: pa.Array, learned: pa.Array) -> Ints:
    """Where in the batch the labelled rows were answered, or would have been: at their record; -1 where that is not in it."""
    own = np.flatnonzero(learned.to_numpy(zero_copy_only=False))
    if "effect" not in batch.schema.names:
        return own
    records = np.flatnonzero(arrived.to_numpy(zero_copy_only=False))
    offsets = batch[OFFSET].to_numpy()[records]
    of = pc.if_else(pc.is_null(batch["effect"]), batch[OFFSET], pc.fill_null(batch["of_offset"], -1)).to_numpy()[own]
    found = np.minimum(np.searchsorted(offsets, of), len(records) - 1)
    return np.where(offsets[found] == of, records[found], -1) if len(records) else np.full(len(own), -1)


def _first(fresh: pa.RecordBatch) -> Bools:
    """Whether each labelled row has not been learned from yet with another target."""
    corrects = fresh["replaces"].is_valid() if "effect" in fresh.schema.names else pa.repeat(False, fresh.num_rows)
    first: Bools = ~corrects.to_numpy(zero_copy_only=False)
    return first


def _moved(kind: str, name: str, detection: drift.Detection, rows: pa.RecordBatch) -> Event:
    offset = rows[OFFSET][max(0, detection.row)].as_py()
    told = f"{name}: {MOVED[detection.what]} {detection.before:.4g} to {detection.after:.4g}"
    return Event(kind, told, {"field": name, "normalized_offset": offset})


def _multipliers(conformal: Conformal, errors: Floats, spreads: Floats) -> tuple[Floats, Conformal]:
    """The multiplier in force at each row, and after the last; an answer without a spread has no part in it."""
    known = spreads > 0.0  # False for NaN: an answer that a server gave comes with its interval alone
    inner, after = conformal.extend(errors[known], spreads[known])
    inner = np.append(inner, _number(after.multiplier))
    places = np.cumsum(np.append(0, known))
    return inner[places], after


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _in_order(parts: list[tuple[Ints, pa.RecordBatch | None]]) -> dict[str, pa.RecordBatch]:
    """Rows of `evaluations` in the order of the rows of the batch that they belong to."""
    made = [(places, rows) for places, rows in parts if rows is not None]
    if not made:
        return {}
    if len(made) == 1:
        return {LOG: made[0][1]}
    order = np.argsort(np.concatenate([places for places, _ in made]), kind="stable")
    return {LOG: pa.concat_batches([rows for _, rows in made]).take(pa.array(order))}


def _drifted(change: Change, offset: int) -> Event:
    reason = f"the error rose; the world seems another one since labelled row {change.start}"
    return Event("error_drift", reason, {"found": change.found, "start": change.start, "normalized_offset": offset})


def _recent(state: State, numbers: Ints, errors: Floats) -> tuple[tuple[int, float], ...]:
    last = list(zip(numbers.tolist()[-LOCAL_ROWS:], errors.tolist()[-LOCAL_ROWS:], strict=True))
    return tuple([*state.recent, *last][-LOCAL_ROWS:])
