"""Which slot belongs to which key, and which keys go when there are too many.

Invariants:
- A key has one slot from its first record until it goes; a slot that was left is given to a later key.
- The least recently seen go first. When each was seen is a row number, so no two are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from correnteza.features import Ints

Key = str | int
ALONE = ""
"""The only key where there is no `by`."""
KEPT_OF_16 = 15
"""When keys go, so many sixteenths of the limit stay, so that it is not done again at once."""


class Keys:
    """The keys of one `by`.

    Args:
        limit: how many there may be.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._slots: dict[Key, int] = {}
        self._names: list[Key | None] = []
        self._seen: Ints = np.zeros(16, np.int64)
        self._free: list[int] = []
        self._freed: list[int] = []
        self._order: list[tuple[str, Key, int]] = []
        self._was: list[tuple[Ints, Ints]] = []

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def slots(self) -> int:
        """One more than the highest slot."""
        return len(self._names)

    def slot_of(self, key: Key | None) -> int:
        """The slot of a key, or -1."""
        return -1 if key is None else self._slots.get(key, -1)

    def find(self, keys: pa.Array) -> Ints:
        """The slots of some keys; -1 where a key is not known or missing."""
        codes, names = _coded(keys)
        found = np.fromiter((self._slots.get(name, -1) for name in names), np.int64, len(names))
        return np.append(found, -1)[codes]

    def take(self, keys: pa.Array, first_row: int) -> Ints:
        """The slots of the keys of rows, new ones included; -1 where a key is missing.

        Args:
            keys: shape [rows].
            first_row: number of the first row, counted since the memory began.
        """
        codes, names = _coded(keys)
        found = np.fromiter((self._slot(name) for name in names), np.int64, len(names))
        slots = np.append(found, -1)[codes]
        there = np.flatnonzero(slots >= 0)
        self._was.append((found, self._seen[found]))
        self._seen[slots[there]] = first_row + there  # the last one of a slot stays
        return slots

    def _slot(self, name: Key) -> int:
        slot = self._slots.get(name)
        if slot is None:
            slot = self._new(name)
            self._order.append(("added", name, slot))
        return slot

    def _new(self, name: Key) -> int:
        if self._free:
            slot = self._free.pop()
            self._names[slot] = name
        else:
            slot = len(self._names)
            self._names.append(name)
            if slot >= len(self._seen):
                self._seen = np.concatenate([self._seen, np.zeros(len(self._seen), np.int64)])
        self._slots[name] = slot
        return slot

    def too_many(self) -> Ints:
        """Let the least recently seen go, if there are too many; the slots that they had."""
        if len(self) <= self.limit:
            return np.empty(0, np.int64)
        slots = np.fromiter(self._slots.values(), np.int64, len(self))
        go = len(self) - max(1, self.limit * KEPT_OF_16 // 16)
        gone = slots[np.argpartition(self._seen[slots], go - 1)[:go]]
        for slot in gone.tolist():
            name = self._names[slot]
            if name is not None:
                del self._slots[name]
                self._order.append(("gone", name, slot))
            self._names[slot] = None
        self._freed += gone.tolist()
        return gone

    def in_order(self) -> tuple[Sequence[Key], Ints, Ints]:
        """All keys from the one seen longest ago on, with their slots, and when each was seen."""
        slots = np.fromiter(self._slots.values(), np.int64, len(self))
        slots = slots[np.argsort(self._seen[slots], kind="stable")]
        names = [name for slot in slots.tolist() if (name := self._names[slot]) is not None]
        return names, slots, self._seen[slots]

    def load(self, keys: pa.Array, seen: Ints) -> Ints:
        """Take keys in the place of none, each once; their slots."""
        slots = np.array([self._new(name) for name in keys.to_pylist()], np.int64)
        self._seen[slots] = seen
        return slots

    def settle(self) -> None:
        """What was changed stays."""
        self._free += self._freed
        self._freed, self._order, self._was = [], [], []

    def undo(self) -> None:
        """Be as at the last `settle`."""
        for what, name, slot in reversed(self._order):
            if what == "added":
                del self._slots[name]
                self._names[slot] = None
                self._free.append(slot)
            else:
                self._slots[name] = slot
                self._names[slot] = name
        for slots, seen in reversed(self._was):
            self._seen[slots] = seen
        self._freed, self._order, self._was = [], [], []


def _coded(keys: pa.Array) -> tuple[Ints, list[Key]]:
    """Per row a number, and what the numbers mean; -1 (the place behind the last name) for a missing key."""
    coded = keys.dictionary_encode()
    names = coded.dictionary.to_pylist()
    codes = coded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    return codes.astype(np.int64), names
