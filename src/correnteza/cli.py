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
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from correnteza import models_cli
from correnteza.options import (
    Config,
    DataDir,
    Json,
    PortBase,
    Rate,
    client_of,
    given,
    group,
    integer,
    print_json,
    print_table,
    settings_of,
    show_help,
)

SERVICE_COMMANDS = {
    "generator": "Run the generator alone: makes, replays or receives records.",
    "normalizer": "Run the normalizer alone: checks, encodes and standardises the generator's records.",
    "trainer": "Run the trainer alone: learns from the normalizer's records and answers predictions.",
    "consumer": "Run the consumer alone: asks for predictions and compares them with the truth.",
    "dashboard": "Run the dashboard alone: shows how the other services are, in a browser.",
}
SUPERVISED = "--supervised"
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        arguments: what stands behind the program's name; None for the process's own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(_app()(words, prog_name="correnteza", standalone_mode=False) or 0)
    except TyperException as error:
        return _usage(error)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        return _failed(error, SUPERVISED in words)


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
    app = group("Continuous machine learning on streams.", _root)
    app.command("run")(run)
    for name, text in SERVICE_COMMANDS.items():
        app.command(name, help=text)(generator if name == "generator" else _service(name))
    app.command("server")(server)
    app.command("alerts")(alerts)
    app.command("status")(status)
    app.command("predict")(models_cli.predict)
    app.command("sql")(sql)
    app.command("evaluate")(evaluate)
    config = group("Check and show the settings.", show_help)
    config.command("check")(config_check)
    config.command("show")(config_show)
    app.add_typer(config, name="config")
    models = group("The trainer's model versions.", show_help)
    for name, command in models_cli.COMMANDS.items():
        models.command(name)(command)
    app.add_typer(models, name="models")
    return app


def _root(
    context: typer.Context, show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    """The command itself."""
    if show_version:
        print(version("correnteza"))
    else:
        show_help(context)


def run(config: Config = None, port_base: PortBase = None, data_dir: DataDir = None, rate: Rate = None) -> int:
    """Run all services, with a live table on a terminal, until Ctrl-C."""
    from correnteza import output, supervisor

    flags = given(port_base, data_dir, rate)
    settings = settings_of(config, flags)
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
    return _serve("generator", config, given(port_base, data_dir, rate), supervised)


def _service(name: str) -> Callable[..., int]:
    """The command of a service that makes no records of its own."""

    def command(
        config: Config = None,
        port_base: PortBase = None,
        data_dir: DataDir = None,
        supervised: Annotated[bool, typer.Option(SUPERVISED, hidden=True)] = False,
    ) -> int:
        return _serve(name, config, given(port_base, data_dir), supervised)

    return command


def _serve(name: str, config: Path | None, flags: Mapping[str, Any], supervised: bool) -> int:
    from correnteza import output
    from correnteza.listening import bind

    if supervised:
        from correnteza.children import stop_when_parent_dies

        stop_when_parent_dies()
    settings = settings_of(config, flags)
    output.set_up(settings.services.log_format)
    listening = bind(settings.services.host, settings.services.port(name))
    return int(import_module(f"correnteza.{name}.service").main(settings, listening))


def server(
    port: Annotated[int, typer.Option(parser=integer, help="Port to answer on.", metavar="PORT")],
    config: Config = None,
    data_dir: DataDir = None,
) -> int:
    """Run one more prediction server over a trainer's data folder, on a port of its own."""
    from correnteza import output
    from correnteza.listening import bind

    settings = settings_of(config, given(data_dir=data_dir))
    output.set_up(settings.services.log_format)
    listening = bind(settings.services.host, port)
    return int(import_module("correnteza.trainer.service").serve_elsewhere(settings, listening))


def alerts(config: Config = None, port_base: PortBase = None, data_dir: DataDir = None) -> int:
    """Watch running services, and alert as `[alerts]` says; for services that `correnteza run` does not run."""
    from correnteza import output
    from correnteza.alerts import watcher

    settings = settings_of(config, given(port_base, data_dir))
    output.set_up(settings.services.log_format)
    return watcher.run(settings)


def status(config: Config = None, port_base: PortBase = None, as_json: Json = False) -> None:
    """Show once how the running services are."""
    from correnteza import table
    from correnteza.errors import ServiceError
    from correnteza.supervisor import SERVICES

    settings = settings_of(config, given(port_base))
    answers = table.ask(client_of(settings, timeout_s=2.0), SERVICES)
    if not any(answers.values()):
        raise ServiceError(
            f"no service answers from {settings.services.url('dashboard')} to {settings.services.url('consumer')}; "
            "start them with `correnteza run`, or name their ports with --port-base"
        )
    if as_json:
        print_json(answers)
    else:
        print_table(table.render([table.row(name, settings.services.url(name), answer) for name, answer in answers.items()]))


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
    from correnteza import lineages, sqlshell

    settings = settings_of(config, given(data_dir=data_dir))
    place = lineages.current(settings, begin=False).folder
    sqlshell.write(sqlshell.query(settings.pipeline.folder, statement, place), "csv" if csv else "json" if as_json else "table")


def evaluate(
    file: Annotated[Path, typer.Argument(help="A .csv, .csv.gz, .parquet or .ndjson[.gz] file, oldest record first.")],
    target: Annotated[str | None, typer.Option(help="The column to predict.", show_default="target of [schema]")] = None,
    timestamp: Annotated[
        str | None, typer.Option(help="The column with the event time.", show_default="first column of times")
    ] = None,
    ignore: Annotated[str, typer.Option(help="Columns not to learn from, as in id,total.", metavar="NAMES")] = "",
    config: Config = None,
    rows: Annotated[
        int | None, typer.Option(parser=integer, help="Records to read at most.", show_default="all", metavar="ROWS")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the plots.", metavar="DIR")] = Path(),
    groups: Annotated[
        bool, typer.Option("--groups", help="Run again without each group of derived features, and show the error.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Predict and learn a whole file offline, and show how good the predictions were.

    Every record is predicted before it is learned from, by the same stages as in the running system. The
    schema comes from the file unless the settings have one. A table is printed; the plots are a PNG and an HTML file.
    """
    from correnteza.evaluate import Request, run

    ignored = tuple(name.strip() for name in ignore.split(",") if name.strip())
    return run(Request(file, target, timestamp, ignored, config, rows, out, as_json, groups))


def config_check(
    file: Annotated[Path | None, typer.Argument(help="TOML file.", show_default="correnteza.toml if it is there")] = None,
) -> None:
    """Check the settings in a file, and those in the environment."""
    from correnteza import preflight
    from correnteza.show import differences

    settings = settings_of(file, {})
    preflight.check(settings)
    changed = differences(settings)
    print(f"ok: {file or 'settings'}: {len(changed)} not at the default" + (f": {', '.join(changed)}" if changed else ""))


def config_show(config: Config = None, port_base: PortBase = None, data_dir: DataDir = None, rate: Rate = None) -> None:
    """Print the effective settings as TOML; those that are not at their default are marked."""
    from correnteza.show import as_toml

    print(as_toml(settings_of(config, given(port_base, data_dir, rate))), end="")


def _environment(flags: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The same as variables, for the services that `run` starts."""
    return {
        f"CORRENTEZA_{section}__{key}".upper(): str(value) for section, keys in flags.items() for key, value in keys.items()
    }
