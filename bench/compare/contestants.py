"""The peers: what is installed, how it is started, what it is asked, where its answer stands.

Each is one process that predicts, with the settings that its documentation recommends for production as far as
they are about one process: no access log, no reload, no batching across requests (one client waits for its answer).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import forest
from compare.environments import python, run

PROGRAMS = Path(__file__).parent / "peers"
Record = dict[str, float]


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that answers single predictions over HTTP.

    Args:
        name: as in `--only`.
        requirements: for pip.
        packages: whose versions are reported.
        command: the command line, given the environment's folder and a port.
        path: of its route.
        body: the request's body for a record, as a JSON value.
        prediction: the number in an answer.
        note: how it was run.
        prepare: what has to be made before it can be started, given the environment's folder and a port.
        environment: name of its environment; by default its own name.
    """

    name: str
    requirements: Sequence[str]
    packages: Sequence[str]
    command: Callable[[Path, int], Sequence[str]]
    path: str
    body: Callable[[Record], Any]
    prediction: Callable[[Any], float]
    note: str
    prepare: Callable[[Path, int], None] = lambda _place, _port: None
    environment: str = ""


@dataclass(frozen=True, slots=True)
class Loop:
    """A peer that standardises a stream in one process and says itself how fast it was.

    Args:
        name: as in `--only`.
        environment: name of its environment.
        requirements: for pip.
        packages: whose versions are reported.
        command: the command line, given the environment's folder and a database that is not there yet.
        note: what is counted.
    """

    name: str
    environment: str
    requirements: Sequence[str]
    packages: Sequence[str]
    command: Callable[[Path, Path], Sequence[str]]
    note: str


def _program(name: str, *arguments: object) -> Callable[[Path, Any], list[str]]:
    """One of `peers/`, run with the environment's interpreter; the last argument is a port or a database."""
    return lambda place, last: [str(python(place)), str(PROGRAMS / name), *map(str, arguments), str(last)]


def _rows(record: Record) -> list[list[float]]:
    return [list(record.values())]


def _tensor(record: Record) -> dict[str, Any]:
    """A request of the Open Inference Protocol."""
    values = list(record.values())
    return {"inputs": [{"name": "x", "shape": [1, len(values)], "datatype": "FP64", "data": values}]}


def _save_mlflow(place: Path, _port: int) -> None:
    if not (place / "run" / "saved").exists():
        program = [str(python(place)), str(PROGRAMS / "mlflow_model.py"), str(place / "run" / "saved")]
        run("mlflow", program, 120, place)


def _mlflow(place: Path, port: int) -> list[str]:
    saved = str(place / "run" / "saved")
    return [str(place / "bin" / "mlflow"), *f"models serve --env-manager local -w 1 -p {port} -m".split(), saved]


def _bentoml(place: Path, port: int) -> list[str]:
    where = ["--working-dir", str(PROGRAMS), "--host", "127.0.0.1", "--port", str(port)]
    return [str(place / "bin" / "bentoml"), "serve", "bento_server:Forest", *where]


def _write_mlserver(place: Path, port: int) -> None:
    folder = place / "run" / "served"
    folder.mkdir(exist_ok=True)
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    (folder / "settings.json").write_text(json.dumps({"debug": False, "host": "127.0.0.1", "parallel_workers": 0, **ports}))
    model = {"implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": str(place / "run" / "model.joblib")}}
    (folder / "model-settings.json").write_text(json.dumps({"name": "forest", **model}))


def _mlserver(place: Path, _port: int) -> list[str]:
    return [str(place / "bin" / "mlserver"), "start", str(place / "run" / "served")]


SKLEARN = "scikit-learn>=1.4"
LITERAL = ("fastapi>=0.110", "uvicorn[standard]", SKLEARN, "joblib", "numpy")

