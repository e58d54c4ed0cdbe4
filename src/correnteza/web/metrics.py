"""`/metrics`: plain counts in Prometheus's text format, made when it is scraped.

Invariants:
- Counting costs the stream nothing but plain integers; Prometheus is known here and nowhere else.
- What is shown is in `correnteza.metrics.FAMILIES`, with those labels; anything else raises.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from correnteza.metrics import FAMILIES, REASONS, ROWS, SECONDS, STATES, Family, Histogram, Sample, sample
from correnteza.web.service import Service


def render(service: Service) -> bytes:
    """The body of `/metrics`."""
    registry = CollectorRegistry()
    registry.register(_Samples(samples_of(service)))
    return generate_latest(registry)


def samples_of(service: Service) -> Iterator[Sample]:
    """All that is known of a service, as plain samples."""
    status = service.describe()
    yield sample("correnteza_build_info", 1.0, status["version"], platform.python_version())
    yield sample("correnteza_uptime_seconds", status["uptime_s"])
    yield sample("correnteza_ready", float(status["ready"]))
    for stage, figures in status["stages"].items():
        yield from _of_stage(stage, figures)
    yield from _of_flows(service)
    for log, ends in {ends["log"]: ends for ends in status["logs"].values()}.items():  # one may have two paths
        for name in ("rows", "first_offset", "next_offset"):
            yield sample(f"correnteza_log_{name}", ends[name], log)
    for kind, count in status["events"].items():
        yield sample("correnteza_events_total", count, service.events.service, kind)
    for (method, route, code), seconds in service.requests.all().items():
        yield sample("correnteza_http_request_duration_seconds", seconds, method, route, str(code))
    yield from _of_processes({service.name: os.getpid()} if service.processes is None else service.processes())
    yield from _of_disk(service)
    yield from service.samples(status)


def _of_stage(stage: str, figures: Mapping[str, Any]) -> Iterator[Sample]:
    for state in STATES:
        yield sample("correnteza_stage_state", float(figures["state"] == state), stage, state)
    yield sample("correnteza_stage_lag_rows", figures["lag_rows"], stage)
    yield sample("correnteza_stage_lag_seconds", figures["lag_s"], stage)
    yield sample("correnteza_stage_retries_total", figures["retries"], stage)


def _of_flows(service: Service) -> Iterator[Sample]:
    own = {runner.stage.name: runner.figures.flow.plain() for runner in service.runners}
    flows = own if service.flows is None else service.flows()
    rejected: Counter[str] = Counter()
    for stage, flow in flows.items():
        rows = Histogram.of(flow["batch_rows"], ROWS)
        yield sample("correnteza_stage_input_rows_total", rows.total, stage)
        yield sample("correnteza_stage_input_bytes_total", flow["bytes_in"], stage)
        yield sample("correnteza_stage_batch_rows", rows, stage)
        yield sample("correnteza_stage_step_seconds", Histogram.of(flow["step_s"], SECONDS), stage)
        yield sample("correnteza_stage_commit_seconds", Histogram.of(flow["commit_s"], SECONDS), stage)
        for log, (out_rows, out_bytes) in flow["out"].items():
            yield sample("correnteza_stage_output_rows_total", out_rows, stage, log)
            yield sample("correnteza_stage_output_bytes_total", out_bytes, stage, log)
        rejected.update(flow["rejected"])
    if any(log.name == "rejected" for log in service.logs.values()):
        for reason in REASONS:  # from the beginning, so that the first reject is a step up from 0
            yield sample("correnteza_rejected_rows_total", rejected[reason], reason)


def _of_processes(pids: Mapping[str, int]) -> Iterator[Sample]:
    for name, pid in pids.items():
        with suppress(psutil.Error):  # it has just ended
            process = psutil.Process(pid)
            with process.oneshot():
                spent = process.cpu_times()
                yield sample("correnteza_process_cpu_seconds_total", spent.user + spent.system, name)
                yield sample("correnteza_process_resident_memory_bytes", process.memory_info().rss, name)
                yield sample("correnteza_process_threads", process.num_threads(), name)
                yield sample("correnteza_process_uptime_seconds", time.time() - process.create_time(), name)
                if hasattr(process, "num_fds"):
                    yield sample("correnteza_process_open_fds", process.num_fds(), name)


def _of_disk(service: Service) -> Iterator[Sample]:
    folder = service.settings.pipeline.folder
    files = (folder / f"{service.name}.db{ending}" for ending in ("", "-wal"))
    with suppress(OSError):
        yield sample("correnteza_database_size_bytes", sum(file.stat().st_size for file in files if file.exists()))
        disk = shutil.disk_usage(folder)
        yield sample("correnteza_disk_free_bytes", disk.free)
        yield sample("correnteza_disk_size_bytes", disk.total)


class _Samples(Collector):
    """Samples as `prometheus_client` wants them, family by family."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._by_family: dict[str, list[Sample]] = {}
        for one in samples:
            self._by_family.setdefault(one.family, []).append(one)

    def collect(self) -> Iterator[Metric]:
        for name, samples in self._by_family.items():
            yield _metric(FAMILIES[name], samples)


def _metric(family: Family, samples: Iterable[Sample]) -> Metric:
    made = _KINDS[family.kind](family.name, family.help, labels=family.labels)
    for one in samples:
        if len(one.labels) != len(family.labels):
            raise ValueError(f"{family.name} has the labels {family.labels}; given {one.labels}")
        if isinstance(made, InfoMetricFamily):
            made.add_metric([], dict(zip(family.labels, one.labels, strict=True)))
        elif isinstance(made, HistogramMetricFamily) and isinstance(one.value, Histogram):
            made.add_metric(one.labels, _buckets(one.value), one.value.total)
        else:
            made.add_metric(one.labels, one.value)
    return made  # type: ignore[no-any-return]


_KINDS: Mapping[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "info": lambda name, text, labels: InfoMetricFamily(name.removesuffix("_info"), text, labels=()),  # noqa: ARG005
}


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts by upper end, as Prometheus has them."""
    names = [*(str(float(end)) for end in histogram.bounds), "+Inf"]
    return list(zip(names, accumulate(histogram.counts), strict=True))
