"""Latency and throughput of `POST /predict`: while retraining, alone, with malformed requests, with swaps, with batches.

One server process, 16 connections, one record per request. First the demo flows at 100 records/s and every
finished training is followed by the next at once; then the same without any training. Then one more server
(`correnteza server`) answers over the same data without a learner: alone; with every tenth request malformed; with
another version put into service every second; and while one connection more sends batches of 10,000 records without
pause. The load generator is a process of its own; its own limit is measured against a server that does nothing, and
printed beside the result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import requests

from correnteza.codec import ARROW, JSON, NDJSON, arrow_stream
from correnteza.config import Settings
from correnteza.trainer.predictor import ROWS_AT_ONCE, Predictor
from correnteza.trainer.questions import Reader
from system import PORT_BASE, PORTS, System, report, wait_for

CONNECTIONS = 16
NEVER_S = 1_000_000
"""Seconds between trainings where there are to be none."""
BATCH_ROWS = 10_000
PAUSE_S = 0.2
"""Between batches; long enough for the predictions of the last one to be stored."""
RECORD = {"job": "Engenheiro civil", "age": 37.0, "education_years": 16.0, "experience_years": 12.0, "weekly_hours": 40.0}
MALFORMED = (
    {**RECORD, "age": "old"},
    {**RECORD, "shoe_size": 41},
    {**RECORD, "weekly_hours": -1},
    '{"age": 37',
    "null",
    "not JSON",
)
"""Bodies that are refused."""
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
    port = PORT_BASE + PORTS["trainer"]
    with System(settings, ("generator", "normalizer", "trainer")) as system:
        wait_for(lambda: system.get("trainer", "/health/ready") is not None, 120, "the first model")
        wait_for(lambda: int(system.get("trainer", "/status")["learned_rows"]) > 15_000, 120, "a full window")
        slow_down(system)
        before = newest(system)
        found = [load(port, seconds) for _ in range(runs)]
        trained = newest(system) - before
        single = load(port, min(seconds, 5.0), connections=1)
        system.restart("trainer", {"TRAINER__RETRAIN_EVERY_S": NEVER_S})
        wait_for(lambda: level(system), 120, "the trainer to be level")
        still = [load(port, seconds) for _ in range(runs)]
        with alone_on(system, port):
            alone, mixed = [], []
            for _ in range(runs):
                alone.append(load(port, seconds))
                mixed.append(load(port, seconds, malformed=MALFORMED))
            with meanwhile(lambda: swap(port)) as swaps:
                swapped = [load(port, seconds) for _ in range(runs)]
            batches = {name: batch_ms(port, kind, body, PAUSE_S) for name, (kind, body) in bodies().items()}
            hurried = {name: batch_ms(port, kind, body, 0.0) for name, (kind, body) in bodies().items()}
            model_ms = model_alone_ms(system)
            with requests.Session() as one, meanwhile(lambda: ask(one, port, *bodies()["columns"])) as large:
                beside = [load(port, seconds) for _ in range(runs)]
    if any(one["failures"] for one in (*found, *still, *alone, *mixed, *swapped, *beside)):
        raise SystemExit(f"requests failed: {found}, {still}, {alone}, {mixed}, {swapped}, {beside}")
    if any(one["answers"] != 1 for one in (*alone, *mixed)):
        raise SystemExit(f"one version gave the same record several answers: {alone}, {mixed}")
    names = ("requests_per_s", "p50_ms", "p99_ms")
    figures = {name: median(found, name) for name in names}
    figures |= {"p50_ms_one_connection": round(single["p50_ms"], 3), "versions_trained": trained}
    figures |= {"p99_ms_no_training": median(still, "p99_ms"), "requests_per_s_no_training": median(still, "requests_per_s")}
    figures |= {"p99_ms_alone": median(alone, "p99_ms"), "p99_ms_swaps": median(swapped, "p99_ms")}
    figures |= {"p99_ms_malformed": median(mixed, "p99_ms"), "requests_per_s_alone": median(alone, "requests_per_s")}
    figures |= {"p99_ms_beside_batches": median(beside, "p99_ms"), "model_ms_10000": round(model_ms, 1)}
    figures |= {f"batch_ms_{name}": round(ms, 1) for name, ms in batches.items()}
    figures |= {f"batch_ms_{name}_hurried": round(ms, 1) for name, ms in hurried.items()}
    quiet, same = figures["p99_ms_alone"], figures["p99_ms_no_training"]
    report(
        "bench/predict.py",
        figures,
        [
            f"one record each, {CONNECTIONS} connections, one server, retraining without pause "
            f"({trained} versions during {runs} runs of {seconds:g} s): "
            f"median **{figures['requests_per_s']:,.0f} requests/s**, "
            f"p50 {figures['p50_ms']} ms, **p99 {figures['p99_ms']} ms**, no failed request",
            f"one connection: p50 {figures['p50_ms_one_connection']} ms",
            f"the same services and the same stream, but no training: {figures['requests_per_s_no_training']:,.0f} requests/s, "
            f"p99 {same} ms; so retraining makes p99 {figures['p99_ms'] / same:.2f} times as long",
            f"one server and nothing else: {median(alone, 'requests_per_s'):,.0f} requests/s, p99 {quiet} ms; so stream, "
            f"learner and retraining together make p99 {figures['p99_ms'] / quiet:.2f} times as long",
            f"every tenth request malformed ({sum(one['refused'] for one in mixed):,} were refused): the good ones' answers "
            f"are the same, their p99 {figures['p99_ms_malformed']} ms, {figures['p99_ms_malformed'] / quiet:.2f} times that "
            "without",
            f"another version in service every second ({len(swaps)} swaps): p99 {figures['p99_ms_swaps']} ms, "
            f"{figures['p99_ms_swaps'] / quiet:.2f} times that without, no failed request",
            f"10,000 records in one request: {told(batches)}; without a pause, while those of the last one are still being "
            f"stored: {told(hurried)}; the model alone, in one thread, {model_ms:.1f} ms",
            f"single records while batches of 10,000 are answered without pause ({len(large)} of them): "
            f"p99 {figures['p99_ms_beside_batches']} ms",
            f"the load generator alone, against a server that does nothing: {ceiling:,.0f} requests/s",
        ],
    )


def told(times_ms: Mapping[str, float]) -> str:
    """Times by name, in words."""
    return ", ".join(f"{name} {ms:.1f} ms" for name, ms in times_ms.items())


def median(found: Sequence[Mapping[str, float]], name: str) -> float:
    """The median of one figure over the runs."""
    return round(statistics.median(one[name] for one in found), 3)


def level(system: System) -> bool:
    """Whether the trainer answers, and has learned all that came."""
    status = system.get("trainer", "/status")
    return status is not None and status["ready"] and status.get("lag_rows", 1) == 0 and not status["training"]


@contextmanager
def alone_on(system: System, port: int) -> Iterator[None]:
    """Stop all services for the block; a server without a learner answers on the trainer's port."""
    for process in system.processes.values():
        process.terminate()
    for process in system.processes.values():
        process.wait(15)
    command = [sys.executable, "-m", "correnteza", "server", "--port", str(port), "--data-dir", str(system.folder)]
    server = subprocess.Popen(command, cwd=system.folder, stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: system.get("trainer", "/health/ready") is not None, 60, "the server")
        yield
    finally:
        server.terminate()
        server.wait(15)


