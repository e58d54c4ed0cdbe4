"""Settings: `tables` says what there is, `loading` reads it from file, environment and command line."""

from correnteza.config.loading import DEFAULT_FILE, Settings, dumps, load, loads
from correnteza.config.tables import (
    SERVICES,
    Alerts,
    Condition,
    Consumer,
    Drift,
    FieldTable,
    Generator,
    Normalizer,
    Pipeline,
    Retention,
    SchemaTable,
    Section,
    Services,
    Trainer,
    demo_schema,
)

__all__ = [
    "DEFAULT_FILE",
    "SERVICES",
    "Alerts",
    "Condition",
    "Consumer",
    "Drift",
    "FieldTable",
    "Generator",
    "Normalizer",
    "Pipeline",
    "Retention",
    "SchemaTable",
    "Section",
    "Services",
    "Settings",
    "Trainer",
    "demo_schema",
    "dumps",
    "load",
    "loads",
]
