"""`/metrics`: the plain values of `/status` in Prometheus's text format, read when it is scraped.

Invariant: counting costs the stream nothing but plain integers; names are made here and nowhere else.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from correnteza.web.service import Service

_STAGE_COUNTERS = {
    "rows": ("correnteza_stage_rows", "Rows that a stage has committed."),
    "batches": ("correnteza_stage_batches", "Steps that a stage has committed."),
    "step_s": ("correnteza_stage_step_seconds", "Time spent in steps."),
    "commit_s": ("correnteza_stage_commit_seconds", "Time spent in commits."),
    "retries": ("correnteza_stage_retries", "Times that upstream or store did not answer."),
}
_STAGE_GAUGES = {
    "lag_rows": ("correnteza_stage_lag_rows", "Rows upstream behind the stage's position."),
    "lag_s": ("correnteza_stage_lag_seconds", "Time since the stage was level with its upstream."),
}
_LOG_GAUGES = {
    "rows": ("correnteza_log_rows", "Rows in a log."),
    "first_offset": ("correnteza_log_first_offset", "First offset that is still there."),
    "next_offset": ("correnteza_log_next_offset", "Offset that the next row will have."),
}


def render(service: Service) -> bytes:
    """The body of `/metrics`."""
    registry = CollectorRegistry()
    registry.register(_OfService(service))
    return generate_latest(registry)


class _OfService(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        status = self._service.describe()
        build = InfoMetricFamily("correnteza_build", "What runs here.")
        build.add_metric([], {"service": status["service"], "version": status["version"], "python": platform.python_version()})
        yield build
        yield GaugeMetricFamily("correnteza_up_seconds", "Seconds since the service was started.", value=status["uptime_s"])
        yield GaugeMetricFamily("correnteza_ready", "Whether the service is ready.", value=float(status["ready"]))
        for name, (metric, text) in _STAGE_COUNTERS.items():
            yield _by("stage", CounterMetricFamily(metric, text, labels=["stage"]), status["stages"], name)
        for name, (metric, text) in _STAGE_GAUGES.items():
            yield _by("stage", GaugeMetricFamily(metric, text, labels=["stage"]), status["stages"], name)
        for name, (metric, text) in _LOG_GAUGES.items():
            yield _by("log", GaugeMetricFamily(metric, text, labels=["log"]), status["logs"], name)
        yield self._events(status["events"])
        yield self._requests()
        yield from _particular(self._service.status())

    def _events(self, counts: Mapping[str, int]) -> Metric:
        family = CounterMetricFamily("correnteza_events", "Events by kind.", labels=["kind"])
        for kind, count in counts.items():
            family.add_metric([kind], count)
        return family

    def _requests(self) -> Metric:
        family = CounterMetricFamily("correnteza_http_requests", "Answers by route and status.", labels=["route", "code"])
        for (route, code), count in list(self._service.requests.items()):
            family.add_metric([route, str(code)], count)
        return family


def _by(_label: str, family: Any, table: Mapping[str, Mapping[str, Any]], column: str) -> Metric:
    for key, values in table.items():
        family.add_metric([key], values[column])
    return family  # type: ignore[no-any-return]


def _particular(values: Mapping[str, Any], prefix: str = "correnteza") -> Iterable[Metric]:
    """Numbers that are particular to a service, nested tables by their path."""
    for name, value in values.items():
        metric = f"{prefix}_{_spelt_out(name)}"
        if isinstance(value, Mapping):
            yield from _particular(value, metric)
        elif isinstance(value, int | float) and metric.isidentifier():
            yield GaugeMetricFamily(metric, f"{name} of /status.", value=float(value))


def _spelt_out(name: str) -> str:
    """Prometheus writes units in full."""
    if name.endswith("_per_s"):
        return f"{name[:-1]}second"
    return f"{name[:-1]}seconds" if name.endswith("_s") else name
