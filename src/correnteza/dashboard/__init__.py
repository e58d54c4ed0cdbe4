"""The dashboard: pages that show the stream, the model and its errors, made from the services' public HTTP API alone."""

from importlib.util import find_spec

MISSING = "NiceGUI is not installed; for the pages, run: pip install 'correnteza[dashboard]'"


def is_installed() -> bool:
    """Whether what the pages are made with is there; it is an extra, which a service alone does not need."""
    return find_spec("nicegui") is not None
