"""What the server process and the learner process say to each other, beside what stands in the database.

server --- argument: the settings ---> learner
server <-- lines with its status ----- learner
server --- log `requests` -----------> learner
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from correnteza.records import TIMESTAMP

REQUESTS = pa.schema([pa.field("at", TIMESTAMP), pa.field("reason", pa.string())])
"""Columns of the log `requests`: a row per training that somebody asked for."""

TRAININGS = ("trained", "failed")
"""How trainings end; the learner tells how long each took."""
_STATUS = "learner status: "


def status_line(status: Mapping[str, Any]) -> str:
    """A line of the learner's output that tells how it stands."""
    return _STATUS + json.dumps(status)


def status_of(line: str) -> dict[str, Any] | None:
    """The status that a line tells; None when it is another line.

    >>> status_of(status_line({"rows": 3})), status_of("hello")
    ({'rows': 3}, None)
    """
    if not line.startswith(_STATUS):
        return None
    try:
        status = json.loads(line.removeprefix(_STATUS))
    except ValueError:
        return None
    return status if isinstance(status, dict) else None