@contextmanager
def meanwhile(call: Callable[[], object]) -> Iterator[list[object]]:
    """Call again and again from a thread for as long as the block lasts; gives what the calls returned."""
    done, found = threading.Event(), list[object]()

    def run() -> None:
        while not done.is_set():
            found.append(call())

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def swap(port: int) -> None:
    """Put the one of the two last versions into service that is not, and let the rest of a second pass."""
    began = time.perf_counter()
    url = f"http://127.0.0.1:{port}/models"
    old = next(one["version"] for one in requests.get(url, timeout=10).json()[-2:] if not one["in_service"])
    assert requests.post(f"{url}/{old}/promote", timeout=10).ok
    time.sleep(max(0.0, 1 - (time.perf_counter() - began)))


def bodies() -> dict[str, tuple[str, bytes]]:
    """Content type and body of 10,000 records, in each form."""
    rows = [{**RECORD, "age": 20.0 + i % 60} for i in range(BATCH_ROWS)]
    columns = {"columns": [*RECORD], "rows": [[*row.values()] for row in rows]}
    return {
        "array": (JSON, msgspec.json.encode(rows)),
        "columns": (JSON, msgspec.json.encode(columns)),
        "NDJSON": (NDJSON, msgspec.json.Encoder().encode_lines(rows)),
        "Arrow": (ARROW, arrow_stream(pa.RecordBatch.from_pylist(rows))),
    }


def ask(session: requests.Session, port: int, kind: str, body: bytes) -> float:
    """One request over a connection that stays; its time in ms. The answer comes as the question: Arrow for Arrow."""
    began = time.perf_counter()
    url, headers = f"http://127.0.0.1:{port}/predict", {"content-type": kind, "accept": kind}
    answer = session.post(url, body, headers=headers, timeout=30)
    took_s = time.perf_counter() - began
    assert answer.ok, answer.text
    return took_s * 1e3


def batch_ms(port: int, kind: str, body: bytes, pause_s: float) -> float:
    """Median time of some requests, after the first ones, with a pause behind each."""
    times = []
    with requests.Session() as session:
        for _ in range(25):
            times.append(ask(session, port, kind, body))
            time.sleep(pause_s)
    return statistics.median(times[5:])


def model_alone_ms(system: System) -> float:
    """Median time of the model itself for the same records, without HTTP, in this process."""
    version = max(int(path.name) for path in (system.folder / "models").iterdir() if path.name.isdecimal())
    predictor = Predictor((system.folder / "models" / str(version) / "model.onnx").read_bytes())
    question = Reader(Settings().schema_of_records).read(bodies()["array"][1], JSON)
    parts = [slice(first, first + ROWS_AT_ONCE) for first in range(0, BATCH_ROWS, ROWS_AT_ONCE)]
    times = []
    for _ in range(11):
        began = time.perf_counter()
        for part in parts:  # so that it is one thread that works
            predictor.predict(question.numbers[part], question.categories[part])
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e3


def slow_down(system: System) -> None:
    """From filling the window to the demo's rate."""
    answer = requests.put(system.url("generator", "/rate"), json={"records_per_second": 100}, timeout=10)
    assert answer.status_code == HTTPStatus.OK, answer.text


def newest(system: System) -> int:
    """Number of the newest model version."""
    return max(int(model["version"]) for model in system.get("trainer", "/models"))


def load(port: int, seconds: float, connections: int = CONNECTIONS, malformed: Sequence[object] = ()) -> dict[str, Any]:
    """Figures of one run of the load generator, in its own process."""
    lines = [json.dumps(body) if isinstance(body, dict) else str(body) for body in (RECORD, *malformed)]
    command = [sys.executable, str(Path(__file__).with_name("load.py")), str(port), "/predict", str(connections), str(seconds)]
    done = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=True)
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
