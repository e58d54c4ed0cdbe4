"""What is watched: the built-in conditions, and those of `[alerts]`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

from correnteza.config import Condition, Settings
from correnteza.metrics import UP

_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


def breached(condition: Condition, value: float) -> bool:
    """Whether a value is one to alert at; NaN never is.

    >>> lag = Condition(name="lag", metric="correnteza_stage_lag_rows", comparison=">", threshold=10)
    >>> [breached(lag, value) for value in (10.0, 11.0, float("nan"))]
    [False, True, False]
    """
    return value == value and _COMPARED[condition.comparison](value, condition.threshold)


def conditions_of(settings: Settings) -> tuple[Condition, ...]:
    """The conditions that hold: the built-in ones, unless they are turned off or replaced, then the user's.

    >>> [condition.name for condition in conditions_of(Settings())]
    ['service_down', 'stage_behind', 'error_above_baseline', 'coverage_low', 'coverage_high']
    """
    own = settings.alerts.conditions
    replaced = {condition.name for condition in own}
    builtin = built_in(settings.trainer.level) if settings.alerts.defaults else ()
    return (*(condition for condition in builtin if condition.name not in replaced), *own)


def built_in(level: float) -> tuple[Condition, ...]:
    """The built-in conditions.

    Args:
        level: of the prediction intervals. They are off when they miss twice as often as they should, or a fifth as often.
    """
    misses = 1 - level
    return (
        _condition("service_down", UP, "<", 1, 60, "a service does not answer; it has ended, hangs or cannot start"),
        _condition("stage_behind", "correnteza_stage_lag_seconds", ">", 60, 60, "a stage does not keep up, or stands still"),
        _condition(
            "error_above_baseline",
            "correnteza_evaluation_skill_ratio",
            "<",
            0,
            120,
            "the model predicts worse than the mean so far, or than the last value",
        ),
        _condition("coverage_low", "correnteza_interval_coverage_ratio", "<", 1 - 2 * misses, 300, "intervals are too narrow"),
        _condition("coverage_high", "correnteza_interval_coverage_ratio", ">", 1 - misses / 5, 300, "intervals are too wide"),
    )


def _condition(name: str, metric: str, comparison: str, threshold: float, for_s: float, meaning: str) -> Condition:
    values = {"metric": metric, "comparison": comparison, "threshold": round(threshold, 6), "for_s": for_s}
    return Condition.model_validate({"name": name, "meaning": meaning, **values})
