"""Which old versions keep their files: the older, the farther apart, as in a rotation of backups.

Invariants:
- What is kept is a function of when the versions were made, what was decided about them, and the time.
- Widths divide each other, a slot keeps its first version, and becomes part of a wider one together with all others of that;
  so a version that is removed now would not have been kept later either.
- At most `most` versions are kept, however often versions are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

SLOTS_S = (60, 600, 3600, 86_400)
"""One version a minute of the ten minutes under way, one for ten minutes of the hour under way, one an hour of the day under
way, then one a day; all by Unix time."""


@dataclass(frozen=True, slots=True)
class Aged:
    """A version that may go.

    Args:
        made_s: when it was made, in seconds of Unix time.
        proven: whether it has come into service and stayed; of a slot such a one is kept before others.
    """

    made_s: float
    proven: bool


def kept(versions: Mapping[int, Aged], now_s: float, most: int) -> set[int]:
    """The versions that stay.

    Args:
        versions: by number.
        now_s: Unix time in seconds.
        most: how many stay at most, the newest slots.

    >>> sorted(kept({n: Aged(1000.0 + 20.0 * n, True) for n in range(60)}, 2200.0, 50))
    [0, 10, 40, 43, 46, 49, 52, 55, 58]
    """
    first: dict[tuple[int, int], tuple[bool, int]] = {}
    for version, aged in versions.items():
        slot = _slot(aged.made_s, now_s)
        first[slot] = min(first.get(slot, (True, version)), (not aged.proven, version))
    return set(sorted(version for _, version in first.values())[-most:] if most else ())


def _slot(made_s: float, now_s: float) -> tuple[int, int]:
    under_way = (width_s for width_s, wider_s in pairwise(SLOTS_S) if made_s // wider_s == now_s // wider_s)
    width_s = next(under_way, SLOTS_S[-1])
    return width_s, int(made_s // width_s)
