"""The command `correnteza`.

Invariants:
- A user's mistake is one line per fault on standard error and exit code 1 (2 for the command line
  itself), never a traceback.
- `--help` loads nothing but Typer: every command imports what it needs when it runs.
"""

from __future__ import annotations

import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

if TYPE_CHECKING:
    from correnteza.client import Client
    from correnteza.config import Settings

SERVICE_COMMANDS = {
    "generator": "Run the generator alone: makes, replays or receives records.",
    "normalizer": "Run the normalizer alone: checks, encodes and standardises the generator's records.",
    "trainer": "Run the trainer alone: learns from the normalizer's records and answers predictions.",
    "consumer": "Run the consumer alone: asks for predictions and compares them with the truth.",
}
SUPERVISED = "--supervised"
INTERRUPTED = 130


def _integer(text: str) -> int:
    """The number that a text stands for; the message names it, which Typer's own does not."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no integer") from None


def _number(text: str) -> float:
    """As `_integer`."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no number") from None


USUAL_FILE = "correnteza.toml if it is there"

Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with the settings.", show_default=USUAL_FILE)]
PortBase = Annotated[
    int | None, typer.Option(parser=_integer, help="First port; the services follow it.", show_default="8000", metavar="PORT")
]
DataDir = Annotated[Path | None, typer.Option(help="Folder of the databases and models.", show_default="data/<pipeline>")]
Rate = Annotated[
    float | None,
    typer.Option(parser=_number, help="Records per second of the source; 0: paused, inf: as fast as possible.", metavar="RATE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[int, typer.Argument(parser=_integer, help="Number of a model version.", metavar="VERSION")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: what stands behind the program's name; None for the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(_app()(given, prog_name="correnteza", standalone_mode=False) or 0)
    except TyperException as error:
        return _usage(error)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        return _failed(error, SUPERVISED in given)


def _usage(error: TyperException) -> int:
    from correnteza.output import print_error

    command = getattr(getattr(error, "ctx", None), "command_path", "correnteza")
    message = " ".join(error.format_message().split()).rstrip(".")
    print_error(f"{message}{' See' if message.endswith('?') else '; see'} `{command} --help`")
    return error.exit_code


def _failed(error: Exception, supervised: bool) -> int:
    from correnteza.children import REFUSED
    from correnteza.errors import ConfigError, CorrentezaError
    from correnteza.output import print_error

    if isinstance(error, CorrentezaError):
        print_error(str(error))
        return REFUSED if supervised and isinstance(error, ConfigError) else 1
    if supervised:  # the supervisor keeps this output, within bounds
        traceback.print_exc()
    else:
        with tempfile.NamedTemporaryFile("w", prefix="correnteza-", suffix=".txt", delete=False) as file:
            file.write(traceback.format_exc())
        print_error(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}; traceback: {file.name}")
    return 1


def _app() -> typer.Typer:
    """All commands."""
    app = _group("Continuous machine learning on streams.", _root)
    app.command("run")(run)
    for name, text in SERVICE_COMMANDS.items():
        app.command(name, help=text)(generator if name == "generator" else _service(name))
    app.command("server")(server)
    app.command("status")(status)
    app.command("sql")(sql)
    config = _group("Check and show the settings.", _help)
    config.command("check")(config_check)
    config.command("show")(config_show)
    app.add_typer(config, name="config")
    models = _group("The trainer's model versions.", _help)
    models.command("list")(models_list)
    models.command("show")(models_show)
    models.command("promote")(models_promote)
    models.command("unpin")(models_unpin)
    app.add_typer(models, name="models")
    return app


def _group(text: str, callback: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True, help=text)(callback)
    return app


def _help(context: typer.Context) -> None:
    """Without a command: the help."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def _root(
    context: typer.Context, show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    """The command itself."""
    if show_version:
        print(version("correnteza"))
    else:
        _help(context)


def run(config: Config = None, port_base: PortBase = None, data_dir: DataDir = None, rate: Rate = None) -> int:
    """Run all services, with a live table on a terminal, until Ctrl-C."""
    from correnteza import output, supervisor

    flags = _flags(port_base, data_dir, rate)
    settings = _load(config, flags)
    output.set_up(settings.services.log_format)
    return supervisor.run(settings, config, _environment(flags))


def generator(
    config: Config = None,
    port_base: PortBase = None,
    data_dir: DataDir = None,
    rate: Rate = None,
    supervised: Annotated[bool, typer.Option(SUPERVISED, hidden=True)] = False,
) -> int:
    """Run the generator; its help stands in SERVICE_COMMANDS."""
    return _serve("generator", config, _flags(port_base, data_dir, rate), supervised)


def _service(name: str) -> Callable[..., int]:
    """The command of a service that makes no records of its own."""

    def command(
        config: Config = None,
        port_base: PortBase = None,
        data_dir: DataDir = None,
        supervised: Annotated[bool, typer.Option(SUPERVISED, hidden=True)] = False,
    ) -> int:
        return _serve(name, config, _flags(port_base, data_dir), supervised)

    return command


def _serve(name: str, config: Path | None, flags: Mapping[str, Any], supervised: bool) -> int:
    from correnteza import output

    if supervised:
        from correnteza.children import stop_when_parent_dies

        stop_when_parent_dies()
    settings = _load(config, flags)
    output.set_up(settings.services.log_format)
    return int(import_module(f"correnteza.{name}.service").main(settings))


def server(
    port: Annotated[int, typer.Option(parser=_integer, help="Port to answer on.", metavar="PORT")],
    config: Config = None,
    data_dir: DataDir = None,
) -> int:
    """Run one more prediction server over a trainer's data folder, on a port of its own."""
    from correnteza import output
    from correnteza.trainer.service import serve_elsewhere

    settings = _load(config, _flags(data_dir=data_dir))
    output.set_up(settings.services.log_format)
    return serve_elsewhere(settings, port)


def status(config: Config = None, port_base: PortBase = None, as_json: Json = False) -> None:
    """Show once how the running services are."""
    from correnteza import table
    from correnteza.errors import ServiceError
    from correnteza.supervisor import SERVICES

    settings = _load(config, _flags(port_base))
    answers = table.ask(_client(settings, timeout_s=2.0), SERVICES)
    if not any(answers.values()):
        raise ServiceError(
            f"no service answers from {settings.services.url(SERVICES[0])} to {settings.services.url(SERVICES[-1])}; "
            "start them with `correnteza run`, or name their ports with --port-base"
        )
    if as_json:
        _print_json(answers)
    else:
        _print(table.render([table.row(name, settings.services.url(name), answer) for name, answer in answers.items()]))


def sql(
    statement: Annotated[str, typer.Argument(metavar="QUERY", help="One query, as 'select count(*) from raw'.")],
    config: Config = None,
    data_dir: DataDir = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a heading line.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Query the databases of all services together, read-only.

    A table goes by its name (raw), or with its service (generator.raw). A name that several services
    have, as events, stands for the rows of all, with a first column that names the service.
    """
    from correnteza import sqlshell

    folder = _load(config, _flags(data_dir=data_dir)).pipeline.folder
    sqlshell.write(sqlshell.query(folder, statement), "csv" if csv else "json" if as_json else "table")


def config_check(
    file: Annotated[Path | None, typer.Argument(help="TOML file.", show_default="correnteza.toml if it is there")] = None,
) -> None:
    """Check the settings in a file, and those in the environment."""
    from correnteza import preflight
    from correnteza.show import differences

    settings = _load(file, {})
    preflight.check(settings)
    changed = differences(settings)
    print(f"ok: {file or 'settings'}: {len(changed)} not at the default" + (f": {', '.join(changed)}" if changed else ""))


def config_show(config: Config = None, port_base: PortBase = None, data_dir: DataDir = None, rate: Rate = None) -> None:
    """Print the effective settings as TOML; those that are not at their default are marked."""
    from correnteza.show import as_toml

    print(as_toml(_load(config, _flags(port_base, data_dir, rate))), end="")


def models_list(config: Config = None, port_base: PortBase = None, as_json: Json = False) -> None:
    """List the model versions, oldest first."""
    from correnteza.table import models

    answer = _client(_load(config, _flags(port_base))).models()
    if as_json:
        _print_json(answer)
    else:
        _print(models(answer))


def models_show(number: Version, config: Config = None, port_base: PortBase = None) -> None:
    """Print all that is known of a model version, as JSON."""
    _print_json(_client(_load(config, _flags(port_base))).model(number))


def models_promote(number: Version, config: Config = None, port_base: PortBase = None) -> None:
    """Put a model version into service and keep it there until `models unpin`."""
    _client(_load(config, _flags(port_base))).promote(number)
    print(f"version {number} is in service; `correnteza models unpin` lets newer ones replace it again")


def models_unpin(config: Config = None, port_base: PortBase = None) -> None:
    """Let newer model versions into service again, after `models promote`."""
    _client(_load(config, _flags(port_base))).unpin()
    print("newer model versions go into service again")


def _load(config: Path | None, flags: Mapping[str, Any]) -> Settings:
    from correnteza.config import load

    return load(config, flags)


def _flags(port_base: int | None = None, data_dir: Path | None = None, rate: float | None = None) -> dict[str, dict[str, Any]]:
    """The flags that were given, as the settings they stand for."""
    given = {
        ("services", "port_base"): port_base,
        ("pipeline", "data_dir"): data_dir,
        ("generator", "records_per_second"): rate,
    }
    return {section: {key: value} for (section, key), value in given.items() if value is not None}


def _environment(flags: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The same as variables, for the services that `run` starts."""
    return {
        f"CORRENTEZA_{section}__{key}".upper(): str(value) for section, keys in flags.items() for key, value in keys.items()
    }


def _client(settings: Settings, timeout_s: float = 30.0) -> Client:
    from correnteza.client import Client
    from correnteza.supervisor import SERVICES

    return Client({name: settings.services.url(name) for name in SERVICES}, timeout_s=timeout_s)


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print(what: Any) -> None:
    """A Rich table; as wide as its cells where there is no terminal to fit it to."""
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=10_000)
    console.print(what)
