"""Features with memory on real streams: what `features = "auto"` gains, beside River's learners on the same vectors.

    python bench/memory.py [--stream bike|metro] [--only ours] [--rows N] [--data FOLDER]

Ours is `correnteza evaluate` with its defaults, with and without `features = "auto"`, over the whole file in its order:
each record is predicted before it is learned from. River's learners are given the vectors that the normalizer makes
for training (standardised; a missing value is 0, for River's trees know none), one record after the other, and so is
the last value before the record. A tuning per file there is not. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import learning_peers
import streams
import system

PEERS = ("arf", "hat", "linear")
TITLES = {
    "arf": "River ARFRegressor(10)",
    "hat": "River HoeffdingAdaptiveTree",
    "linear": "River StandardScaler, LinearRegression",
}
GOALS = {"bike": 28.0, "metro": 200.0}


@dataclass(frozen=True, slots=True)
class File:
    """A file of `shared/data`.

    Args:
        name: of the file.
        target: column to be predicted.
        timestamp: column with the event time.
        ignored: columns that would tell the target.
    """

    name: str
    target: str
    timestamp: str
    ignored: tuple[str, ...] = ()

    def arguments(self, data: Path) -> list[str]:
        """As `correnteza evaluate` takes them."""
        named = [str(data / self.name), "--target", self.target, "--timestamp", self.timestamp]
        return [*named, "--ignore", ",".join(self.ignored)]


FILES = {
    "bike": File("bike_sharing_hour.csv.gz", "cnt", "dteday", ("instant", "casual", "registered")),
    "metro": File("metro_interstate_traffic_volume.csv.gz", "traffic_volume", "date_time"),
}


def main() -> None:
    """Run, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream", choices=sorted(FILES), action="append")
    parser.add_argument("--only", choices=["ours"])
    parser.add_argument("--rows", type=int, help="the first records alone")
    parser.add_argument("--data", type=Path, default=streams.DATA)
    parser.add_argument("--quick", action="store_true", help="the first 3,000 records of bike")
    arguments = parser.parse_args()
    names, rows = arguments.stream or sorted(FILES), arguments.rows
    if arguments.quick:
        names, rows = ["bike"], rows or 3000
    found = {name: _all(FILES[name], rows, arguments.data, () if arguments.only else PEERS) for name in names}
    lines = [line for name, figures in found.items() for line in _lines(name, figures)]
    short = {name: {"mae": figures["ours, features = auto"]["mae"]} for name, figures in found.items()}
    system.report("memory.py", {f"{name}_mae": figures["mae"] for name, figures in short.items()}, lines)
    print(json.dumps(short))


def _all(file: File, rows: int | None, data: Path, peers: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="correnteza-bench-") as folder:
        auto = Path(folder) / "auto.toml"
        auto.write_text('features = "auto"\n', encoding="utf-8")
        found = {"ours, features = auto": ours(file, rows, data, auto), "ours, without": ours(file, rows, data, None)}
        if peers:
            stream = vectors(file, rows, data, auto)
            found["last value"] = _scored(stream, [0.0, *(target for _, target in stream.records[:-1])], 0.0)
            for peer in peers:
                run = learning_peers.LEARNERS[peer](stream)
                found[TITLES[peer]] = _scored(stream, run.predictions, run.seconds)
    return found


def ours(file: File, rows: int | None, data: Path, config: Path | None) -> dict[str, Any]:
    """What `correnteza evaluate` says."""
    command = [sys.executable, "-m", "correnteza", "evaluate", *file.arguments(data), "--json"]
    command += ["--rows", str(rows)] if rows else []
    command += ["--config", str(config)] if config else []
    with tempfile.TemporaryDirectory(prefix="correnteza-bench-") as plots:
        done = subprocess.run([*command, "--out", plots], check=True, capture_output=True, text=True)
    told = json.loads(done.stdout)
    return {"mae": told["overall"]["mae"], "seconds": told["seconds"]}


def vectors(file: File, rows: int | None, data: Path, config: Path) -> streams.Stream:
    """The vectors that the normalizer makes, with their targets."""
    return streams.Stream(file.name, tuple(_vectors(file, rows, data, config)))


def _vectors(file: File, rows: int | None, data: Path, config: Path) -> Iterator[streams.Record]:
    from correnteza.evaluate import Records, Request, settings_of
    from correnteza.normalizer.stage import NormalizerStage
    from correnteza.records import with_offsets

    request = Request(data / file.name, file.target, config=config, rows=rows, timestamp=file.timestamp, ignored=file.ignored)
    settings, _ = settings_of(request)
    schema = settings.schema_of_model
    stage, done = NormalizerStage(schema, settings.normalizer), 0
    state = stage.initial()
    for batch in Records(settings):
        step = stage.step(state, with_offsets(batch, done + 1))
        state, done = step.state, done + batch.num_rows
        normalized = step.outputs["normalized"]
        columns = [normalized[name].to_numpy(zero_copy_only=False) for name in schema.features]
        values = np.nan_to_num(np.stack(columns, axis=1)).tolist()
        for row, target in zip(values, normalized[schema.target].to_pylist(), strict=True):
            yield dict(zip(schema.features, row, strict=True)), target


def _scored(stream: streams.Stream, predictions: Any, seconds: float) -> dict[str, Any]:
    errors = np.abs(np.asarray(predictions) - learning_peers.targets_of(stream))
    mae = float(np.mean(errors))
    return {"mae": mae if math.isfinite(mae) else None, "seconds": seconds}


def _lines(name: str, figures: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence per learner."""
    shown = {title: "diverges" if of["mae"] is None else f"MAE {of['mae']:.2f}" for title, of in figures.items()}
    goal = f"{name}: asked is an MAE below {GOALS[name]:g}"
    return [goal, *(f"{name}, {title}: {shown[title]}, {of['seconds']:.1f} s" for title, of in figures.items())]


if __name__ == "__main__":
    main()
