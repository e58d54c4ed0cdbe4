"""How well and how fast it learns: ours, a plain refit, and learners of River, on the same streams, in one run.

Test-then-train: each record is predicted before it is learned from. On the generated streams errors count after the
first 1,000 records, on the others from the first one. Each learner runs in a process of its own, one after the other;
its memory is that of this process and its children, the interpreter and the stream among it. Ours is the library
function behind `correnteza evaluate` with its defaults, and is given no setting but the schema; a record that came
before its first version counts with the running mean of the targets as its prediction.
The last line is one JSON object with our figures by stream.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

import streams
import system
from learning_peers import DIVERGED, LEARNERS, SLOW, SMALL_ONLY

WORKER = Path(__file__).with_name("learning_peers.py")
QUICK_ROWS = 2000
SAMPLE_S = 0.05
TIMEOUT_S = 1800.0
TITLES = {
    "ours": "**correnteza**",
    "plain": "plain refit: forest of 100 trees, 10,000 rows, every 1,000",
    "arf": "River `ARFRegressor(n_models=10)`",
    "hat": "River `HoeffdingAdaptiveTreeRegressor`",
    "linear": "River `StandardScaler \\| LinearRegression`",
    "amf": "River `AMFRegressor`",
}
GOALS = {"gra": 1.30, "lea": 1.27, "gsg": 1.50, "planes2d": 0.83, "mv": 0.12}
OURS = ("mae", "rmse", "records_per_s", "coverage", "coverage_min", "coverage_max", "peak_memory_mb", "recovery_rows")
COUNTS = ("ticks", "versions", "drifts", "unscored_rows", "start_s")
DIGITS = {"mae": 4, "rmse": 4, "records_per_s": 0, "coverage": 4, "coverage_min": 4, "coverage_max": 4, "peak_memory_mb": 0}
HEADS = ("learner", "records", "MAE", "RMSE", "records/s", "peak memory, MB", "coverage", "recovery, records")

Figures = dict[str, Any]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(LEARNERS), default=tuple(LEARNERS), metavar="LEARNER")
    parser.add_argument("--stream", action="append", choices=streams.NAMES, help="may be repeated; all by default")
    parser.add_argument("--rows", type=int, default=0, help="at most so many of each stream; drifts keep their proportion")
    parser.add_argument("--data", type=Path, default=streams.DATA, help="folder of the files")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows of each stream")
    parser.add_argument("--results", type=Path, default=system.RESULTS, help="the file that results are appended to")
    arguments = parser.parse_args()
    system.RESULTS = arguments.results
    rows = QUICK_ROWS if arguments.quick else arguments.rows
    found: dict[str, dict[str, Figures]] = {}
    failed: list[str] = []
    for stream in arguments.stream or streams.NAMES:
        found[stream] = side_by_side(arguments.only, stream, rows, arguments.data, failed)
    figures: Figures = {stream: of_ours(learners["ours"]) for stream, learners in found.items() if "ours" in learners}
    system.report("bench/learning.py", figures, [*lines(found), *failed])


def side_by_side(learners: Sequence[str], stream: str, rows: int, data: Path, failed: list[str]) -> dict[str, Figures]:
    """Figures of each learner on one stream; a peer that fails is left out and told in `failed`.

    Raises:
        RuntimeError: ours failed.
    """
    found = {}
    for learner in learners:
        if learner in SMALL_ONLY and stream not in streams.SMALL:
            continue
        try:
            found[learner] = measured(learner, stream, rows, data)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            if learner == "ours":
                raise
            failed.append(f"left out: {error}")
    return found


def measured(learner: str, stream: str, rows: int, data: Path) -> Figures:
    """Figures of one learner on one stream, from a process of its own.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, str(WORKER), learner, stream, str(rows), str(data)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = Peak(process.pid)
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    finally:
        peak.end()
    if process.returncode != 0:
        last = (err.strip().splitlines() or ["it wrote nothing"])[-1]
        raise RuntimeError(f"{learner} on {stream}: ended with exit code {process.returncode}; the last it wrote: {last[:500]}")
    figures: Figures = json.loads(out.splitlines()[-1]) | {"peak_memory_mb": peak.bytes / 1e6}
    print(
        f"{stream} {learner}: MAE {_number(figures['mae'], 4) or 'not finite'}, {figures['records_per_s']:,.0f} records/s",
        flush=True,
    )
    return figures


