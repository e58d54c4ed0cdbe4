"""Laws of alerts: what is told, how often, and what is concluded from silence; in simulated time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from correnteza.alerts.conditions import built_in, conditions_of
from correnteza.alerts.scrape import Scraper
from correnteza.alerts.state import Look, Notification, Pauses, Reading, State, advance
from correnteza.config import Condition, Settings, load
from correnteza.errors import ConfigError

STEP_S = 5.0
PAUSES = Pauses(group_s=30, cooldown_s=300)
LAG = Condition(name="lag", metric="correnteza_stage_lag_rows", comparison=">", threshold=100, for_s=20)
ERROR = Condition(name="error", metric="correnteza_evaluation_mae", comparison=">", threshold=1, for_s=0)
DOWN = Condition(name="down", metric="up", comparison="<", threshold=1, for_s=10)
CONDITIONS = (LAG, ERROR, DOWN)

Told = list[tuple[float, Notification]]
Seen = tuple[dict[str, float], bool, bool]
"""Lag by stage, whether the error is high, whether the trainer is silent."""


def look(lags: dict[str, float], error: bool = False, silent: bool = False) -> Look:
    """What is seen of one trainer."""
    up = Reading("trainer", "up", (), 0.0 if silent else 1.0)
    if silent:
        return Look([up], frozenset({"trainer"}))
    readings = [Reading("trainer", LAG.metric, (("stage", stage),), lag) for stage, lag in lags.items()]
    return Look([up, Reading("trainer", ERROR.metric, (), 2.0 if error else 0.5), *readings])


def told_by(looks: list[Look], pauses: Pauses = PAUSES, step_s: float = STEP_S) -> tuple[Told, State]:
    """All notifications, with their times."""
    state, told = State(), Told()
    for number, one in enumerate(looks):
        state, notification = advance(state, one, CONDITIONS, number * step_s, pauses)
        if notification is not None:
            told.append((number * step_s, notification))
    return told, state


LAGS = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([0.0, 101.0]), max_size=3)
LOOKS = st.lists(st.builds(look, LAGS, st.booleans(), st.booleans()), max_size=150)


@given(LOOKS)
def test_notifications_are_apart_and_what_is_told_of_an_alert_alternates(looks: list[Look]) -> None:
    """However the metrics behave, there is no storm."""
    told, _ = told_by(looks)
    times = [at for at, _ in told]
    assert all(later - before >= PAUSES.group_s for before, later in pairwise(times))
    said = [(a.key, at, fires) for at, n in told for fires, some in ((True, n.firing), (False, n.resolved)) for a in some]
    for key in {key for key, _, _ in said}:
        of_key = [(at, fires) for one, at, fires in said if one == key]
        assert [fires for _, fires in of_key] == [place % 2 == 0 for place in range(len(of_key))]
        fired = [at for at, fires in of_key if fires]
        assert all(later - before >= PAUSES.cooldown_s for before, later in pairwise(fired))


@given(LOOKS)
def test_whatever_was_told_to_fire_is_told_to_be_over_once_all_is_well(looks: list[Look]) -> None:
    calm = [look({"a": 0.0})] * int((PAUSES.group_s + PAUSES.cooldown_s) / STEP_S + 2)
    told, state = told_by(looks + calm)
    fired = sum(len(n.firing) for _, n in told)
    assert fired == sum(len(n.resolved) for _, n in told)
    assert not any(track.firing or track.told for track in state.tracks.values())
    assert not told or told[-1][1].still == 0


@given(st.lists(st.integers(0, 3), max_size=40))
def test_what_holds_for_less_than_its_time_is_never_told(runs: list[int]) -> None:
    """For runs of breaches shorter than `for_s` with one good look between them."""
    looks = [one for run in runs for one in [look({"a": 200.0})] * run + [look({"a": 100.0})]]
    assert told_by(looks)[0] == []


@given(st.lists(st.booleans(), max_size=60), st.sampled_from([1.0, 5.0]))
def test_what_holds_long_enough_is_told_as_soon_as_group_and_time_allow(before: list[bool], step_s: float) -> None:
    looks = [look({}, error=error) for error in before]
    steps = int((LAG.for_s + PAUSES.group_s) / step_s) + 1
    told, _ = told_by([*looks, *[look({"a": 200.0})] * steps], step_s=step_s)
    assert any(alert.key[0] == "lag" for _, n in told for alert in n.firing)


def test_a_service_that_dies_is_told_once_with_what_follows_from_it_in_one_message() -> None:
    dead = [look({}, silent=True)] * 20
    (at, notification), *others = told_by([look({})] * 2 + dead)[0]
    assert (at, [alert.key for alert in notification.firing]) == (4 * STEP_S, [("down", "trainer", ())])
    assert others == []


def test_silence_neither_resolves_an_alert_nor_makes_one() -> None:
    behind, silent = look({"a": 200.0}), look({}, silent=True)
    told, _ = told_by([behind] * 6 + [silent] * 30 + [behind] * 3)
    assert [(a.key[0], "fires") for _, n in told for a in n.firing] == [("lag", "fires"), ("down", "fires")]
    assert [a.key[0] for _, n in told for a in n.resolved] == ["down"]
    told, _ = told_by([behind] * 3 + [silent] * 30)
    assert [a.key[0] for _, n in told for a in n.firing] == ["down"]


def test_a_series_that_goes_ends_its_alert() -> None:
    told, _ = told_by([look({"a": 200.0})] * 6 + [look({})] * 10)
    assert [a.key[0] for _, n in told for a in n.resolved] == ["lag"]


def test_labels_choose_which_series_a_condition_is_about() -> None:
    only = LAG.model_copy(update={"labels": {"stage": "b", "service": "trainer"}, "for_s": 0})
    elsewhere = only.model_copy(update={"name": "other", "labels": {"service": "consumer"}})
    _, notification = advance(State(), look({"a": 200.0, "b": 300.0}), (only, elsewhere), 0.0, PAUSES)
    assert notification is not None
    assert [(a.key, a.value) for a in notification.firing] == [(("lag", "trainer", (("stage", "b"),)), 300.0)]


@given(LOOKS)
def test_memory_is_bounded_by_what_is_going_on(looks: list[Look]) -> None:
    _, state = told_by(looks + [look({})] * int(2 * PAUSES.cooldown_s / STEP_S))
    assert state.tracks == {}


# Conditions


def test_intervals_are_off_when_they_miss_twice_as_often_or_a_fifth_as_often() -> None:
    of_level = {c.name: c.threshold for c in built_in(0.9)}
    assert (of_level["coverage_low"], of_level["coverage_high"]) == pytest.approx((0.8, 0.98))


def test_a_condition_of_the_same_name_replaces_the_built_in_one_and_they_can_be_turned_off() -> None:
    own = {"name": "service_down", "metric": "up", "comparison": "<", "threshold": 1, "for_s": 3}
    replaced = conditions_of(Settings(alerts={"conditions": [own]}))
    assert [c.for_s for c in replaced if c.name == "service_down"] == [3]
    assert len(replaced) == len(conditions_of(Settings()))
    assert [c.name for c in conditions_of(Settings(alerts={"conditions": [own], "defaults": False}))] == ["service_down"]


def test_a_metric_that_nobody_has_is_refused_with_what_was_meant() -> None:
    own = {"name": "x", "metric": "correnteza_stage_lag_row", "comparison": ">", "threshold": 1}
    with pytest.raises(ConfigError, match=r"alerts\.conditions\.0\.metric: there is no metric .*did you mean 'correnteza_st"):
        load(None, {"alerts": {"conditions": [own]}})


def test_two_conditions_of_one_name_are_refused() -> None:
    own = {"name": "x", "metric": "up", "comparison": "<", "threshold": 1}
    with pytest.raises(ConfigError, match="two conditions are called 'x'"):
        load(None, {"alerts": {"conditions": [own, own]}})


# Readings


def test_of_a_counter_its_growth_per_second_is_read_also_after_a_restart() -> None:
    clock, texts = [0.0], [100.0, 150.0, 30.0]
    shown = iter(f'# TYPE c_total counter\nc_total{{a="1"}} {value}\n# TYPE g gauge\ng {value}\n' for value in texts)
    scraper = Scraper({"trainer": "http://x"}, lambda _: next(shown), lambda: clock[0])
    rates = []
    for clock[0] in (0.0, 10.0, 20.0):
        seen = {reading.metric: reading.value for reading in scraper.look().readings}
        rates.append((seen.get("c_total"), seen["g"], seen["up"]))
    assert rates == [(None, 100.0, 1.0), (5.0, 150.0, 1.0), (3.0, 30.0, 1.0)]


@pytest.mark.parametrize("answer", [OSError("refused"), "not { metrics"])
def test_a_service_that_does_not_answer_with_metrics_is_silent(answer: str | OSError) -> None:
    def fetch(_: str) -> str:
        if isinstance(answer, OSError):
            raise answer
        return answer

    seen = Scraper({"trainer": "http://x"}, fetch).look()
    assert seen.silent == {"trainer"}
    assert list(seen.readings) == [Reading("trainer", "up", (), 0.0)]
