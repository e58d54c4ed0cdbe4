"""How things are said: texts in the reader's language, numbers as people read them, with their units.

Invariant: pure functions of a language and a value; a value that is not known is a dash, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from correnteza.dashboard.texts import LANGUAGES, TEXTS
from correnteza.table import figure

DASH = "-"
_SWAP = str.maketrans(",.", ".,")


@dataclass(frozen=True, slots=True)
class Words:
    """One language.

    Args:
        language: one of `LANGUAGES`.

    >>> Words("en").number(1234.5), Words("pt").number(1234567), Words("pt").number(None)
    ('1,234', '1.234.567', '-')
    """

    language: str

    def __call__(self, key: str, /, **values: Any) -> str:
        """A text, with its values put in."""
        text = TEXTS[key][LANGUAGES.index(self.language)]
        return text.format(**values) if values else text

    @property
    def code(self) -> str:
        """For the attribute `lang`."""
        return {"en": "en", "pt": "pt-BR"}[self.language]

    def kind(self, name: str) -> str:
        """A kind of event or decision in words; one without a text of its own as it is named.

        >>> Words("pt").kind("rolled_back"), Words("pt").kind("new_kind")
        ('voltou atrás', 'new kind')
        """
        return self(f"kind_{name}") if f"kind_{name}" in TEXTS else name.replace("_", " ")

    def number(self, value: Any, unit: str = "") -> str:
        """A number with its unit, three or four digits of it."""
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return DASH
        text = "∞" if math.isinf(value) else figure(value)
        text = (text if self.language == "en" else text.translate(_SWAP)).replace("-", "\N{MINUS SIGN}")
        return f"{text}\N{NO-BREAK SPACE}{unit}" if unit else text

    def percent(self, share: Any, digits: int = 0) -> str:
        """A share of 1 in per cent.

        >>> Words("en").percent(0.8316).split(), Words("pt").percent(0.9048, 1).split()
        (['83', '%'], ['90,5', '%'])
        """
        if not isinstance(share, int | float) or not math.isfinite(share):
            return DASH
        text = f"{100 * share:.{digits}f}"
        return f"{text if self.language == 'en' else text.translate(_SWAP)}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")

    def span(self, seconds: Any) -> str:
        r"""A length of time, in the largest unit that it fills.

        >>> [Words("en").span(s).replace("\N{NO-BREAK SPACE}", " ") for s in (0.0042, 3.2, 150, 7300, 200000)]
        ['4.2 ms', '3.2 s', '2 min', '2 h', '2 d']
        """
        if not isinstance(seconds, int | float) or not math.isfinite(seconds):
            return DASH
        if 0 < abs(seconds) < 0.1:
            return self.number(1000.0 * seconds, "ms")
        if abs(seconds) < 100:
            return self.number(round(float(seconds), 1), "s")
        size, unit = next((s, u) for s, u in ((86_400, "d"), (3600, "h"), (60, "min")) if abs(seconds) >= s)
        return self.number(int(seconds // size), unit)

    def since(self, at: Any, now: datetime | None = None) -> str:
        """How long ago a time was, as an API tells it."""
        moment = time_of(at)
        if moment is None:
            return DASH
        return self("ago", span=self.span(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds())))

    def clock(self, at: Any) -> str:
        """The time of day of a time, UTC."""
        moment = time_of(at)
        return DASH if moment is None else f"{moment:%H:%M:%S}"


def time_of(at: Any) -> datetime | None:
    """A time as an API tells it; None where it is none.

    >>> time_of("2026-01-31T12:00:00Z").hour, time_of(None)
    (12, None)
    """
    try:
        return datetime.fromisoformat(at).astimezone(UTC) if isinstance(at, str) else None
    except ValueError:
        return None


def language_of(cookie: str | None, accepted: str) -> str:
    """The language of a reader: the chosen one, else the first of the browser's that there is, else English.

    Args:
        cookie: what was chosen.
        accepted: the header `Accept-Language`.

    >>> language_of(None, "de-DE,pt-BR;q=0.9,en;q=0.8"), language_of("en", "pt"), language_of(None, "")
    ('pt', 'en', 'en')
    """
    if cookie in LANGUAGES:
        return cookie
    wanted = [part.split(";")[0].strip().lower()[:2] for part in accepted.split(",")]
    return next((language for language in wanted if language in LANGUAGES), LANGUAGES[0])


def part(values: Any, *keys: str) -> Any:
    """A value inside nested tables; None where there is none.

    >>> part({"a": {"b": 3}}, "a", "b"), part({"a": None}, "a", "b")
    (3, None)
    """
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values
