"""The commands about model versions: `correnteza models ...`, and `correnteza predict`.

Invariant: every command imports what it needs when it runs, so that `--help` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from correnteza.errors import ConfigError, InputError
from correnteza.options import (
    Config,
    DataDir,
    Json,
    PortBase,
    Version,
    client_of,
    given,
    integer,
    print_json,
    print_table,
    settings_of,
)

NDJSON = "application/x-ndjson"
"""As `codec.NDJSON`, whose module loads too much for `--help`."""
LINES_AT_ONCE = 1000
"""Records of a file that are asked in one request."""
FAULTS = 10
"""Most faults of records that are printed."""

Last = Annotated[int, typer.Option(parser=integer, help="Tell of so many versions, the last ones.", metavar="VERSIONS")]
LISTED = 20
"""Versions that are listed, where nothing else is asked for."""


def models_list(last: Last = LISTED, config: Config = None, port_base: PortBase = None, as_json: Json = False) -> None:
    """List the last model versions, oldest first."""
    from correnteza.table import models

    answer = client_of(settings_of(config, given(port_base))).models()[-last:]
    if as_json:
        print_json(answer)
    else:
        print_table(models(answer))


def models_show(number: Version, config: Config = None, port_base: PortBase = None) -> None:
    """Print all that is known of a model version, as JSON."""
    print_json(client_of(settings_of(config, given(port_base))).model(number))


def models_history(last: Last = 100, config: Config = None, port_base: PortBase = None) -> None:
    """Tell what became of the model versions, in sentences, oldest first; times are UTC."""
    for sentence in client_of(settings_of(config, given(port_base))).history(last):
        print(sentence)


def models_promote(number: Version, config: Config = None, port_base: PortBase = None) -> None:
    """Put a model version into service and keep it there until `models unpin`."""
    client_of(settings_of(config, given(port_base))).promote(number)
    print(f"version {number} is in service; `correnteza models unpin` lets newer ones replace it again")


def models_unpin(config: Config = None, port_base: PortBase = None) -> None:
    """Let newer model versions into service again, after `models promote`."""
    client_of(settings_of(config, given(port_base))).unpin()
    print("newer model versions go into service again")


def models_rebuild(
    number: Version,
    keep: Annotated[bool, typer.Option("--keep", help="Put its files back where they were removed.")] = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> int:
    """Train a model version again from the log, and compare it with the registered one.

    It reads the data folder, whether the services run or not. The exit code is 0 where both are the same
    file, byte by byte, and 1 where they are not.
    """
    from correnteza.output import print_error
    from correnteza.trainer import rebuild

    rebuilt = rebuild.run(settings_of(config, given(data_dir=data_dir)), number, keep)
    for note in rebuilt.notes:
        print(f"note: {note}")
    if rebuilt.equal:
        print(rebuilt)
        return 0
    print_error(str(rebuilt))
    return 1


COMMANDS: dict[str, Callable[..., int | None]] = {
    "list": models_list,
    "show": models_show,
    "history": models_history,
    "promote": models_promote,
    "unpin": models_unpin,
    "rebuild": models_rebuild,
}
"""The commands of the group `models`."""


def predict(
    record: Annotated[str | None, typer.Option(help="A record, or an array of them, as JSON.", metavar="JSON")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with a record per line (NDJSON).", metavar="FILE")] = None,
    number: Annotated[
        int | None,
        typer.Option(
            "--version", parser=integer, help="Ask this model version.", show_default="the one in service", metavar="VERSION"
        ),
    ] = None,
    config: Config = None,
    port_base: PortBase = None,
) -> None:
    """Predict the target of a record, or of those in a file.

    Fields that are left out are missing values. With --version, that version answers, whether it is in
    service or not, and nothing is stored. A file is answered with a JSON object per line.
    """
    import json

    if (record is None) == (file is None):
        raise typer.BadParameter("expected either --record or --file")
    client = client_of(settings_of(config, given(port_base)))
    if record is not None:
        try:
            print_json(client.predict(record.encode("utf-8", "surrogateescape"), version=number))
        except InputError as error:
            raise _explained(error, lambda index: f"record {index}") from None
    for lines in () if file is None else _parts(file):
        places = list(lines)
        try:
            answers = client.predict(b"\n".join(lines.values()), version=number, media=NDJSON)
        except InputError as error:
            raise _explained(error, lambda index: f"{file}: line {places[index]}") from None  # noqa: B023 - called at once
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False))


def _parts(file: Path) -> Iterator[dict[int, bytes]]:
    """The lines of a file that are not blank, by their number from 1, in parts that fit into a request."""
    try:
        with file.open("rb") as stream:
            lines = ((number, line.strip()) for number, line in enumerate(stream, 1) if line.strip())
            while part := dict(islice(lines, LINES_AT_ONCE)):
                yield part
    except OSError as error:
        raise ConfigError(f"--file {file}: cannot be read: {error.strerror}") from None


def _explained(error: InputError, place: Callable[[int], str]) -> InputError:
    """The refusal with its faults, a line each."""
    faults = [f"{place(fault.index)}: {fault.field or 'as a whole'}: {fault.reason}" for fault in error.problems[:FAULTS]]
    return InputError("\n".join(faults) or str(error))
