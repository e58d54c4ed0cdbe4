"""From readings to notifications: pure, with the time as an argument.

Invariants (all held by `tests/test_alerts.py`):
- An alert fires when its condition has held for `for_s` without a break, and clears as soon as it does not hold.
- Two notifications are at least `group_s` apart; what happens in between is in one.
- What is told of one alert alternates: that it fires, that it is over. It is told to fire at most once in `cooldown_s`,
  and whatever was told to fire is told to be over.
- While a service does not answer, nothing is concluded about its metrics: its alerts stay as they were.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from correnteza.alerts.conditions import breached
from correnteza.config import Condition
from correnteza.metrics import UP

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, str, Labels]
"""Name of the condition, service, and the labels of the series, sorted."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one service's metrics, now.

    Args:
        service: whose.
        metric: its name.
        labels: sorted by name.
        value: the number; of a counter its growth per second.
    """

    service: str
    metric: str
    labels: Labels
    value: float


@dataclass(frozen=True, slots=True)
class Look:
    """All that was seen at once.

    Args:
        readings: the numbers; `up` of every service is among them.
        silent: services that did not answer.
    """

    readings: Sequence[Reading]
    silent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Track:
    """What is known of one condition and one series.

    Args:
        condition: as of the last look.
        value: the last one that was seen.
        since: when it began to hold; None when it does not.
        firing: whether it has held long enough.
        told: whether the last thing told of it is that it fires.
        told_at: when it was last told to fire.
    """

    condition: Condition
    value: float
    since: float | None = None
    firing: bool = False
    told: bool = False
    told_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a notification.

    Args:
        key: which one.
        condition: what it is about.
        value: that was seen last.
        age_s: seconds for which the condition has held; 0 when it is over.
    """

    key: Key
    condition: Condition
    value: float
    age_s: float


@dataclass(frozen=True, slots=True)
class Notification:
    """What there is to tell.

    Args:
        firing: alerts that fire since the last notification.
        resolved: alerts that are over.
        still: how many told before fire on.
    """

    firing: tuple[Alert, ...]
    resolved: tuple[Alert, ...]
    still: int


@dataclass(frozen=True, slots=True)
class State:
    """Everything that is remembered from one look to the next.

    Args:
        tracks: what is known of each series that matters.
        told_at: when the last notification was.
    """

    tracks: Mapping[Key, Track] = field(default_factory=dict)
    told_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class Pauses:
    """How much is told.

    Args:
        group_s: least seconds between two notifications.
        cooldown_s: least seconds until the same alert is told to fire again.
    """

    group_s: float
    cooldown_s: float


def advance(
    state: State, look: Look, conditions: Iterable[Condition], now: float, pauses: Pauses
) -> tuple[State, Notification | None]:
    """Go on by one look.

    Args:
        state: of the last look; `State()` at first.
        look: what is seen now.
        conditions: what is watched.
        now: in seconds of a clock that never goes back.
        pauses: how much is told.

    Returns:
        The state after it, and what there is to tell.
    """
    tracks = dict(_tracks(state.tracks, look, conditions, now))
    if now - state.told_at >= pauses.group_s:
        firing = [k for k, t in tracks.items() if t.firing and not t.told and now - t.told_at >= pauses.cooldown_s]
        resolved = [key for key, track in tracks.items() if track.told and not track.firing]
        if firing or resolved:
            told = {**tracks, **{k: replace(tracks[k], told=True, told_at=now) for k in firing}}
            told.update({k: replace(tracks[k], told=False) for k in resolved})
            still = sum(track.told for track in tracks.values()) - len(resolved)
            alerts = [tuple(_alert(k, tracks[k], now) for k in sorted(keys)) for keys in (firing, resolved)]
            return State(_kept(told, now, pauses), now), Notification(alerts[0], alerts[1], still)
    return State(_kept(tracks, now, pauses), state.told_at), None


def _tracks(
    before: Mapping[Key, Track], look: Look, conditions: Iterable[Condition], now: float
) -> Iterator[tuple[Key, Track]]:
    """What is known of each series after the look."""
    known = {condition.name: condition for condition in conditions}
    seen = dict(_matched(look, known.values()))
    for key, (condition, value) in seen.items():
        yield key, _held(before.get(key), condition, value, now)
    for key, track in before.items():
        if key in seen:
            continue
        if key[1] in look.silent and key[0] in known:
            yield key, track
        else:  # the series has gone, as that of a challenger goes, or the condition
            yield key, replace(track, since=None, firing=False)


def _matched(look: Look, conditions: Iterable[Condition]) -> Iterator[tuple[Key, tuple[Condition, float]]]:
    by_metric: dict[str, list[Reading]] = {}
    for reading in look.readings:
        if reading.service not in look.silent or reading.metric == UP:
            by_metric.setdefault(reading.metric, []).append(reading)
    for condition in conditions:
        wanted = condition.labels.items()
        for reading in by_metric.get(condition.metric, ()):
            if wanted <= {*reading.labels, ("service", reading.service)}:
                yield (condition.name, reading.service, reading.labels), (condition, reading.value)


def _held(track: Track | None, condition: Condition, value: float, now: float) -> Track:
    track = Track(condition, value) if track is None else replace(track, condition=condition, value=value)
    if not breached(condition, value):
        return replace(track, since=None, firing=False)
    since = now if track.since is None else track.since
    return replace(track, since=since, firing=track.firing or now - since >= condition.for_s)


def _kept(tracks: Mapping[Key, Track], now: float, pauses: Pauses) -> dict[Key, Track]:
    """Without those of which nothing must be remembered, so that memory is bounded by what is going on."""
    return {
        key: track
        for key, track in tracks.items()
        if track.since is not None or track.told or now - track.told_at < pauses.cooldown_s
    }


def _alert(key: Key, track: Track, now: float) -> Alert:
    return Alert(key, track.condition, track.value, 0.0 if track.since is None else now - track.since)
