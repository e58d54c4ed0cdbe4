"""The files of model versions, on disk: written whole, verified before they are used.

Invariants:
- A version's directory is written under another name, made durable, and renamed into place.
- No byte of a file is handed out before its sha256 matches `model.json` and that matches its HMAC.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from correnteza.errors import ConfigError, TamperedModelError, UnknownModelError

MODEL = "model.onnx"
CHECKPOINT = "checkpoint.joblib"
MANIFEST = "model.json"
KEY_BYTES = 32
TEMPORARY = ".tmp-"
"""Prefix of directories that are being written or removed; whatever a crash leaves of them may go."""


def load_key(folder: Path) -> bytes:
    """The key of the HMACs: the file `key` in `folder`, 32 random bytes readable by its owner only; made once.

    Raises:
        ConfigError: the file is there and does not hold 32 bytes.
    """
    path = folder / "key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make_key(path)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"{path}: holds {len(key)} bytes; expected the {KEY_BYTES} that were written there; restore it from a copy, "
            "or delete it together with the folder models"
        )
    return key


def _make_key(path: Path) -> None:
    """Two processes that do this at once end with one key: a link, unlike a rename, does not replace."""
    draft = path.with_name(f"{TEMPORARY}key-{secrets.token_hex(8)}")
    _write(draft, secrets.token_bytes(KEY_BYTES), mode=0o600)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    _sync_folder(path.parent)


class Artefacts:
    """The directories of model versions in one folder.

    Args:
        folder: where they are; it is created.
        key: of the HMACs, from `load_key`.
        durable: whether what is written is on the disk when `write` returns.
    """

    def __init__(self, folder: Path, key: bytes, durable: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = key
        self._durable = durable

    def write(self, version: int, files: Mapping[str, bytes], about: Mapping[str, Any]) -> dict[str, Any]:
        """Write the directory of a version; one of that number is replaced.

        Args:
            version: its number.
            files: contents by name.
            about: what else `model.json` shall hold, as JSON values; NaN and infinities become null.

        Returns:
            What `model.json` holds, without its HMAC.
        """
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        manifest: dict[str, Any] = plain({"version": version, **about, "files": hashes})
        text = json.dumps({**manifest, "hmac": self._hmac(manifest)}, indent=2)
        draft = self._cleared(f"{TEMPORARY}{version}")
        draft.mkdir()
        for name, content in {**files, MANIFEST: text.encode()}.items():
            _write(draft / name, content, durable=self._durable)
        if self._durable:
            _sync_folder(draft)
        self.remove(version)
        draft.rename(self.folder / str(version))
        if self._durable:
            _sync_folder(self.folder)
        return manifest

    def manifest(self, version: int) -> dict[str, Any]:
        """`model.json`, verified, without its HMAC.

        Raises:
            UnknownModelError: the files are not there.
            TamperedModelError: it is not what was written.
        """
        return self.opened(version, self.sealed(version), str(self.folder / str(version) / MANIFEST))

    def sealed(self, version: int) -> bytes:
        """`model.json` as it was written, with its HMAC; not verified.

        Raises:
            UnknownModelError: the files are not there.
            TamperedModelError: they are, without it.
        """
        return self._bytes(version, MANIFEST)

    def opened(self, version: int, content: bytes, place: str) -> dict[str, Any]:
        """What `sealed` returned, verified, without its HMAC.

        Args:
            version: whose it is.
            content: the text.
            place: where it was found, for the message.

        Raises:
            TamperedModelError: it is not what was written.
        """
        try:
            manifest = json.loads(content)
            code = manifest.pop("hmac")
            genuine = isinstance(code, str) and hmac.compare_digest(code.encode(), self._hmac(manifest).encode())
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            genuine = False
        if not genuine or manifest["version"] != version:
            raise TamperedModelError(
                f"{place}: does not match its HMAC; it was changed, or `key` was; "
                "restore both from a copy, or promote another version"
            )
        return dict(manifest)

    def read(self, version: int, name: str, manifest: Mapping[str, Any]) -> bytes:
        """A file of a version, verified.

        Args:
            version: its number.
            name: of the file.
            manifest: of the version, as `manifest` returned it.

        Raises:
            UnknownModelError: the files are not there.
            TamperedModelError: it is not what was written.
        """
        expected = manifest["files"][name]
        content = self._bytes(version, name)
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise TamperedModelError(
                f"{self.folder / str(version) / name}: has sha256 {found}, expected {expected}; "
                "restore it from a copy, or promote another version"
            )
        return content

    def versions(self) -> list[int]:
        """The versions whose directories are there, in order."""
        return sorted(int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal())

    def remove(self, version: int) -> None:
        """Remove the directory of a version, if it is there; no reader finds half of it."""
        doomed = self._cleared(f"{TEMPORARY}removed-{version}")
        try:
            (self.folder / str(version)).rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed)

    def sweep(self) -> Iterator[str]:
        """Remove what a crash left half done; gives the names."""
        for entry in sorted(self.folder.glob(f"{TEMPORARY}*")):
            self._cleared(entry.name)
            yield entry.name

    def _cleared(self, name: str) -> Path:
        path = self.folder / name
        if path.exists():
            shutil.rmtree(path)
        return path

    def _bytes(self, version: int, name: str) -> bytes:
        place = self.folder / str(version)
        try:
            return (place / name).read_bytes()
        except FileNotFoundError:
            if place.exists():
                raise TamperedModelError(
                    f"{place / name}: is missing; restore it from a copy, or promote another version"
                ) from None
            raise UnknownModelError(
                f"model version {version} has no files in {self.folder}; trainer.keep_versions and keep_older say how many; "
                f"`correnteza models rebuild {version} --keep` makes them again"
            ) from None

    def _hmac(self, manifest: Mapping[str, Any]) -> str:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def plain(value: Any) -> Any:
    """The value as JSON gives it back, with null for NaN and infinities, which JSON does not know.

    >>> plain({"mae": float("nan"), 1: (2, 3)})
    {'mae': None, '1': [2, 3]}
    """
    return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)


def _write(path: Path, content: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Create a file; when this returns it is on the disk, if it is to be durable."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make names in a folder durable; only POSIX systems need and know it."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
