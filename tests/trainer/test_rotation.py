"""Laws of which old versions keep their files."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from correnteza.trainer.rotation import SLOTS_S, Aged, kept

gaps_s = st.lists(st.floats(0.5, 20_000.0), min_size=1, max_size=150)


def made(gaps: list[float], proven: bool = True) -> dict[int, Aged]:
    times = [1e9 + sum(gaps[: i + 1]) for i in range(len(gaps))]
    return {version: Aged(at, proven) for version, at in enumerate(times, 1)}


@settings(deadline=None)
@given(gaps_s, st.integers(1, 60), st.floats(0.0, 1e6))
def test_no_slot_has_two_and_no_more_are_kept_than_may_be(gaps: list[float], most: int, later_s: float) -> None:
    versions = made(gaps)
    now_s = max(aged.made_s for aged in versions.values()) + later_s
    found = kept(versions, now_s, most)
    assert 1 <= len(found) <= most
    left = set(found)
    for width_s, wider_s in zip(SLOTS_S, [*SLOTS_S[1:], math.inf], strict=True):
        under_way = {v for v in left if versions[v].made_s // wider_s == now_s // wider_s}
        assert len({versions[v].made_s // width_s for v in under_way}) == len(under_way)
        left -= under_way
    assert not left


@settings(deadline=None, max_examples=50)
@example([1.0, 1.0], [6399.0, 40_000.0, 40_000.0])  # where the first of two in a slot is just a day old
@given(gaps_s, st.lists(st.floats(0.0, 40_000.0), max_size=8))
def test_pruning_often_keeps_what_pruning_once_does(gaps: list[float], pauses_s: list[float]) -> None:
    """So a version that goes is never missed later; slots that are over have the same version for ever."""
    versions = made(gaps)
    now_s = max(aged.made_s for aged in versions.values())
    left = versions
    for pause_s in pauses_s:
        left = {version: versions[version] for version in kept(left, now_s, 10**6)}
        now_s += pause_s
    assert kept(left, now_s, 10**6) == kept(versions, now_s, 10**6)


def test_a_version_that_stayed_in_service_is_kept_before_one_that_was_refused() -> None:
    versions = {1: Aged(100.0, False), 2: Aged(110.0, True), 3: Aged(115.0, True), 4: Aged(200.0, False)}
    assert kept(versions, 300.0, 10) == {2, 4}


def test_the_widths_divide_each_other() -> None:
    assert all(large % small == 0 for small, large in pairwise(SLOTS_S))
