"""The last values of one source for each key, in one arena: what windows are cut from.

    slot 0: [ . . . begin=>v v v v<=end _ _ ]     a segment of the arena; values are only ever written behind `end`
    slot 1: [ v v _ _ ]

Invariants:
- Entries of a slot are in the order of their numbers; windows are taken from the last `depth` before a row.
- What a slot held stays in the arena until `settle`: so `undo` only has to put back where segments are.
- `ordered` is the first entry from which a slot's times never fall: behind it a window of seconds is contiguous.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from correnteza.features import Floats, Ints

FIRST_ENTRIES = 1024
Array = TypeVar("Array", Ints, Floats)

SMALLEST = 2
"""Smallest segment, in entries."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Values of a source, those of a slot together and in order.

    Args:
        slots: each slot once, shape [slots].
        counts: entries per slot, shape [slots].
        times_us: event times, shape [entries]; the smallest int64 where there is none.
        numbers: of the records that they are of, in the order of the stream, shape [entries].
        values: shape [entries]; never NaN.
    """

    slots: Ints
    counts: Ints
    times_us: Ints
    numbers: Ints
    values: Floats


@dataclass(slots=True)
class _Places:
    """Where the segments of some slots are; also what the journal keeps of them."""

    base: Ints
    size: Ints
    begin: Ints
    end: Ints
    ordered: Ints

    NAMES = ("base", "size", "begin", "end", "ordered")

    @classmethod
    def none(cls, slots: int) -> _Places:
        return cls(*(np.zeros(slots, np.int64) for _ in cls.NAMES))

    def copy(self, slots: Ints) -> _Places:
        return _Places(*(getattr(self, name)[slots] for name in self.NAMES))

    def put(self, slots: Ints, other: _Places) -> None:
        for name in self.NAMES:
            getattr(self, name)[slots] = getattr(other, name)

    def grow(self, slots: int) -> None:
        for name in self.NAMES:
            setattr(self, name, _grown(getattr(self, name), slots))


class Tails:
    """The tails of all slots.

    Args:
        depth: how many values of a slot windows may reach back.
        timed: whether event times are kept.
        numbered: whether numbers are kept, which values that come late need.

    Attributes:
        values: the arena; times_us and numbers alike, empty when they are not kept.
    """

    def __init__(self, depth: int, timed: bool, numbered: bool) -> None:
        self.depth = depth
        self.values: Floats = np.zeros(FIRST_ENTRIES)
        self.times_us: Ints = np.zeros(FIRST_ENTRIES if timed else 0, np.int64)
        self.numbers: Ints = np.zeros(FIRST_ENTRIES if numbered else 0, np.int64)
        self._places = _Places.none(0)
        self._top = 0
        self._free: dict[int, Ints] = {}
        self._journal: list[tuple[Ints, _Places]] = []
        self._made: list[tuple[Ints, Ints]] = []  # bases and sizes since the last settle
        self._left: list[tuple[Ints, Ints]] = []

    def room_for(self, slots: int) -> None:
        """Have room for slots up to, and without, a number."""
        if slots > len(self._places.base):
            self._places.grow(max(slots, 2 * len(self._places.base), 16))

    def bounds(self, slots: Ints) -> tuple[Ints, Ints, Ints]:
        """First entry, end, and first entry from which times do not fall, of some slots."""
        return self._places.begin[slots], self._places.end[slots], self._places.ordered[slots]

    def place(self, slot: int) -> tuple[int, int, int]:
        """The same of one slot; empty where it has no entries."""
        if slot >= len(self._places.base):
            return 0, 0, 0
        return self._places.begin.item(slot), self._places.end.item(slot), self._places.ordered.item(slot)

    # Changing

    def append(self, new: Entries) -> Ints:
        """Put entries behind those that are there; where the first one of each slot went, shape [slots]."""
        self._keep(new.slots)
        places = self._places
        full = places.base[new.slots] + places.size[new.slots] - places.end[new.slots] < new.counts
        if full.any():
            self._move(new.slots[full], new.counts[full])
        starts = places.end[new.slots]
        at = spread(starts, new.counts)
        self._write(at, new)
        places.end[new.slots] += new.counts
        if len(self.times_us):
            self._look_for_falls(new, at)
        return starts

    def _look_for_falls(self, new: Entries, at: Ints) -> None:
        """Note the last entry of each slot whose time is before that of the one before it."""
        firsts = np.repeat(self._places.begin[new.slots], new.counts)
        before = np.maximum(at - 1, 0)
        falls = (at > firsts) & (self.times_us[at] < self.times_us[before])
        if falls.any():
            slots = np.repeat(new.slots, new.counts)[falls]
            np.maximum.at(self._places.ordered, slots, at[falls])

    def insert(self, new: Entries) -> None:
        """Put entries where their numbers say; one with the number of another takes its place."""
        self._keep(new.slots)
        begin, end, _ = self.bounds(new.slots)
        begin = np.maximum(begin, end - self.depth)
        held = spread(begin, end - begin)
        owners = np.concatenate([np.repeat(new.slots, end - begin), np.repeat(new.slots, new.counts)])
        numbers = np.concatenate([self.numbers[held], new.numbers])
        values = np.concatenate([self.values[held], new.values])
        times = np.concatenate([self.times_us[held], new.times_us]) if len(self.times_us) else np.zeros(len(values), np.int64)
        order = np.lexsort((np.arange(len(numbers)), numbers, owners))
        owners, numbers = owners[order], numbers[order]
        last = np.ones(len(order), bool)
        last[:-1] = (owners[1:] != owners[:-1]) | (numbers[1:] != numbers[:-1])
        order, owners, numbers = order[last], owners[last], numbers[last]
        slots, counts = np.unique(owners, return_counts=True)
        self._drop(slots)
        kept = _lasts(counts, self.depth)
        counts = np.minimum(counts, self.depth)
        self.append(Entries(slots, counts, times[order][kept], numbers[kept], values[order][kept]))

    def clear(self, slots: Ints) -> None:
        """Forget everything of some slots."""
        self._keep(slots)
        self._drop(slots)

    def _drop(self, slots: Ints) -> None:
        self._leave(slots)
        self._places.put(slots, _Places.none(len(slots)))

    def _move(self, slots: Ints, counts: Ints) -> None:
        """Give slots larger segments, with room for `counts` more entries."""
        begin, end, ordered = self.bounds(slots)
        begin = np.maximum(begin, end - self.depth)
        held = end - begin
        sizes = _size(held + counts, self.depth)
        source = spread(begin, held)
        bases = self._allocate(sizes)
        self._copy(source, spread(bases, held))
        self._leave(slots)
        moved = bases + np.maximum(ordered - begin, 0)
        self._places.put(slots, _Places(bases, sizes, bases.copy(), bases + held, moved))

    def _write(self, at: Ints, new: Entries) -> None:
        self.values[at] = new.values
        if len(self.times_us):
            self.times_us[at] = new.times_us
        if len(self.numbers):
            self.numbers[at] = new.numbers

    def _copy(self, source: Ints, to: Ints) -> None:
        for arena in (self.values, self.times_us, self.numbers):
            if len(arena):
                arena[to] = arena[source]

    # Segments

    def _allocate(self, sizes: Ints) -> Ints:
        bases = np.empty(len(sizes), np.int64)
        for size in np.unique(sizes).tolist():
            wanted = np.flatnonzero(sizes == size)
            free = self._free.get(size, np.empty(0, np.int64))
            used = min(len(free), len(wanted))
            bases[wanted[:used]] = free[len(free) - used :]
            self._free[size] = free[: len(free) - used]
            fresh = len(wanted) - used
            bases[wanted[used:]] = self._top + size * np.arange(fresh)
            self._top += size * fresh
        self._made.append((bases, sizes))
        if self._top >= len(self.values):  # one entry more than needed, so that an index of an end is one of the arena
            self._enlarge(max(self._top + 1, len(self.values) + len(self.values) // 2))
        return bases

    def _enlarge(self, entries: int) -> None:
        self.values = _grown(self.values, entries)
        self.times_us = _grown(self.times_us, entries) if len(self.times_us) else self.times_us
        self.numbers = _grown(self.numbers, entries) if len(self.numbers) else self.numbers

    def _leave(self, slots: Ints) -> None:
        sizes = self._places.size[slots]
        self._left.append((self._places.base[slots][sizes > 0], sizes[sizes > 0]))

    def _give_back(self, segments: Iterable[tuple[Ints, Ints]]) -> None:
        for bases, sizes in segments:
            for size in np.unique(sizes).tolist():
                free = self._free.get(size, np.empty(0, np.int64))
                self._free[size] = np.concatenate([free, bases[sizes == size]])

    # Going on, or back

    def _keep(self, slots: Ints) -> None:
        self._journal.append((slots, self._places.copy(slots)))

    def settle(self) -> None:
        """What was changed stays."""
        self._give_back(self._left)
        self._journal, self._made, self._left = [], [], []

    def undo(self) -> None:
        """Be as at the last `settle`."""
        for slots, places in reversed(self._journal):
            self._places.put(slots, places)
        self._give_back(self._made)
        self._journal, self._made, self._left = [], [], []

    def held(self, slots: Ints) -> Entries:
        """What windows may still reach, of some slots."""
        begin, end, _ = self.bounds(slots)
        begin = np.maximum(begin, end - self.depth)
        at = spread(begin, end - begin)
        nothing = np.zeros(len(at), np.int64)
        times = self.times_us[at] if len(self.times_us) else nothing
        return Entries(slots, end - begin, times, self.numbers[at] if len(self.numbers) else nothing, self.values[at])


def spread(starts: Ints, counts: Ints) -> Ints:
    """The whole numbers from each start on, `counts` of them.

    >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    found: Ints = np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - counts), counts)
    return found


def _lasts(counts: Ints, depth: int) -> Ints:
    """Places of the last `depth` entries of each group."""
    kept = np.minimum(counts, depth)
    return spread(np.cumsum(counts) - kept, kept)


def _size(entries: Ints, depth: int) -> Ints:
    """Sizes of segments for so many entries: powers of two, with room for half as many more at least as are reached back to."""
    wanted = np.maximum(entries + np.minimum(entries, depth) // 2, SMALLEST)
    sizes: Ints = np.int64(1) << np.ceil(np.log2(wanted)).astype(np.int64)
    return sizes


def _grown(array: Array, length: int) -> Array:
    larger = np.zeros(length, array.dtype)
    larger[: len(array)] = array
    return larger
