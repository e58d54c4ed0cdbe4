"""The signature of a webhook's message.

The header `Correnteza-Signature` is `t=UNIX_SECONDS,v1=HEX`, where HEX is the HMAC-SHA256 of `UNIX_SECONDS.` and the
body, with the key that both sides have. The time is that of the attempt, so that an old message cannot be sent again.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from correnteza.errors import ConfigError

HEADER = "Correnteza-Signature"
KEY_HEADER = "Idempotency-Key"
TOLERANCE_S = 300.0
_FORM = re.compile(r"^t=(\d{1,12}),v1=([0-9a-f]{64})$")


def signature(key: bytes, body: bytes, unix_s: float) -> str:
    """The value of the header.

    Args:
        key: that both sides have.
        body: of the request.
        unix_s: the time, in seconds.

    >>> value = signature(b"secret", b"{}", 1_700_000_000)
    >>> value[:21], verified(b"secret", b"{}", value, 1_700_000_100), verified(b"other", b"{}", value, 1_700_000_100)
    ('t=1700000000,v1=b8569', True, False)
    """
    return f"t={int(unix_s)},v1={_mac(key, body, str(int(unix_s)))}"


def verified(key: bytes, body: bytes, header: str, unix_s: float, tolerance_s: float = TOLERANCE_S) -> bool:
    """Whether a message is from somebody who has the key, and not an old one.

    Args:
        key: that both sides have.
        body: of the request, as it came.
        header: the value of `Correnteza-Signature`.
        unix_s: the time now, in seconds.
        tolerance_s: how old, or how far ahead of this clock, it may be.
    """
    found = _FORM.match(header)
    if found is None or abs(unix_s - int(found[1])) > tolerance_s:
        return False
    return hmac.compare_digest(_mac(key, body, found[1]), found[2])


def _mac(key: bytes, body: bytes, seconds: str) -> str:
    return hmac.new(key, seconds.encode() + b"." + body, hashlib.sha256).hexdigest()


def load_key(path: Path, make: bool) -> bytes:
    """The key in a file, without white space around it.

    Args:
        path: the file.
        make: whether to make it if it is not there: 64 hexadecimal digits, readable by its owner only.

    Raises:
        ConfigError: it cannot be read, or is empty.
    """
    try:
        if make:
            _make(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"alerts.webhook_key_file: {path}: {error.strerror}; name a file with a key") from None
    if not key:
        raise ConfigError(f"alerts.webhook_key_file: {path}: is empty; write a key there, or delete it")
    return key


def _make(path: Path) -> None:
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32) + "\n")
