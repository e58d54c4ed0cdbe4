"""The effective settings as TOML, for `correnteza config show`.

Invariant: what is printed can be read back as `correnteza.toml` and gives the same settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from correnteza.config import FieldTable, Settings

BARE_KEY = re.compile(r"^[A-Za-z0-9_-]+$")
HEADING = """\
# The effective settings: defaults, file, environment and flags together.
# A value that is not the default has the default behind it."""


def as_toml(settings: Settings) -> str:
    """All settings as TOML, those that differ from their default marked.

    Args:
        settings: as `config.load` returned them.

    >>> "port_base = 8000\\n" in as_toml(Settings())
    True
    >>> changed = Settings(services={"port_base": 9000})
    >>> "port_base = 9000  # default: 8000\\n" in as_toml(changed)
    True
    """
    return "\n".join([HEADING, *_features(settings), *_lines(settings)]) + "\n"


def _features(settings: Settings) -> Iterator[str]:
    """The setting that belongs to no section, so that it stands before them; arrays of tables can be written inline."""
    if settings.features:
        yield "\n" + _line("features", settings.features, Settings().features)


def differences(settings: Settings) -> list[str]:
    """Names of the settings that are not at their default, as `trainer.window_rows`."""
    changed = [f"{section}.{key}" for section, key, value, default in _entries(settings) if value != default]
    return ["features", *changed] if settings.features else changed


def _entries(settings: Settings) -> Iterator[tuple[str, str, Any, Any]]:
    """Section, key, value and default of every setting."""
    for attribute, info in Settings.model_fields.items():
        if attribute == "features":
            continue
        section, default = getattr(settings, attribute), info.get_default(call_default_factory=True)
        name = "schema" if attribute == "schema_table" else attribute
        for key in type(section).model_fields:
            yield name, key, getattr(section, key), getattr(default, key)


def _lines(settings: Settings) -> Iterator[str]:
    last = ""
    for section, key, value, default in _entries(settings):
        if section != last:
            yield f"\n[{section}]"
            last = section
        if (section, key) == ("schema", "fields"):
            yield from _fields(value, default)
        else:
            yield _line(key, value, default)


def _line(key: str, value: Any, default: Any) -> str:
    """One setting; TOML has no word for "unset", so that is a comment."""
    mark = "" if value == default else f"  # default: {'unset' if default is None else toml(default)}"
    return f"# {key} is unset{mark.replace('  # ', '; ')}" if value is None else f"{_key(key)} = {toml(value)}{mark}"


def _fields(fields: Mapping[str, FieldTable], default: Mapping[str, FieldTable]) -> Iterator[str]:
    yield "\n[schema.fields]" + ("" if fields == default else "  # default: the demo's people")
    for name, field in fields.items():
        plain = field.model_dump(exclude_defaults=True)
        yield f"{_key(name)} = {toml(field.kind if list(plain) == ['kind'] else plain)}"


def toml(value: Any) -> str:
    """A value in TOML's notation.

    >>> toml({"n": 50, "a b": [1.5, float("inf"), True, "x"]})
    '{ n = 50, "a b" = [1.5, inf, true, "x"] }'
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, BaseModel):
        return toml(value.model_dump(exclude_none=True))
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml(entry)}" for key, entry in value.items() if entry is not None)
        return f"{{ {inside} }}" if inside else "{}"
    return f"[{', '.join(toml(entry) for entry in value)}]"


def _key(key: str) -> str:
    return key if BARE_KEY.match(key) else toml(key)
