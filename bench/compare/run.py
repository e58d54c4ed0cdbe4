"""Compares our prediction endpoint and our normalizer with peers: same forest, same records, same load, one run.

Each peer gets a virtual environment under `build/compare`, made at the first run. One that cannot be installed
or does not start is skipped, with the reason. Nothing runs beside the one that is measured but the load
generator, whose own limit is measured too. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil

import system
from compare import forest, ours
from compare.contestants import HOP, LOOPS, NAMES, SERVERS, Loop, Record, Server, expected, remove_database
from compare.environments import Skipped, environment, model, prepare, run, versions
from predict import limit_of_the_load_generator

PORT = system.PORT_BASE + 60
LOAD = Path(__file__).parents[1] / "load.py"
CONNECTIONS = (1, 16)
CHECKED = 20
TOLERANCE = 1e-6
START_S = 90
STOP_S = 10
LOOP_S = 180
CAVEATS = (
    "One machine, loopback; the load generator is a process of its own and shares the cores with what it measures.",
    "One record per request, always the same one. Before it is measured, each server answers 20 other records as "
    "scikit-learn does, to 1e-6 of the value.",
    "Peers run scikit-learn's forest with its own `.predict` (n_jobs unset), as their documentation shows; ours runs the "
    "same trees as ONNX. Much of the ratio is that. None of them was given an ONNX runtime.",
    "Ours also stores every answer in SQLite, which none of the peers does.",
    "Not tuned in peers: several workers or replicas (two cores would at most double them), batching across requests "
    "(for one client at a time it only adds its waiting time), the number of threads of the operating system.",
)


@dataclass(frozen=True, slots=True)
class Found:
    """Figures of one server.

    Args:
        name: of the peer, or `correnteza`.
        loads: figures of `bench/load.py` by number of connections.
        versions: of its libraries.
        note: how it was run.
    """

    name: str
    loads: dict[int, dict[str, Any]]
    versions: str
    note: str


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--records", type=int, default=1_000_000, help="records that our normalizer reads")
    parser.add_argument("--quick", action="store_true", help="3 s for each measurement, 300,000 records")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    arguments = parser.parse_args()
    system.RESULTS = arguments.results
    seconds, records = (3.0, 300_000) if arguments.quick else (arguments.seconds, arguments.records)
    skipped: list[str] = []
    servers = compare_servers([peer for peer in SERVERS if peer.name in arguments.only], seconds, skipped)
    streams = compare_streams([peer for peer in (HOP, *LOOPS) if peer.name in arguments.only], seconds, records, skipped)
    figures = figures_of(servers, streams)
    system.report("bench/compare/run.py", figures, [*server_lines(servers), *stream_lines(streams), *CAVEATS, *skipped])


def compare_servers(peers: Sequence[Server], seconds: float, skipped: list[str]) -> list[Found]:
    """Each peer, and ours in front."""
    if not peers:
        return []
    record = forest.records(1, seed=3)[0]
    print(f"the load generator alone: {limit_of_the_load_generator():,.0f} requests/s", flush=True)
    before = measure_ours(seconds, record)
    found: list[Found] = []
    for peer in peers:
        with told(skipped):
            found.append(measure(peer, seconds, record))
    return [slower(before, measure_ours(seconds, record)), *found]


def measure_ours(seconds: float, record: Record) -> Found:
    """Figures of our own server."""
    with ours.server():
        check("correnteza", ours.PORT, ours.PATH, dict, ours.prediction)
        loads = {n: load(ours.PORT, ours.PATH, n, seconds, record) for n in CONNECTIONS}
    note = f"`correnteza trainer`, defaults, one process; the slower of two measurements, before and after the others; {busy()}"
    return Found("correnteza", loads, f"Python {platform.python_version()}", note)


def slower(one: Found, other: Found) -> Found:
    """The one with fewer requests per second; the machine may have been busier then."""
    return min(one, other, key=lambda found: float(found.loads[CONNECTIONS[-1]]["requests_per_s"]))


def busy() -> str:
    """How busy the machine has been in the last minute, the measurement itself included."""
    return f"load average {os.getloadavg()[0]:.1f}"


def measure(peer: Server, seconds: float, record: Record) -> Found:
    """Figures of one peer."""
    place = prepare(peer.environment or peer.name, peer.requirements)
    model(peer.name, place)
    peer.prepare(place, PORT)
    with running(peer, place):
        answer_of(peer, record)
        if peer is not HOP:
            check(peer.name, PORT, peer.path, peer.body, peer.prediction)
        loads = {n: load(PORT, peer.path, n, seconds, peer.body(record)) for n in CONNECTIONS}
    return Found(peer.name, loads, versions(place, peer.packages), f"{peer.note}; {busy()}")


def compare_streams(peers: Sequence[Server | Loop], seconds: float, records: int, skipped: list[str]) -> dict[str, Any]:
    """Records per second by name, with versions and notes."""
    if not peers:
        return {}
    rate = ours.hop_records_per_s(records)
    note = f"the normalizer: {records:,} records over HTTP from a generator's log, checked, standardised, into SQLite"
    found: dict[str, Any] = {"correnteza": (rate, "", note)}
    for peer in peers:
        with told(skipped):
            if isinstance(peer, Loop):
                found |= loop(peer)
            else:
                one = measure(peer, seconds, forest.records(1, seed=3)[0])
                found[peer.name] = (one.loads[CONNECTIONS[-1]]["requests_per_s"], one.versions, one.note)
    return found


def loop(peer: Loop) -> dict[str, Any]:
    """What a peer's program says of itself; further figures get their names behind the peer's."""
    place = prepare(peer.environment, peer.requirements)
    database = place / "run" / "loop.db"
    environment(place)
    remove_database(database)
    said = json.loads(run(peer.name, peer.command(place, database), LOOP_S, place).splitlines()[-1])
    remove_database(database)
    about = versions(place, peer.packages)
    found = {peer.name: (said["records_per_s"], about, peer.note)}
    if "chain_records_per_s" in said:
        found[f"{peer.name}-chain"] = (said["chain_records_per_s"], about, "the same without bytes: Python objects in and out")
    return found


@contextmanager
def told(skipped: list[str]) -> Iterator[None]:
    """A peer that cannot take part is told and left out."""
    try:
        yield
    except Skipped as error:
        print(f"skipped: {error}", flush=True)
        skipped.append(f"skipped: {error}")


@contextmanager
def running(peer: Server, place: Path) -> Iterator[None]:
    """Start a peer, wait until its port is open, and end it with all that it started."""
    log = place / "run" / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            peer.command(place, PORT), env=environment(place), cwd=place / "run", stdout=output, stderr=output
        )
    family = [psutil.Process(process.pid)]
    try:
        _wait_for_answer(peer, process, log)
        family = [family[0], *family[0].children(recursive=True)]
        yield
    finally:
        end(process, family)


def _wait_for_answer(peer: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    record, deadline = forest.records(1, seed=3)[0], time.monotonic() + START_S
    while True:
        try:
            answer_of(peer, record)
        except (OSError, ValueError, KeyError):
            if process.poll() is not None or time.monotonic() > deadline:
                last = (log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"])[-1]
                raise Skipped(f"{peer.name}: does not answer; the last it wrote: {last[:300]}") from None
            time.sleep(0.2)
        else:
            return


def end(process: subprocess.Popen[bytes], family: Sequence[psutil.Process]) -> None:
    """Ask, wait, and kill what is left of the processes that we started."""
    family = [*family, *(family[0].children(recursive=True) if family[0].is_running() else [])]
    process.terminate()
    _, alive = psutil.wait_procs(set(family), STOP_S)
    for one in alive:
        one.kill()
    process.wait()


def answer_of(peer: Server, record: Record) -> float:
    """The number that a peer answers."""
    return peer.prediction(ask_json(PORT, peer.path, peer.body(record)))


def ask_json(port: int, path: str, body: Any) -> Any:
    """One request."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def check(name: str, port: int, path: str, body: Any, prediction: Any) -> None:
    """Compare answers with scikit-learn's in this process.

    Raises:
        Skipped: they differ, so it is not the same model.
    """
    records = forest.records(CHECKED, seed=4)
    for record, right in zip(records, expected(records), strict=True):
        given = prediction(ask_json(port, path, body(record)))
        if abs(given - right) > TOLERANCE * max(1.0, abs(right)):
            raise Skipped(f"{name}: answers {given!r} to {record}; expected {right!r}: not the same model")


