"""What can be known to be wrong before anything is started: more than the form of the settings.

Invariant: a check starts nothing, writes nothing and asks nobody over the network.
"""

from __future__ import annotations

from correnteza import tracing
from correnteza.config import Settings
from correnteza.consumer.drawing import Draw
from correnteza.generator.service import source_of
from correnteza.trainer import estimators


def check(settings: Settings) -> None:
    """Try what the services will do with the settings.

    Raises:
        ConfigError: the source does not fit the schema or cannot be read, the estimator or its parameters
            do not exist, the consumer has no field to draw, or OpenTelemetry is wanted and not there.
    """
    tracing.check(settings.tracing.endpoint)
    source_of(settings)
    estimators.check(settings.trainer.estimator, settings.trainer.params)
    if "random" in settings.consumer.modes:
        Draw.chosen(settings.schema_of_records, settings.consumer)
