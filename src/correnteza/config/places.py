"""Where a setting stands in a TOML file, so that a fault can name the line.

The standard library's reader tells no lines. But a file is read from top to bottom: the line of a key is the last
one of the shortest beginning of the file that has the key. An array that is open there is closed for the look.
"""

from __future__ import annotations

import tomllib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

DEEPEST = 4
"""Arrays within arrays that may be open at the end of a line."""

Key = int | str


@dataclass(frozen=True, slots=True)
class File:
    """A file of settings; without a name, and empty, where there is none.

    Args:
        name: as the user called it.
        text: what it says.
        table: the same, read.
    """

    name: str = ""
    text: str = ""
    table: dict[str, Any] = field(default_factory=dict)

    def says(self, path: Sequence[Key], value: Any) -> bool:
        """Whether a value is from the file; of a path that is not there, whether its last table is."""
        known, found = _walk(self.table, path)
        return bool(known) and bool(found == value)

    def place(self, path: Sequence[Key]) -> str:
        """What to write before a fault: the file, and the line of the key, or of the last table on the path.

        >>> text = '[a]\\nb = 1'
        >>> file = File("f.toml", text, tomllib.loads(text))
        >>> file.place(["a", "b"]), file.place(["a", "c"])
        ('f.toml:2: ', 'f.toml:1: ')
        """
        return f"{self.name}:{line_of(self.text, _walk(self.table, path)[0])}: "


def line_of(text: str, path: Sequence[Key]) -> int:
    """The line of a key, from 1 on; of a table the line of its heading.

    Args:
        text: a valid TOML document.
        path: of the key, which is there.

    >>> line_of("[[a]]\\nb = 1\\n[[a]]\\nb = [\\n  2,\\n  3]", ["a", 1, "b"])
    4
    """
    lines = text.splitlines()
    return 1 + bisect_left(range(1, len(lines)), True, key=lambda count: _has(lines, count, path))


def _has(lines: Sequence[str], count: int, path: Sequence[Key]) -> bool:
    """Whether the first lines have a key; those of a text that has not ended add nothing."""
    while count:
        for depth in range(DEEPEST + 1):
            try:
                table = tomllib.loads("\n".join([*lines[:count], "]" * depth]))
            except tomllib.TOMLDecodeError:
                continue
            return len(_walk(table, path)[0]) == len(path)
        count -= 1
    return False


def _walk(table: Any, path: Sequence[Key]) -> tuple[Sequence[Key], Any]:
    """As much of a path as there is, and what stands there."""
    for depth, key in enumerate(path):
        try:
            table = table[key]
        except (KeyError, IndexError, TypeError):
            return path[:depth], table
    return path, table