def load(port: int, path: str, connections: int, seconds: float, body: Any) -> dict[str, Any]:
    """Figures of one run of the load generator, in its own process.

    Raises:
        Skipped: requests failed.
    """
    command = [sys.executable, str(LOAD), str(port), path, str(connections), str(seconds)]
    done = subprocess.run(command, input=json.dumps(body).encode(), capture_output=True, check=False, timeout=seconds + 60)
    figures: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"failures": done.stderr[-300:]}
    if figures["failures"]:
        raise Skipped(f"port {port}, {path}, {connections} connections: requests failed: {figures['failures']!r}")
    print(f"{path} {connections}: {figures['requests_per_s']:,.0f}/s, p99 {figures['p99_ms']:.2f} ms", flush=True)
    return figures


def figures_of(servers: Sequence[Found], streams: dict[str, Any]) -> dict[str, float | int]:
    """What the last line says: requests and records per second, p99, and ours divided by each peer's."""
    figures: dict[str, float | int] = {}
    for one in servers:
        many = one.loads[CONNECTIONS[-1]]
        figures[f"{one.name}_requests_per_s"] = round(many["requests_per_s"], 1)
        figures[f"{one.name}_p99_ms"] = round(many["p99_ms"], 3)
        figures[f"{one.name}_p50_ms_one_connection"] = round(one.loads[1]["p50_ms"], 3)
        if one is not servers[0]:
            ratio = servers[0].loads[CONNECTIONS[-1]]["requests_per_s"] / many["requests_per_s"]
            figures[f"ratio_{one.name}"] = round(ratio, 1)
    for name, (rate, *_) in streams.items():
        figures[f"{name}_records_per_s"] = round(rate)
        if name != "correnteza":
            figures[f"ratio_stream_{name}"] = round(streams["correnteza"][0] / rate, 2)
    return figures