SERVERS = (
    Server(
        "literal",
        LITERAL,
        ("fastapi", "pydantic", "uvicorn", "scikit-learn"),
        _program("literal_server.py"),
        "/predict",
        dict,
        lambda answer: float(answer["prediction"]),
        "FastAPI, a pydantic model, joblib, `.predict` per request in a plain function; uvicorn, uvloop, httptools, one worker",
    ),
    Server(
        "literal-async",
        LITERAL,
        ("fastapi", "pydantic", "uvicorn", "scikit-learn"),
        _program("literal_server.py"),
        "/predict-async",
        dict,
        lambda answer: float(answer["prediction"]),
        "the same in a coroutine, which blocks the event loop",
        environment="literal",
    ),
    Server(
        "mlflow",
        ("mlflow>=2.12", SKLEARN),
        ("mlflow", "fastapi", "uvicorn", "scikit-learn"),
        _mlflow,
        "/invocations",
        lambda record: {"inputs": _rows(record)},
        lambda answer: float(answer["predictions"][0]),
        "`mlflow models serve --env-manager local -w 1`, a saved scikit-learn model without signature, `inputs`",
        _save_mlflow,
    ),
    Server(
        "bentoml",
        ("bentoml>=1.2", SKLEARN),
        ("bentoml", "uvicorn", "scikit-learn"),
        _bentoml,
        "/predict",
        lambda record: {"rows": _rows(record)},
        lambda answer: float(answer[0]),
        "`bentoml serve`, one worker, numpy arrays, access log and metrics off, no adaptive batching",
    ),
    Server(
        "mlserver",
        ("mlserver>=1.5", "mlserver-sklearn>=1.5"),
        ("mlserver", "mlserver-sklearn", "fastapi", "scikit-learn"),
        _mlserver,
        "/v2/models/forest/infer",
        _tensor,
        lambda answer: float(answer["outputs"][0]["data"][0]),
        "`mlserver start`, debug off, parallel_workers 0 (the model runs in the server's process), no adaptive batching",
        _write_mlserver,
    ),
    Server(
        "rayserve",
        ("ray[serve]>=2.10", SKLEARN),
        ("ray", "starlette", "scikit-learn"),
        _program("ray_server.py"),
        "/",
        lambda record: {"rows": _rows(record)},
        lambda answer: float(answer["predictions"][0]),
        "Ray Serve, one replica behind its HTTP proxy (a process of its own), access log off, no batching",
    ),
)

LOOP_ROWS = 100_000
HOP = Server(
    "literal-hop",
    LITERAL,
    ("fastapi", "pydantic", "scikit-learn"),
    lambda place, port: [str(python(place)), str(PROGRAMS / "literal_hop.py"), str(port), str(place / "run" / "hop.db")],
    "/normalize",
    dict,
    lambda answer: float(answer["x0"]),
    "FastAPI, `StandardScaler.partial_fit` and `transform` per record, one commit per record, 16 connections",
    lambda place, _port: remove_database(place / "run" / "hop.db"),
    "literal",
)
LOOPS = (
    Loop(
        "literal-loop",
        "literal",
        LITERAL,
        ("scikit-learn",),
        _program("literal_hop.py", "loop", LOOP_ROWS // 20),
        "the same without HTTP, one commit per 10,000 records",
    ),
    Loop(
        "river",
        "river",
        ("river>=0.21",),
        ("river",),
        _program("river_loop.py", LOOP_ROWS),
        "records in memory, `StandardScaler` per record, SQLite, one commit per 10,000 records; no transport",
    ),
    Loop(
        "quixstreams",
        "quixstreams",
        ("quixstreams>=3",),
        ("quixstreams",),
        lambda place, _database: [str(python(place)), str(PROGRAMS / "quix_loop.py"), str(LOOP_ROWS)],
        "JSON bytes to JSON bytes through its row processing; no broker, no transport, nothing stored",
    ),
)


def remove_database(path: Path) -> None:
    """An SQLite file and what stands beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def expected(records: Sequence[Record]) -> list[float]:
    """What the forest predicts, by scikit-learn in this process."""
    return [float(p) for p in forest.train().predict([list(record.values()) for record in records])]


NAMES = tuple(peer.name for peer in (*SERVERS, HOP, *LOOPS))
