"""Features with memory: what ten of them add to the latency of `POST /predict`.

    python bench/memory_predict.py [--requests 3000]

Two pipelines of the demo's people at 100 records/s, one with ten features by job and one without any, are asked in turn
over one connection each, one record per request: first both while the stream flows and is learned from, then both by a
server without a learner. The last line is JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from system import PORT_BASE, System, report, wait_for

FEATURES = [
    {"name": "income_lag_1", "of": "income", "how": "lag", "rows": 1, "by": "job"},
    {"name": "income_lag_24", "of": "income", "how": "lag", "rows": 24, "by": "job"},
    {"name": "income_mean_6", "of": "income", "how": "mean", "rows": 6, "by": "job"},
    {"name": "income_mean_24", "of": "income", "how": "mean", "rows": 24, "by": "job"},
    {"name": "income_std_24", "of": "income", "how": "std", "rows": 24, "by": "job"},
    {"name": "income_max_60_s", "of": "income", "how": "max", "seconds": 60, "by": "job"},
    {"name": "income_mean_60_s", "of": "income", "how": "mean", "seconds": 60, "by": "job"},
    {"name": "hours_delta", "of": "weekly_hours", "how": "delta", "rows": 1, "by": "job"},
    {"name": "hours_ewm_6", "of": "weekly_hours", "how": "ewm", "rows": 6, "by": "job"},
    {"name": "since", "of": "event_time", "how": "since", "by": "job"},
]
FIELDS = ("job", "age", "education_years", "experience_years", "weekly_hours")
RECORDS = 200
"""Records of the stream that are asked for, so that their keys are known."""
ROWS = 3000
"""Records in the memory before the first question."""
SERVICES = ("generator", "normalizer", "trainer")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--port-base", type=int, default=PORT_BASE)
    arguments = parser.parse_args()
    common = {"TRAINER__MIN_ROWS": 1000, "TRAINER__NICE": 0, "GENERATOR__RECORDS_PER_SECOND": 1000}
    given: tuple[dict[str, object], ...] = ({**common, "FEATURES": json.dumps(FEATURES)}, {**common})
    with ExitStack() as stack:
        both = [
            stack.enter_context(System(settings, SERVICES, arguments.port_base + 10 * place))
            for place, settings in enumerate(given)
        ]
        for system in both:
            wait_for(lambda: system.get("normalizer", "/status")["raw_rows"] >= ROWS, 300, "rows")  # noqa: B023 - called at once
            put(system, "/rate", {"records_per_second": 100})
            wait_for(lambda: ready(system.port("trainer")), 300, "the first model")  # noqa: B023 - called at once
        bodies = questions(both[0])
        flowing = in_turn([system.port("trainer") for system in both], bodies, arguments.requests)
        age = both[0].get("trainer", "/status")["memory"]
        with alone(both, arguments.port_base + 40) as ports:
            quiet = in_turn(ports, bodies, arguments.requests)
    figures = {f"{what}_ms": round(ms, 4) for what, ms in zip(("with", "without"), quiet, strict=True)}
    figures |= {f"{what}_learning_ms": round(ms, 4) for what, ms in zip(("with", "without"), flowing, strict=True)}
    ratios = {"ratio": round(quiet[0] / quiet[1], 3), "ratio_learning": round(flowing[0] / flowing[1], 3)}
    lines = [
        f"one record, one connection, a server without a learner: median {quiet[0]:.3f} ms with ten features of memory, "
        f"{quiet[1]:.3f} ms without any: **{ratios['ratio']} times as long**",
        f"while 100 records/s flow and are learned from: {flowing[0]:.3f} ms and {flowing[1]:.3f} ms, "
        f"{ratios['ratio_learning']} times as long; the memory was {age['rows_behind']} rows and {age['behind_s']} s behind",
    ]
    report("bench/memory_predict.py", {**figures, **ratios}, lines)


def questions(system: System) -> list[str]:
    """Records of the stream, without their event times: what is asked is asked about now."""
    rows = system.get("generator", f"/records?limit={RECORDS}")["records"]
    return [json.dumps({name: row[name] for name in FIELDS}) for row in rows]


def put(system: System, path: str, body: object) -> None:
    """Change the generator's rate."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port("generator"))
    connection.request("PUT", path, json.dumps(body), {"Content-Type": "application/json"})
    if connection.getresponse().status != http.HTTPStatus.OK:
        raise SystemExit(f"{path} was refused")


@contextmanager
def alone(systems: list[System], port: int) -> Iterator[list[int]]:
    """One more server over the data of each, while their trainers are stopped; gives the ports."""
    for system in systems:
        system.processes["trainer"].terminate()
        system.processes["trainer"].wait(15)
    ports = [port + place for place in range(len(systems))]
    servers = [
        subprocess.Popen(
            [sys.executable, "-m", "correnteza", "server", "--port", str(one)],
            env=system.environment,
            cwd=system.folder,
            stdout=subprocess.DEVNULL,
        )
        for system, one in zip(systems, ports, strict=True)
    ]
    try:
        for one in ports:
            wait_for(lambda: ready(one), 120, "the server")  # noqa: B023 - called at once
        yield ports
    finally:
        for server in servers:
            server.terminate()
            server.wait(15)


def ready(port: int) -> bool:
    """Whether a server answers predictions."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.HTTPStatus.OK
    except OSError:
        return False


def in_turn(ports: list[int], bodies: list[str], requests: int) -> list[float]:
    """Median time of an answer at each port, in ms; the ports are asked in turn, so that what else runs here hits all."""
    connections = [http.client.HTTPConnection("127.0.0.1", port) for port in ports]
    times: list[list[float]] = [[] for _ in ports]
    for number in range(requests):
        body = bodies[number % len(bodies)]
        for connection, taken in zip(connections, times, strict=True):
            began = time.perf_counter()
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            taken.append(time.perf_counter() - began)
            if answer.status != http.HTTPStatus.OK:
                raise SystemExit(f"POST /predict answered {answer.status}")
    return [1e3 * statistics.median(taken[len(taken) // 10 :]) for taken in times]


if __name__ == "__main__":
    main()