def server_lines(servers: Sequence[Found]) -> list[str]:
    """A line for each server, ours first."""
    lines = []
    for one in servers:
        few, many = (one.loads[n] for n in CONNECTIONS)
        ratio = servers[0].loads[CONNECTIONS[-1]]["requests_per_s"] / many["requests_per_s"]
        lines.append(
            f"`POST`, {one.name}: **{many['requests_per_s']:,.0f} requests/s**, p99 {many['p99_ms']:.2f} ms at "
            f"{CONNECTIONS[-1]} connections; {few['requests_per_s']:,.0f}/s, p50 {few['p50_ms']:.3f} ms at 1"
            f"{'' if one is servers[0] else times(ratio)} ({one.versions}; {one.note})"
        )
    return lines


def stream_lines(streams: dict[str, Any]) -> list[str]:
    """A line for each stream, ours first."""
    return [
        f"one hop, {name}: **{rate:,.0f} records/s**{'' if name == 'correnteza' else times(streams['correnteza'][0] / rate)} "
        f"({'; '.join(filter(None, (about, note)))})"
        for name, (rate, about, note) in streams.items()
    ]


def times(ratio: float) -> str:
    """A ratio in words."""
    return f"; ours is **{ratio:,.3g} times** as fast"


if __name__ == "__main__":
    main()
