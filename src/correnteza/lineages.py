"""The lineages of a pipeline: which definitions of features it has had, and where the data of each are.

What the normalizer and the trainer keep belongs to definitions of features. Other definitions begin another lineage, with
databases and model versions of its own, made anew from the generator's log as far as that is kept:

    DATA/normalizer.db, trainer.db, models, key                   the first
    DATA/lineages/2/normalizer.db, trainer.db, models, key        the second
    DATA/lineages.json                                            their definitions, in order

Invariants:
- A lineage belongs to one set of definitions, and keeps its place; definitions that come back find theirs again.
- Processes that start at once agree: the file is changed under a lock, and replaced as a whole.
- Whether a lineage has taken over from the one before is written down, and not taken back.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from correnteza.config import Settings
from correnteza.errors import DamagedLogError

FILE = "lineages.json"
LOCK_FILE = "lineages.lock"
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lineage:
    """One lineage.

    Args:
        number: from 1.
        folder: where its databases and versions are.
        definitions: of its features, as `Feature.as_dict` writes them.
        before: the one that was in force when it began, if it has not taken over from that yet; None otherwise.
    """

    number: int
    folder: Path
    definitions: tuple[Entry, ...]
    before: Lineage | None


def current(settings: Settings, begin: bool = True) -> Lineage:
    """The lineage of the definitions in the settings.

    Args:
        settings: of the pipeline.
        begin: whether to write a new one down; if not, it is only named.

    Raises:
        DamagedLogError: the file cannot be read.
    """
    folder = settings.pipeline.folder
    wanted = _definitions(settings)
    entries = read(folder)
    if entries and begin and (folder / FILE).exists() and _newest(entries)["definitions"] == wanted:
        begin = False  # as it was at the last start
    if begin:
        with _changing(folder) as entries:
            _put_into_force(entries, wanted)
    place = next((place for place, entry in enumerate(entries) if entry["definitions"] == wanted), len(entries))
    return _made(folder, [*entries, _entry(wanted, None, 0)], place)


def take_over(settings: Settings, reason: str) -> None:
    """Write down that the lineage in the settings needs the one before it no longer.

    Args:
        settings: of the pipeline.
        reason: why.
    """
    wanted = _definitions(settings)
    with _changing(settings.pipeline.folder) as entries:
        for entry in entries:
            if entry["definitions"] == wanted:
                entry["before"], entry["took_over"] = None, reason


def changes(before: Lineage, now: Lineage) -> str:
    """What is different between two lineages, in words.

    >>> one, two = ({"name": "a", "how": "lag", "rows": 1}, {"name": "a", "how": "lag", "rows": 2})
    >>> changes(Lineage(1, Path(), (one,), None), Lineage(2, Path(), (two, {"name": "b"}), None))
    "feature 'a' is another, 'b' is new"
    """
    was, is_ = ({one["name"]: one for one in lineage.definitions} for lineage in (before, now))
    parts = [f"{name!r} is another" for name in was if name in is_ and was[name] != is_[name]]
    parts += [f"{name!r} is new" for name in is_ if name not in was] + [f"{name!r} is gone" for name in was if name not in is_]
    return f"feature {', '.join(parts)}" if parts else "the features stand in another order"


def read(folder: Path) -> list[Entry]:
    """What is written down, oldest first.

    Raises:
        DamagedLogError: the file cannot be read.
    """
    try:
        entries = json.loads((folder / FILE).read_bytes())
        for one in entries:
            one["definitions"], one["before"], one["used"]
        return list(entries)
    except FileNotFoundError:
        # A pipeline that ran before there were features has none.
        return [_entry([], None, 1)] if (folder / "normalizer.db").exists() else []
    except (ValueError, KeyError, TypeError):
        raise DamagedLogError(f"{folder / FILE}: cannot be read; restore it from a copy") from None


def _definitions(settings: Settings) -> list[Entry]:
    return [one.as_dict() for one in settings.schema_of_model.derived]


def _entry(definitions: list[Entry], before: int | None, used: int) -> Entry:
    """What is written down: `used` grows with each change of definitions."""
    return {"definitions": definitions, "before": before, "used": used}


def _newest(entries: list[Entry]) -> Entry:
    return max(entries, key=lambda entry: int(entry["used"]))


def _put_into_force(entries: list[Entry], definitions: list[Entry]) -> None:
    used = 1 + max((int(entry["used"]) for entry in entries), default=0)
    for entry in entries:
        if entry["definitions"] == definitions:
            entry["used"] = used
            return
    before = None
    if entries:  # the one that answers: where the last has not taken over, the one before it
        before = _newest(entries)["before"] or 1 + entries.index(_newest(entries))
    entries.append(_entry(definitions, before, used))


def _made(folder: Path, entries: list[Entry], place: int) -> Lineage:
    own = folder if place == 0 else folder / "lineages" / str(place + 1)
    before = entries[place]["before"]
    earlier = None if before is None else _made(folder, entries[:place], before - 1)
    return Lineage(place + 1, own, tuple(entries[place]["definitions"]), earlier)


@contextmanager
def _changing(folder: Path) -> Iterator[list[Entry]]:
    """The entries, to be changed; they are written at the end, and nobody else writes in between."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        entries = read(folder)
        yield entries
        draft = folder / f"{FILE}.tmp"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(entries, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / FILE)
    finally:
        os.close(descriptor)