class Peak:
    """The largest resident memory of a process together with its children, looked at from outside.

    Attributes:
        bytes: so far.
    """

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop to look, and end the process and its children if they still run."""
        self._ended.set()
        self._thread.join()
        for one in self._family():
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue

    def _look(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            total = 0
            for one in self._family():
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.bytes = max(self.bytes, total)

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def of_ours(figures: Figures) -> Figures:
    """What the last line says of ours."""
    chosen = {name: figures[name] for name in (*OURS, *COUNTS) if figures.get(name) is not None}
    rounded = {name: round(value, DIGITS[name]) if name in DIGITS else value for name, value in chosen.items()}
    return {"mae": None, "records_per_s": None, "coverage": None} | rounded


def lines(found: dict[str, dict[str, Figures]]) -> list[str]:
    """The result in words: a table for each stream."""
    about = (
        f"river {version('river')}; one learner after the other, each in a process of its own; load average at the end "
        f"{os.getloadavg()[0]:.1f}, where other programs on the machine count too; a learner diverges whose MAE is more than "
        f"{DIVERGED:g} times that of the running mean"
    )
    return [about, *(_section(stream, learners) for stream, learners in found.items())]


def _section(stream: str, learners: dict[str, Figures]) -> str:
    if not learners:
        return f"**{stream}**: no learner was measured"
    mean_mae = next(iter(learners.values()))["mean_mae"]
    head = f"**{stream}** (MAE of the running mean {mean_mae:.4g}{_goal(stream, learners)}{_ours_said(learners)})"
    rule = "|" + "---|" * len(HEADS)
    table = ["| " + " | ".join(HEADS) + " |", rule, *_table(learners)]
    return head + "\n\n" + "\n".join(f"  {line}" for line in table) + "\n"  # indented: part of the list's item


def _goal(stream: str, learners: dict[str, Figures]) -> str:
    if stream not in GOALS or "ours" not in learners or learners["ours"]["rows"] < streams.ROWS:
        return ""
    mae = learners["ours"]["mae"]
    return f"; goal {GOALS[stream]}: {'met' if mae is not None and round(mae, 2) <= GOALS[stream] else 'missed'}"


def _ours_said(learners: dict[str, Figures]) -> str:
    ours = learners.get("ours")
    if ours is None:
        return ""
    said = "".join(f"; {name.replace('_', ' ')} {ours[name]}" for name in COUNTS)
    span = [ours.get("coverage_min"), ours.get("coverage_max")]
    return said + (f"; coverage over any 5,000 records {span[0]:.3f} to {span[1]:.3f}" if None not in span else "")


def _table(learners: dict[str, Figures]) -> list[str]:
    """A line for each learner; ours and the others once more over what slow ones are given, where there is one."""
    lines = [_line(TITLES[name], figures, figures) for name, figures in learners.items()]
    if any(name in SLOW for name in learners):
        again = [(TITLES[name], figures) for name, figures in learners.items() if figures.get("part")]
        lines += [_line(f"{title}, first {streams.SLOW_ROWS:,}", figures["part"], None) for title, figures in again]
    return lines


def _line(title: str, errors: Figures, whole: Figures | None) -> str:
    cells = [title, f"{errors['rows']:,}"]
    mae = _number(errors["mae"], 4)
    cells += [f"diverges {mae}".strip() if errors["diverges"] else mae, _number(errors["rmse"], 4)]
    cells += ["", ""] if whole is None else [f"{whole['records_per_s']:,.0f}", f"{whole['peak_memory_mb']:.0f}"]
    cells += [_number(errors.get("coverage"), 3), _recovery([] if whole is None else whole.get("recovery_rows", []))]
    return "| " + " | ".join(cells) + " |"


def _recovery(rows: Sequence[int | None]) -> str:
    return ", ".join("never" if one is None else f"{one:,}" for one in rows)


def _number(value: float | None, digits: int) -> str:
    """A number with so many significant digits; an empty text for None.

    >>> _number(1.23456, 4), _number(1234567.0, 4), _number(None, 4)
    ('1.235', '1,235,000', '')
    """
    if value is None:
        return ""
    return f"{float(f'{value:.{digits}g}'):,.{digits}g}" if abs(value) < 10**digits else f"{float(f'{value:.{digits}g}'):,.0f}"


if __name__ == "__main__":
    main()
