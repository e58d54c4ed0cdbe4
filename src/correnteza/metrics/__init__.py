"""What is counted, as plain values; `web.metrics` makes Prometheus's text of it when it is asked."""

from correnteza.metrics.families import FAMILIES, STATES, UP, Family, Kind, exposed, numbers
from correnteza.metrics.plain import REASONS, ROWS, SECONDS, SECONDS_LONG, Histogram, Sample, by_reason, sample

__all__ = [
    "FAMILIES",
    "REASONS",
    "ROWS",
    "SECONDS",
    "SECONDS_LONG",
    "STATES",
    "UP",
    "Family",
    "Histogram",
    "Kind",
    "Sample",
    "by_reason",
    "exposed",
    "numbers",
    "sample",
]
