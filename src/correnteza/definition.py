"""What a derived feature is: its definition, and whether that fits the fields of a stream.

Invariant: a definition that passes `faults` can be computed for every valid record. Each fault has the place of the
feature and the key, and one line that names the feature, the key, its value and what was expected.

Features are made from the fields of a record, the target and what was remembered of both, never from other
features: so there is no order among them and no cycle.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from correnteza.errors import Problem

WINDOWS = ("mean", "min", "max", "std", "sum", "count")
REMEMBERED = ("lag", *WINDOWS, "delta", "ewm", "since")
"""Made from earlier records of the key."""
CYCLES = ("hour", "weekday", "month", "day_of_year")
TIME_PARTS = (*CYCLES, "is_weekend", *(f"{name}_cyclic" for name in CYCLES), "holiday")
"""Made from a time, in UTC."""
PAIRS = ("ratio", "difference", "product")
ARITHMETIC = (*PAIRS, "log")
"""Made from the fields of the record itself."""
HOWS = (*REMEMBERED, *TIME_PARTS, *ARITHMETIC)

ROWS_LIMIT = 100_000
"""Longest window, in rows."""
SECONDS_LIMIT = 1e9
"""Longest window, in seconds: some 30 years."""
EWM_SPANS = 4
"""`ewm` looks back so many spans; what lies behind has a weight of 0.03 percent."""


@dataclass(frozen=True, slots=True)
class Feature:
    """The definition of one derived feature.

    Args:
        name: of its column; a cyclic pair has `<name>_sin` and `<name>_cos`.
        of: what it is made from: a field, the target or the timestamp; for arithmetic of two fields both, in order.
        how: one of `HOWS`.
        rows: length of the window, or distance of the lag, in remembered values; the span of an `ewm`.
        seconds: the same in event time.
        by: the field whose value tells one memory from another; None for a single memory.
        country: ISO 3166 code for `holiday`, with a subdivision if wanted: `BR`, `BR-SP`.

    >>> Feature("season", ("at",), "month_cyclic").columns
    ('season_sin', 'season_cos')
    """

    name: str
    of: tuple[str, ...]
    how: str
    rows: int | None = None
    seconds: float | None = None
    by: str | None = None
    country: str | None = None

    @property
    def source(self) -> str:
        """The first thing that it is made from."""
        return self.of[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it stands for."""
        return (f"{self.name}_sin", f"{self.name}_cos") if self.how.endswith("_cyclic") else (self.name,)

    @property
    def remembers(self) -> bool:
        """Whether it is made from earlier records."""
        return self.how in REMEMBERED

    def depth(self, rows_limit: int) -> int:
        """How many values of its source must be remembered per key, when windows of seconds hold `rows_limit` at most."""
        if self.seconds is not None:
            return rows_limit
        rows = self.rows or 1
        return EWM_SPANS * rows if self.how == "ewm" else rows + (self.how == "delta")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, without those that are not set; `from_dict` reads them back."""
        optional = {name: getattr(self, name) for name in ("rows", "seconds", "by", "country")}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"name": self.name, "of": list(self.of), "how": self.how, **given}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Feature:
        """The definition that `as_dict` described."""
        return cls(**{**values, "of": tuple(values["of"])})


@dataclass(frozen=True, slots=True)
class Known:
    """What definitions may speak of.

    Args:
        kinds: kind of each field by name, the timestamp's included.
        target: name of the target.
        timestamp: name of the field with the event time, or None.
    """

    kinds: Mapping[str, str]
    target: str
    timestamp: str | None

    def kind_of(self, name: str) -> str | None:
        """The kind of a field or of the target, or None."""
        return "float" if name == self.target else self.kinds.get(name)


Fault = tuple[str, str]
"""The key at fault, and what is wrong."""


def faults(features: Sequence[Feature], known: Known) -> list[Problem]:
    """What is wrong with some definitions; nothing when all can be computed.

    >>> known = Known({"at": "timestamp", "temp": "float"}, "cnt", "at")
    >>> [(one.index, one.field, one.reason) for one in faults([Feature("last", ("cnt",), "lag", rows=0)], known)]
    [(0, 'rows', "feature 'last': rows = 0: expected 1 to 100000; a window has at least one row")]
    """
    names = {feature.name for feature in features}
    found = [
        Problem(place, key, f"feature {feature.name!r}: {line}")
        for place, feature in enumerate(features)
        for key, line in _faults_of(feature, known, names)
    ]
    return found + list(_doubled(features, known))


def _doubled(features: Iterable[Feature], known: Known) -> Iterator[Problem]:
    taken = {**dict.fromkeys(known.kinds, "a field"), known.target: "the target"}
    for place, feature in enumerate(features):
        for column in feature.columns:
            if column in taken:
                line = f"name {column!r} is that of {taken[column]}; expected a name of its own"
                yield Problem(place, "name", f"feature {feature.name!r}: {line}")
            taken[column] = f"feature {feature.name!r}"


def _faults_of(feature: Feature, known: Known, names: Iterable[str]) -> Iterator[Fault]:
    if feature.how not in HOWS:
        yield "how", f"how = {feature.how!r}: there is no such way{_meant(feature.how, HOWS)}"
        return
    yield from (("of", line) for line in _of(feature, known, names))
    yield from _lengths(feature, known)
    if feature.by is not None:
        yield from (("by", f"by = {feature.by!r}: {line}") for line in _by(feature, known, names))
    yield from (("country", line) for line in _country(feature))


def _of(feature: Feature, known: Known, names: Iterable[str]) -> Iterator[str]:
    wanted = 2 if feature.how in PAIRS else 1
    if len(feature.of) != wanted:
        fields = "two fields" if wanted == 2 else "one field"
        yield f"of = {list(feature.of)!r}: how = {feature.how!r} is made from {fields}"
        return
    for name in feature.of:
        kind = known.kind_of(name)
        if kind is None:
            yield f"of = {name!r}: {_no_field(name, known, names)}"
        elif feature.how in TIME_PARTS and kind != "timestamp":
            yield f"of = {name!r}: is a {kind} field; how = {feature.how!r} expects one of kind timestamp"
        elif feature.how in ARITHMETIC and name == known.target:
            yield f"of = {name!r}: is the target, which a record does not know yet; name a field, or remember it with a lag"
        elif feature.how not in (*TIME_PARTS, "count", "since") and kind not in ("float", "integer"):
            yield f"of = {name!r}: is a {kind} field; how = {feature.how!r} expects a float or integer field, or the target"


def _no_field(name: str, known: Known, names: Iterable[str]) -> str:
    if name in names:
        return "is a feature; expected a field or the target: features are not made from features"
    return f"no such field{_meant(name, [*known.kinds, known.target])}"


def _lengths(feature: Feature, known: Known) -> Iterator[Fault]:
    lengths = {"rows": feature.rows, "seconds": feature.seconds}
    given = {key: f"{key} = {value!r}" for key, value in lengths.items() if value is not None}
    if not feature.remembers or feature.how == "since":
        yield from ((key, f"{length}: how = {feature.how!r} has no window; leave it out") for key, length in given.items())
        if feature.how == "since" and known.timestamp is None:
            yield "how", "how = 'since': needs event times; expected [schema] timestamp to name their field"
        return
    if len(given) != 1:
        found = " and ".join(given.values()) or "rows and seconds are not set"
        yield next(reversed(given), "how"), f"{found}: expected one of rows and seconds"
    if feature.how == "ewm" and feature.seconds is not None:
        yield "seconds", f"seconds = {feature.seconds!r}: how = 'ewm' expects rows, its span"
    if feature.rows is not None and not 1 <= feature.rows <= ROWS_LIMIT:
        yield "rows", f"rows = {feature.rows!r}: expected 1 to {ROWS_LIMIT}; a window has at least one row"
    if feature.seconds is not None:
        yield from (("seconds", f"seconds = {feature.seconds!r}: {line}") for line in _seconds(feature.seconds, known))


def _seconds(seconds: float, known: Known) -> Iterator[str]:
    if not 1e-6 <= seconds <= SECONDS_LIMIT:
        yield f"expected 0.000001 to {SECONDS_LIMIT:g}; a window is not empty"
    if known.timestamp is None:
        yield "needs event times; expected [schema] timestamp to name their field, or rows instead"


def _country(feature: Feature) -> Iterator[str]:
    if feature.how == "holiday":
        yield from _holiday(feature.country)
    elif feature.country is not None:
        yield f"country = {feature.country!r}: only how = 'holiday' has one; leave it out"


def _by(feature: Feature, known: Known, names: Iterable[str]) -> Iterator[str]:
    if not feature.remembers:
        yield f"how = {feature.how!r} remembers nothing, so it has no key; leave it out"
    elif feature.by == known.target:
        yield "is the target, which is not known when features are made; expected a field"
    elif (kind := known.kind_of(feature.by or "")) is None:
        yield _no_field(feature.by or "", known, names)
    elif kind not in ("category", "text", "integer"):
        yield f"is a {kind} field; expected one of kind category, text or integer"


def _holiday(code: str | None) -> Iterator[str]:
    if code is None:
        yield "country is not set; expected a code such as 'BR' or 'US-CA'"
        return
    try:
        import holidays
    except ImportError:
        yield "how = 'holiday': the package holidays is not installed; pip install \"correnteza[holidays]\""
        return
    country, _, part = code.partition("-")
    parts = holidays.list_supported_countries().get(country)
    if parts is None:
        yield f"country = {code!r}: not known; expected an ISO 3166 code such as 'BR' or 'US-CA'"
    elif part and part not in parts:
        yield f"country = {code!r}: {country} has no part {part!r}; {_list(parts)}"


def _list(words: Iterable[str]) -> str:
    return f"expected one of {', '.join(words)}"


def _meant(word: str, known: Iterable[str]) -> str:
    words = list(known)
    close = difflib.get_close_matches(word, words, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; {_list(words)}"
