"""What all protocols ask: records in, an answer of one version out.

Invariants:
- A protocol only writes its requests as the JSON that `POST /predict` reads; the same reader checks
  them by the same rules, and the same engine answers and stores them. So the answers cannot differ.
- All rows of an answer are by one version: the one in service, or the one that was named.
- Versions that are not in service are verified, and answer their probe rows, before they answer anybody; only a few
  of them are held at a time.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from correnteza.codec import JSON
from correnteza.errors import InputError, NoModelError, TamperedModelError, UnknownModelError
from correnteza.events import Events
from correnteza.records import Schema
from correnteza.trainer import probe
from correnteza.trainer.answers import Answered
from correnteza.trainer.predict import INLINE_BYTES, INLINE_ROWS, THREADS, Serving
from correnteza.trainer.predictor import Predictor
from correnteza.trainer.questions import Question, Reader
from correnteza.trainer.registry import Registry

LOADED_VERSIONS = 2
"""Versions beside the one in service that are held in memory."""
LARGE = INLINE_BYTES + 1
"""Stands for the size of a body that is not answered at once."""
_WHOLE_LIMIT = 2.0**63
"""Floats from here on are not written as whole numbers; they are beyond every bound anyway."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that has been read.

    Args:
        records: as `POST /predict` takes them, usually dicts.
        serving: the version that was named; None is the one in service.
        wanted: names of the outputs that are wanted; all when empty.
        id: of the request.
    """

    records: Sequence[Any]
    serving: Serving | None = None
    wanted: tuple[str, ...] = ()
    id: str | None = None


class Engine(Protocol):
    """What answers, and stores the answer; `correnteza.trainer.predict.Predict` is one."""

    def answered(self, question: Question, serving: Serving | None = None) -> Answered:
        """The answer.

        Args:
            question: the records.
            serving: what to answer with; None is the version in service.

        Raises:
            NoModelError: there is no model yet.
        """


class Versions:
    """The versions that can be asked by their number. Safe to use from several threads.

    Args:
        schema: of the records; a version for other fields is refused.
        registry: where versions are.
        serving: the one in service.
        told: where refused versions are told.
        complete: see `Serving.complete`.
        most: so many versions beside the one in service are held, those used last.
    """

    def __init__(
        self,
        schema: Schema,
        registry: Registry,
        serving: Callable[[], Serving | None],
        told: Events,
        complete: Callable[[Question], Question],
        most: int = LOADED_VERSIONS,
    ) -> None:
        self._fields = (schema.numeric, schema.categories)
        self._registry = registry
        self._serving = serving
        self._told = told
        self._complete = complete
        self._most = most
        self._loaded: OrderedDict[int, Serving] = OrderedDict()
        self._lock = threading.Lock()

    def in_service(self) -> Serving | None:
        """The version that answers where none is named."""
        return self._serving()

    def listed(self) -> list[int]:
        """The versions whose files are there and as registered, oldest first."""
        return [row.version for row in self._registry.versions() if self._sound(row.version)]

    def get(self, text: str) -> Serving:
        """A version, ready to answer; without an interval where it is not the one in service, whose errors are known.

        Args:
            text: its number as a client wrote it.

        Raises:
            UnknownModelError: there is no such version, or its files were removed.
            HTTPException: 409, its files are not the registered ones, it was trained for other fields, or it does not
                answer as it did when it was made.
        """
        version = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0
        if str(version) != text or not version:
            raise UnknownModelError(f"no model version {text[:40]!r}; versions are whole numbers from 1")
        serving = self._serving()
        if serving is not None and serving.version == version:
            return serving
        with self._lock:
            if version not in self._loaded:
                self._loaded[version] = self._load(version)
            self._loaded.move_to_end(version)
            while len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
            return self._loaded[version]

    def is_in_service(self, text: str) -> bool:
        """Whether a version is the one in service, so that `get` loads nothing."""
        serving = self._serving()
        return serving is not None and str(serving.version) == text

    def _load(self, version: int) -> Serving:
        model = verified(self._registry, version, self._told)
        try:
            predictor = Predictor(model)
            self._try_out(predictor, version)
        except (ValueError, RuntimeError) as error:
            reason = f"version {version} is refused: {error}"
            self._told.emit("model_refused", reason, version=version)
            raise HTTPException(HTTPStatus.CONFLICT, reason) from None
        return Serving(version, predictor, None, self._complete)

    def _try_out(self, predictor: Predictor, version: int) -> None:
        if (predictor.numbers, predictor.categories) != self._fields:
            raise ValueError(f"it was trained for the fields {predictor.numbers + predictor.categories}, not for [schema]'s")
        probe.check(predictor, self._registry.manifest(version).get("probe") or {})

    def _sound(self, version: int) -> bool:
        try:
            self._registry.manifest(version)
        except (UnknownModelError, TamperedModelError):
            return False
        return True


def verified(registry: Registry, version: int, told: Events) -> bytes:
    """`model.onnx` of a version.

    Args:
        registry: where it is.
        version: its number.
        told: where it is told that a file is not the registered one.

    Raises:
        UnknownModelError: there is no such version, or its files were removed.
        HTTPException: 409, a file is not the registered one; names it.
    """
    try:
        return registry.model_bytes(version)
    except TamperedModelError as error:
        told.emit("model_refused", str(error), version=version)
        raise HTTPException(HTTPStatus.CONFLICT, str(error)) from None


class Desk:
    """Where the protocols' routes ask.

    Args:
        schema: of the records.
        engine: answers.
        versions: those that can be named.
        not_ready: why there is no model yet, or None.
    """

    def __init__(self, schema: Schema, engine: Engine, versions: Versions, not_ready: Callable[[], str | None]) -> None:
        self.schema = schema
        self.versions = versions
        self._engine = engine
        self._not_ready = not_ready
        self._reader = Reader(schema)
        self._integers = [field.name for field in schema.fields if field.kind == "integer"]
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="protocols")

    def ready(self) -> None:
        """Nothing, when there is a model.

        Raises:
            NoModelError: there is none; says why.
        """
        reason = self._not_ready()
        if reason is not None:
            raise NoModelError(reason)

    async def respond(self, size: int, read: Callable[[], Asked], write: Callable[[Asked, Answered], T]) -> T:
        """The answer to a request: at once where it is small, from a thread where it would hold up others.

        Args:
            size: of the body, in bytes; use `LARGE` for a request that has to load a version.
            read: reads the body.
            write: makes the answer of it.
        """

        def answer(asked: Asked) -> T:
            return write(asked, self.answered(asked.records, asked.serving))

        def aside(call: Callable[[], T]) -> asyncio.Future[T]:
            within = copy_context().run  # the thread is in the request's span, too
            return asyncio.get_running_loop().run_in_executor(self._threads, lambda: within(call))

        if size > INLINE_BYTES:
            return await aside(lambda: answer(read()))
        asked = read()
        return answer(asked) if len(asked.records) <= INLINE_ROWS else await aside(lambda: answer(asked))

    def answered(self, records: Sequence[Any], serving: Serving | None = None) -> Answered:
        """The answer for records as plain values; whole floats stand for integers.

        Args:
            records: as `POST /predict` takes them, usually dicts.
            serving: what to answer with; None is the version in service.

        Raises:
            InputError: a record is refused; lists every fault by index and field.
            NoModelError: there is no model yet.
        """
        for name in self._integers:
            for record in records:
                if isinstance(record, dict) and type(value := record.get(name)) is float and _is_whole(value):
                    record[name] = int(value)
        try:
            body = msgspec.json.encode(records)
        except UnicodeEncodeError:
            raise InputError("the body is refused: a text is not valid UTF-8", status=400) from None
        return self._engine.answered(self._reader.read(body, JSON), serving)


def _is_whole(value: float) -> bool:
    return value.is_integer() and abs(value) < _WHOLE_LIMIT


def media_of(request: Request, *known: str) -> str:
    """The media type of a request's body, the first of `known` where it names none.

    Raises:
        InputError: 415, it is none of them.
    """
    said = request.headers.get("content-type")
    media = known[0] if said is None else said.partition(";")[0].strip().lower()
    if media not in known:
        raise InputError(f"Content-Type {media[:80]!r} is not read here; send {' or '.join(known)}", status=415)
    return media
