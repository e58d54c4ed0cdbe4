"""Every error of the project, drawn once.

    CorrentezaError
    ├── ConfigError               a setting is wrong; names the key, its value, what was expected
    │   └── DefinitionError       definitions of features are wrong; carries the faults
    ├── InputError                a client sent something that is refused; carries the problems
    ├── LogError
    │   ├── CursorError           not a cursor of this log
    │   ├── OffsetRemovedError    the offset was there, retention has removed it
    │   ├── FencedError           a newer process owns this stage; this one must stop
    │   ├── DamagedLogError       stored data is not what was written; names the offset
    │   └── LogUnavailableError   try again later: upstream is down, the database is busy
    ├── ModelError
    │   ├── NoModelError          nothing has been trained yet
    │   ├── UnknownModelError     no such version in the registry
    │   ├── TamperedModelError    a file of a version does not match its HMAC or sha256
    │   └── TrainingFailedError   a training raised, died or ran over its time
    └── ServiceError              a service cannot start: a port is taken, a file is locked

A message names the thing, its value, what was expected and the fix, in one line.
Only LogUnavailableError and NoModelError are worth a retry; the runner retries nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one record, or with one definition of a feature.

    Args:
        index: position of the record in what was sent, or of the definition, from 0.
        field: the field or key at fault; empty when it is the record as a whole.
        reason: what was found and what was expected.
    """

    index: int
    field: str
    reason: str


class CorrentezaError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigError(CorrentezaError):
    """A setting is wrong."""


class DefinitionError(ConfigError):
    """Definitions of features are wrong.

    Args:
        faults: at least one; the reason of each is a whole line.
    """

    def __init__(self, faults: Sequence[Problem]) -> None:
        super().__init__("\n".join(fault.reason for fault in faults))
        self.faults = tuple(faults)


class InputError(CorrentezaError):
    """What a client sent is refused.

    Args:
        message: one sentence for the client.
        problems: the single faults, where they can be told apart.
        status: the HTTP status that says it best (400, 413, 415 or 422).
    """

    def __init__(self, message: str, problems: Sequence[Problem] = (), status: int = 422) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.status = status


class LogError(CorrentezaError):
    """Base of what a log raises."""


class CursorError(LogError):
    """The cursor was not made by this log."""


class OffsetRemovedError(LogError):
    """Retention has removed the offset that was asked for.

    Args:
        message: one sentence for the reader.
        first: the first offset that is still there.
    """

    def __init__(self, message: str, first: int) -> None:
        super().__init__(message)
        self.first = first


class FencedError(LogError):
    """Another process has claimed this stage since; nothing was committed."""


class DamagedLogError(LogError):
    """Stored data is damaged.

    Args:
        message: one sentence that names the log.
        offset: the first offset that cannot be trusted; None where the file as a whole cannot be read.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset


class LogUnavailableError(LogError):
    """The log, or the service behind it, cannot answer now; the same call may succeed later.

    Args:
        message: one sentence with the address or file and the reason.
        retry_after_s: seconds after which to try again, where the other side said so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelError(CorrentezaError):
    """Base of what the model registry and the training raise."""


class NoModelError(ModelError):
    """No model version is in service yet."""


class UnknownModelError(ModelError):
    """The registry holds no such version."""


class TamperedModelError(ModelError):
    """A file of a model version is not the one that was registered."""


class TrainingFailedError(ModelError):
    """A training raised, was killed or ran over its time; the old version stays in service."""


class ServiceError(CorrentezaError):
    """A service cannot start or go on."""
