"""What the reference says of events and log lines is what the code tells: the same kinds, with the same fields."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "correnteza"
WITHOUT_STORE = ("supervisor.py", "report.py", "table.py", "alerts/")
"""Where everything that is told is a line alone."""
LEVELS = frozenset({"info", "warning", "error"})


@dataclass(frozen=True)
class Told:
    """A place in the code that tells something.

    Args:
        place: file and line.
        kind: what; None where it is in a variable.
        fields: what belongs to it.
        is_line: whether it is printed alone.
    """

    place: str
    kind: str | None
    fields: frozenset[str]
    is_line: bool


def told() -> list[Told]:
    """All places in the code."""
    return [one for path in sorted(SOURCE.rglob("*.py")) for one in told_in(path)]


def told_in(path: Path) -> Iterator[Told]:
    name = path.relative_to(SOURCE).as_posix()
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            tables = {
                node.targets[0].id: node.value
                for node in ast.walk(function)
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Dict)
            }
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and (found := parts(call, tables)) is not None:
                    kind, fields, is_line = found
                    yield Told(f"{name}:{call.lineno}", kind, fields, is_line or name.startswith(WITHOUT_STORE))


def parts(call: ast.Call, tables: dict[str, ast.Dict]) -> tuple[str | None, frozenset[str], bool] | None:
    """Kind, fields, and whether it is a line alone; None for a call that tells nothing."""
    owner, _, name = ast.unparse(call.func).rpartition(".")
    own = frozenset(k.arg for k in call.keywords if k.arg is not None)
    first = text(call.args[0]) if call.args else None
    if name in ("emit", "_told") and first is not None:
        return first, own, False
    if name == "Event" and not owner and len(call.args) > 1:
        return first, members(call.args[2:], tables), False
    if name == "Change" and not owner and len(call.args) == 3:
        return text(call.args[1]), members(call.args[2:], tables) | {"service"}, True
    if name in ("event", "_tell", "tell") and first is not None:
        return first, own, True
    if name in LEVELS and first is not None and ("_out" in owner or "get_logger" in owner):
        return first, own, True
    return None


def text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def members(rest: Iterable[ast.expr], tables: dict[str, ast.Dict]) -> frozenset[str]:
    """The keys of the table that an event has, if any."""
    for node in rest:
        table = tables.get(node.id) if isinstance(node, ast.Name) else node
        if not isinstance(table, ast.Dict):
            return frozenset()  # handed on as it came, as in `Events.emit`
        keys = [text(key) for key in table.keys if key is not None]
        assert None not in keys, f"{ast.unparse(node)}: write the fields of an event as a table with plain keys"
        return frozenset(key for key in keys if key is not None)
    return frozenset()


def documented() -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Fields by kind: of events, and of lines."""
    page = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    section = page[page.index("## Events\n") : page.index("## Metrics\n")]
    stored, _, lines = section.partition("### Log lines")
    return table_of(stored), table_of(lines)


def table_of(section: str) -> dict[str, frozenset[str]]:
    found = {}
    for row in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        kinds, _, fields, _ = row.split("|", 3)
        for kind in re.findall(r"`(\w+)`", kinds):
            assert kind not in found, f"{kind} is there twice"
            found[kind] = frozenset(re.findall(r"`(\w+)`", fields))
    return found


@pytest.mark.parametrize("is_line", [False, True], ids=["events", "lines"])
def test_the_reference_lists_every_kind_with_all_its_fields_and_nothing_else(is_line: bool) -> None:
    """Kinds that stand together in a row share their fields, of which each may have some."""
    listed = documented()[is_line]
    places = [one for one in told() if one.is_line == is_line]
    in_code: dict[str, set[str]] = {}
    for one in places:
        if one.kind is not None:
            in_code.setdefault(one.kind, set()).update(one.fields)
    for kind in listed.keys() - in_code.keys():  # told by a place that has the kind in a variable
        for one in (one for one in places if one.kind is None and f'"{kind}"' in source_of(one)):
            in_code.setdefault(kind, set()).update(one.fields)
    assert in_code.keys() == listed.keys()
    alone = ("waiting_began", "waiting_ended", "traces_not_sent", "traces_sent_again")
    for kind, fields in listed.items():
        if kind in alone:
            assert in_code[kind] <= fields, kind
        else:
            assert in_code[kind] == fields, kind
    for group in (alone[:2], alone[2:]):
        if not is_line:
            assert set().union(*(in_code[kind] for kind in group)) == listed[group[0]]


def source_of(one: Told) -> str:
    return (SOURCE / one.place.split(":")[0]).read_text(encoding="utf-8")
