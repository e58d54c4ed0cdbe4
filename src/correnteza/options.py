"""What the commands share: their options, and how they print.

Invariant: nothing here loads more than Typer before a command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from correnteza.client import Client
    from correnteza.config import Settings


def integer(text: str) -> int:
    """The number that a text stands for; the message names it, which Typer's own does not."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no integer") from None


def number(text: str) -> float:
    """As `integer`."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number") from None


USUAL_FILE = "correnteza.toml if it is there"

Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with the settings.", show_default=USUAL_FILE)]
PortBase = Annotated[
    int | None, typer.Option(parser=integer, help="First port; the services follow it.", show_default="8000", metavar="PORT")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the databases and models.", show_default="data/<pipeline>")]
Rate = Annotated[
    float | None,
    typer.Option(parser=number, help="Records per second of the source; 0: paused, inf: as fast as possible.", metavar="RATE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[int, typer.Argument(parser=integer, help="Number of a model version.", metavar="VERSION")]


def group(text: str, callback: Callable[..., None]) -> typer.Typer:
    """Commands under one name; `callback` runs before each of them."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True, help=text)(callback)
    return app


def show_help(context: typer.Context) -> None:
    """Without a command: the help."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def settings_of(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    """The settings, as `config.load` returns them."""
    from correnteza.config import load

    return load(config, flags)


def given(port_base: int | None = None, data_dir: Path | None = None, rate: float | None = None) -> dict[str, dict[str, Any]]:
    """The flags that were given, as the settings they stand for."""
    found = {
        ("services", "port_base"): port_base,
        ("pipeline", "data_dir"): data_dir,
        ("generator", "records_per_second"): rate,
    }
    return {section: {key: value} for (section, key), value in found.items() if value is not None}


def client_of(settings: Settings, timeout_s: float = 30.0) -> Client:
    """A client of the services with these settings."""
    from correnteza.client import Client
    from correnteza.supervisor import SERVICES

    return Client({name: settings.services.url(name) for name in SERVICES}, timeout_s=timeout_s)


def print_json(value: Any) -> None:
    """A value as JSON, for people."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(what: Any) -> None:
    """A Rich table; as wide as its cells where there is no terminal to fit it to."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    console.print(what)
