"""What all services share over HTTP: application, errors, limits, logs, status, metrics, start and stop."""

from correnteza.web.app import Application, create_app
from correnteza.web.problems import problem
from correnteza.web.server import serve
from correnteza.web.service import Service

__all__ = ["Application", "Service", "create_app", "problem", "serve"]
