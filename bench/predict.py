"""Latency and throughput of single-record `POST /predict` while the learner retrains without pause.

One server process, 16 connections, one record per request; the demo flows at 100 records/s and every
finished training is followed by the next at once. The load generator is a process of its own; its own
limit is measured against a server that does nothing, and printed beside the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
from http import HTTPStatus
from pathlib import Path
from typing import Any

from system import PORT_BASE, PORTS, System, report, wait_for

CONNECTIONS = 16
RECORD = {"job": "Engenheiro civil", "age": 37.0, "education_years": 16.0, "experience_years": 12.0, "weekly_hours": 40.0}
NOTHING = """
import asyncio, uvloop
class P(asyncio.Protocol):
    def connection_made(self, t): self.t = t
    def data_received(self, d): self.t.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n{}")
async def main():
    s = await asyncio.get_running_loop().create_server(P, "127.0.0.1", %d)
    print("up", flush=True)
    await s.serve_forever()
uvloop.run(main())
"""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one run of 10 s")
    arguments = parser.parse_args()
    seconds, runs = (10.0, 1) if arguments.quick else (arguments.seconds, arguments.runs)
    settings = {"TRAINER__RETRAIN_EVERY_S": 0, "TRAINER__MIN_ROWS": 2000, "GENERATOR__RECORDS_PER_SECOND": 5000}
    ceiling = limit_of_the_load_generator()
    with System(settings, ("generator", "normalizer", "trainer")) as system:
        wait_for(lambda: system.get("trainer", "/health/ready") is not None, 120, "the first model")
        wait_for(lambda: int(system.get("trainer", "/status")["learned_rows"]) > 15_000, 120, "a full window")
        slow_down(system)
        before = newest(system)
        found = [load(PORT_BASE + PORTS["trainer"], seconds) for _ in range(runs)]
        trained = newest(system) - before
        alone = load(PORT_BASE + PORTS["trainer"], min(seconds, 5.0), connections=1)
    if any(one["failures"] for one in found):
        raise SystemExit(f"requests failed: {found}")
    names = ("requests_per_s", "p50_ms", "p99_ms")
    figures = {name: round(statistics.median(one[name] for one in found), 3) for name in names}
    figures |= {"p50_ms_one_connection": round(alone["p50_ms"], 3), "versions_trained": trained}
    report(
        "bench/predict.py",
        figures,
        [
            f"one record each, {CONNECTIONS} connections, one server, retraining without pause "
            f"({trained} versions during {runs} runs of {seconds:g} s): median **{figures['requests_per_s']:,.0f} requests/s**, "
            f"p50 {figures['p50_ms']} ms, **p99 {figures['p99_ms']} ms**, no failed request",
            f"one connection: p50 {figures['p50_ms_one_connection']} ms",
            f"the load generator alone, against a server that does nothing: {ceiling:,.0f} requests/s",
        ],
    )


def slow_down(system: System) -> None:
    """From filling the window to the demo's rate."""
    import requests

    answer = requests.put(system.url("generator", "/rate"), json={"records_per_second": 100}, timeout=10)
    assert answer.status_code == HTTPStatus.OK, answer.text


def newest(system: System) -> int:
    """Number of the newest model version."""
    return max(int(model["version"]) for model in system.get("trainer", "/models"))


def load(port: int, seconds: float, connections: int = CONNECTIONS) -> dict[str, Any]:
    """Figures of one run of the load generator, in its own process."""
    command = [sys.executable, str(Path(__file__).with_name("load.py")), str(port), "/predict", str(connections), str(seconds)]
    done = subprocess.run(command, input=json.dumps(RECORD).encode(), capture_output=True, check=True)
    return dict(json.loads(done.stdout))


def limit_of_the_load_generator() -> float:
    """Requests per second against a server that only answers `{}`."""
    port = PORT_BASE + 50
    server = subprocess.Popen([sys.executable, "-c", NOTHING % port], stdout=subprocess.PIPE)
    timer = threading.Timer(60, server.kill)
    timer.start()
    try:
        assert server.stdout is not None
        server.stdout.readline()
        return float(load(port, 2.0)["requests_per_s"])
    finally:
        timer.cancel()
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
