"""Writes the parts of `docs/reference.md` that repeat the code: settings, commands, calls, logs.

Invariant: what stands between the markers in the page comes from the code alone, so it cannot be wrong
for long: `tests/test_docs.py` fails as soon as the two differ.

    python docs/build_reference.py            write the page anew
    python docs/build_reference.py --check    only say whether it is up to date (exit code 1 if not)
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("reference.md")
MARKED = re.compile(r"(<!-- begin (\w+)[^>]*-->\n).*?(<!-- end \2 -->)", re.DOTALL)
SERVICES = ("generator", "normalizer", "trainer", "consumer")
SHARED = ("/health/live", "/health/ready", "/status", "/schema", "/metrics", "/records/stream", "/events")


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it; returns the exit code."""
    before = PAGE.read_text(encoding="utf-8")
    after = updated(before)
    if "--check" in arguments:
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


def updated(page: str) -> str:
    """The page with its generated parts made anew.

    Args:
        page: Markdown with parts between `<!-- begin NAME -->` and `<!-- end NAME -->`.
    """
    with tempfile.TemporaryDirectory() as folder:
        built = services(Path(folder))
        parts: dict[str, Callable[[], Iterable[str]]] = {
            "settings": settings_part,
            "commands": commands_part,
            "calls": lambda: calls_part(built),
            "logs": lambda: logs_part(built),
            "metrics": metrics_part,
            "alerts": alerts_part,
        }
        return MARKED.sub(lambda found: found[1] + "\n".join(parts[found[2]]()) + "\n" + found[3], page)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table, line by line."""
    yield "| " + " | ".join(headings) + " |"
    yield "|" + "---|" * len(headings)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"


def settings_part() -> Iterator[str]:
    """A table per section of the settings, with the tables that stand inside it."""
    from correnteza.config import Settings

    whole = Settings.model_json_schema()
    for name in Settings.model_fields:
        section = "schema" if name == "schema_table" else name
        if name == "features":
            yield from _settings_table("[[features]]", whole["$defs"]["FeatureTable"])
            continue
        about = Settings.model_fields[name].annotation
        yield from _settings_table(f"[{section}]", whole["$defs"][about.__name__])  # type: ignore[union-attr]
        if section == "schema":
            yield from _settings_table("[schema.fields] NAME = { ... }", whole["$defs"]["FieldTable"])
        if section == "alerts":
            yield from _settings_table("[[alerts.conditions]]", whole["$defs"]["Condition"])
        if section == "generator":
            yield from _settings_table("[[generator.drift]]", whole["$defs"]["Drift"])


def _settings_table(heading: str, section: Mapping[str, Any]) -> Iterator[str]:
    required = section.get("required", ())
    yield f"### `{heading}`\n\n{section['description'].splitlines()[0]}\n"
    rows = (
        (f"`{key}`", _kind(about), "required" if key in required else _default(about), _escaped(about))
        for key, about in section["properties"].items()
    )
    yield from table(("key", "value", "default", "meaning"), rows)
    yield ""


def _escaped(about: Mapping[str, Any]) -> str:
    """The description, without what Markdown would take for HTML."""
    return str(about.get("description", "")).replace("<", "&lt;")


def _kind(about: Mapping[str, Any]) -> str:
    """What a setting may be, in words."""
    choices = [one for one in about.get("anyOf", ()) if one.get("type") != "null"] or [about]
    return " or ".join(_kind_of(choice) for choice in choices)


def _kind_of(choice: Mapping[str, Any]) -> str:
    if "enum" in choice or "const" in choice:
        return " or ".join(f'`"{value}"`' for value in choice.get("enum", [choice.get("const")]))
    names = {"string": "text", "object": "table", "array": "list", "boolean": "true or false"}
    kind = "path" if choice.get("format") == "path" else names.get(choice.get("type", "object"), choice.get("type", "table"))
    if "enum" in choice.get("items", {}):
        kind += " of " + ", ".join(f'`"{value}"`' for value in choice["items"]["enum"])
    return kind + _bounds(choice)


def _bounds(choice: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    found = [f"{word} {choice[key]:,}" for key, word in words.items() if key in choice]
    if "maxLength" in choice:
        found.append("one character" if choice["maxLength"] == 1 else f"at most {choice['maxLength']} characters")
    if "pattern" in choice:
        found.append(f"matching `{choice['pattern']}`")
    return f", {' '.join(found)}" if found else ""


def _default(about: Mapping[str, Any]) -> str:
    from correnteza.config import Trainer
    from correnteza.show import toml

    if about.get("title") == "Params":  # made by a factory, which a JSON Schema does not show
        return f"`{toml(Trainer().params)}`"
    value = about.get("default")
    return "unset" if value is None else f"`{toml(value)}`"


def commands_part() -> Iterator[str]:
    """Every command with its options."""
    import typer

    from correnteza import cli

    rows = []
    for words, command in _commands(typer.main.get_command(cli._app()), ("correnteza",)):
        shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
        options = ", ".join(f"`{p.opts[0]}`" for p in shown if p.param_type_name == "option")
        arguments = "".join(f" {_argument(p)}" for p in shown if p.param_type_name == "argument")
        rows.append((f"`{' '.join(words)}{arguments}`", (command.help or "").split("\n\n")[0], options))
    yield from table(("command", "what it does", "options"), rows)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name}]"


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, (*words, name))
        else:
            yield (*words, name), command


def services(folder: Path) -> dict[str, tuple[Any, Any, Any]]:
    """Application, service and store of every service, built over memory and not started.

    Args:
        folder: where the trainer keeps its key and models.
    """
    from correnteza.config import Settings
    from correnteza.consumer import service as consumer
    from correnteza.dashboard import service as dashboard
    from correnteza.generator import service as generator
    from correnteza.generator.pace import NoSource
    from correnteza.log.memory import MemoryStore
    from correnteza.normalizer import service as normalizer
    from correnteza.trainer import service as trainer

    settings = Settings(pipeline={"data_dir": folder})
    stores = {name: MemoryStore() for name in SERVICES}
    nothing = NoSource(settings.schema_of_records.raw)
    asked = consumer.build(settings, stores["consumer"], lambda _: [], nothing)
    built = {
        "generator": generator.build(settings, stores["generator"]),
        "normalizer": normalizer.build(settings, stores["normalizer"], nothing),
        "trainer": trainer.build(settings, stores["trainer"], None),
        "consumer": (asked[1], asked[0]),
    }
    found: dict[str, tuple[Any, Any, Any]] = {name: (*pair, stores[name]) for name, pair in built.items()}
    return {**found, "dashboard": (*dashboard.without_pages(settings)[:2], MemoryStore())}


def calls_part(built: Mapping[str, tuple[Any, Any, Any]]) -> Iterator[str]:
    """The calls that all services share, then those of each."""
    rows = [_call("every service", *call) for call in _calls(built["generator"][0]) if call[1] in SHARED]
    for name, (app, _, _) in built.items():
        rows += [_call(name, *call) for call in _calls(app) if call[1] not in SHARED]
    yield from table(("service", "call", "what it does"), rows)


def _call(service: str, method: str, path: str, summary: str) -> tuple[str, str, str]:
    return service, f"`{method} {path}`", summary


def _calls(app: Any) -> Iterator[tuple[str, str, str]]:
    for path, methods in app.openapi()["paths"].items():
        for method, about in methods.items():
            yield method.upper(), path, about["summary"]


def logs_part(built: Mapping[str, tuple[Any, Any, Any]]) -> Iterator[str]:
    """Every log with its columns, as the demo's schema makes them."""
    rows = []
    for name, (_, service, store) in built.items():
        paths: dict[str, list[str]] = {}
        for path, log in service.logs.items():
            paths.setdefault(log.name, []).append(f"`/{path}`")
        for log in store.logs().values():
            columns = ", ".join(f"{field.name} {_type(field.type)}" for field in log.schema)
            rows.append((name, f"`{log.name}`", " ".join(paths.get(log.name, ["-"])), columns))
    yield from table(("service", "log", "path", "columns after `offset`"), rows)


def metrics_part() -> Iterator[str]:
    """Every family of metrics."""
    from correnteza.metrics import FAMILIES

    rows = []
    for family in FAMILIES.values():
        labels = ", ".join(family.labels) or "-"
        rows.append((family.service or "every service", f"`{family.name}`", family.kind, family.unit, labels, family.help))
    yield from table(("service", "metric", "type", "unit", "labels", "meaning"), rows)


def alerts_part() -> Iterator[str]:
    """Every built-in condition."""
    from correnteza.alerts.conditions import conditions_of
    from correnteza.config import Settings

    rows = [
        (f"`{c.name}`", f"`{c.metric} {c.comparison} {c.threshold:g}`", f"{c.for_s:g} s", c.meaning)
        for c in conditions_of(Settings())
    ]
    yield from table(("alert", "fires when", "for", "which means"), rows)


def _type(kind: Any) -> str:
    words = {"double": "float", "int64": "integer", "string": "text"}
    return words.get(str(kind), "time" if str(kind).startswith("timestamp") else str(kind))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
