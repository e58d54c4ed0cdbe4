"""`model.json` of versions whose files were removed, which a rebuild begins with: the log `manifests`.

Invariant: of a bounded number of versions, the last ones that were removed.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from correnteza.errors import ModelError
from correnteza.log.base import OwnedLog, Policy
from correnteza.trainer.artefacts import Artefacts
from correnteza.trainer.tail import Tail

KEPT = 10_000
"""Versions; each has some kilobytes."""

MANIFESTS = pa.schema([pa.field("version", pa.int64()), pa.field("manifest", pa.string())])
"""Columns of the log `manifests`."""


class Manifests:
    """Keeps what is known of removed versions.

    Args:
        log: the log `manifests`.
        artefacts: the files of the versions.
    """

    def __init__(self, log: OwnedLog, artefacts: Artefacts) -> None:
        self._log = log
        self._artefacts = artefacts

    def released(self, version: int) -> bool:
        """Whether the files of a version may go; if so, its `model.json` is in the log from now on."""
        try:
            if self._artefacts.manifest(version).get("kept"):
                return False
            text = self._artefacts.sealed(version).decode()
        except ModelError:  # not sound: of no use to a rebuild either
            return True
        self._log.append(pa.RecordBatch.from_pylist([{"version": version, "manifest": text}], schema=MANIFESTS))
        return True

    def trim(self) -> None:
        """Let the oldest go."""
        self._log.trim(Policy(rows=KEPT), time.time())

    def find(self, version: int) -> dict[str, Any] | None:
        """`model.json` of a version, verified; None when it is not in the log.

        Raises:
            TamperedModelError: it is not what was written.
        """
        found = None
        for batch in Tail(self._log, None).new():
            for number, text in zip(batch["version"].to_pylist(), batch["manifest"].to_pylist(), strict=True):
                found = text if number == version else found
        return None if found is None else self._artefacts.opened(version, found.encode(), "the log manifests")
