"""Every fault of a definition is one line that names feature, key, value and what was expected."""

from __future__ import annotations

import re

import pytest

from correnteza.definition import HOWS, Feature
from correnteza.errors import ConfigError
from correnteza.records import Field, Schema

RAW = Schema(
    (
        Field("at", "timestamp"),
        Field("sold", "timestamp"),
        Field("temp", "float"),
        Field("rooms", "integer"),
        Field("shop", "category"),
        Field("note", "text"),
    ),
    target="cnt",
    timestamp="at",
)
UNTIMED = Schema((Field("temp", "float"),), target="cnt")


def feature(how: str = "lag", of: str | tuple[str, ...] = "cnt", name: str = "f", **rest: object) -> Feature:
    return Feature(name, (of,) if isinstance(of, str) else of, how, **rest)  # type: ignore[arg-type]


WRONG = [
    (feature("lagg", rows=1), "feature 'f': how = 'lagg': there is no such way; did you mean 'lag'?"),
    (feature(of="temps", rows=1), "feature 'f': of = 'temps': no such field; did you mean 'temp'?"),
    (feature(rows=0), "feature 'f': rows = 0: expected 1 to 100000; a window has at least one row"),
    (feature("mean", seconds=0.0), "feature 'f': seconds = 0.0: expected 0.000001 to 1e+09; a window is not empty"),
    (feature("mean", seconds=float("nan")), "feature 'f': seconds = nan: expected 0.000001 to 1e+09; a window is not empty"),
    (feature(), "feature 'f': rows and seconds are not set: expected one of rows and seconds"),
    (feature(rows=1, seconds=2.0), "feature 'f': rows = 1 and seconds = 2.0: expected one of rows and seconds"),
    (feature("ewm", seconds=2.0), "feature 'f': seconds = 2.0: how = 'ewm' expects rows, its span"),
    (feature("since", "at", rows=1), "feature 'f': rows = 1: how = 'since' has no window; leave it out"),
    (feature(of="shop", rows=1), "feature 'f': of = 'shop': is a category field; how = 'lag' expects a float or integer field"),
    (feature("hour", "temp"), "feature 'f': of = 'temp': is a float field; how = 'hour' expects one of kind timestamp"),
    (feature("log", "cnt"), "feature 'f': of = 'cnt': is the target, which a record does not know yet"),
    (feature("ratio", "temp"), "feature 'f': of = ['temp']: how = 'ratio' is made from two fields"),
    (feature("log", ("temp", "rooms")), "feature 'f': of = ['temp', 'rooms']: how = 'log' is made from one field"),
    (feature(rows=1, by="shops"), "feature 'f': by = 'shops': no such field; did you mean 'shop'?"),
    (feature(rows=1, by="temp"), "feature 'f': by = 'temp': is a float field; expected one of kind category, text or integer"),
    (feature(rows=1, by="cnt"), "feature 'f': by = 'cnt': is the target, which is not known when features are made"),
    (feature("hour", "at", by="shop"), "feature 'f': by = 'shop': how = 'hour' remembers nothing, so it has no key"),
    (feature("holiday", "at"), "feature 'f': country is not set; expected a code such as 'BR' or 'US-CA'"),
    (feature("holiday", "at", country="XX"), "feature 'f': country = 'XX': not known; expected an ISO 3166 code"),
    (feature("holiday", "at", country="BR-XX"), "feature 'f': country = 'BR-XX': BR has no part 'XX'; expected one of AC"),
    (feature("hour", "at", country="BR"), "feature 'f': country = 'BR': only how = 'holiday' has one; leave it out"),
    (feature(rows=1, name="temp"), "feature 'temp': name 'temp' is that of a field; expected a name of its own"),
    (feature(rows=1, name="cnt"), "feature 'cnt': name 'cnt' is that of the target; expected a name of its own"),
    (feature(rows=1, name="raw_offset"), "feature 'raw_offset': name 'raw_offset' is not usable"),
    (feature(rows=1, name="9"), "feature '9': name '9' is not usable"),
]


@pytest.mark.parametrize(("wrong", "line"), WRONG, ids=[line for _, line in WRONG])
def test_each_fault_is_one_line_that_says_all(wrong: Feature, line: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(line)) as caught:
        RAW.with_derived((wrong,))
    assert "\n" not in str(caught.value)


def test_a_feature_of_a_feature_is_not_offered() -> None:
    first, second = feature(rows=1, name="a"), feature("mean", "a", name="b", rows=2)
    with pytest.raises(ConfigError, match=r"of = 'a': is a feature; expected a field or the target"):
        RAW.with_derived((first, second))


def test_a_name_stands_for_one_feature() -> None:
    doubled = (feature("month_cyclic", "at", name="m"), feature(rows=1, name="m_sin"))
    with pytest.raises(
        ConfigError, match=r"^feature 'm_sin': name 'm_sin' is that of feature 'm'; expected a name of its own$"
    ):
        RAW.with_derived(doubled)


@pytest.mark.parametrize("wrong", [feature(seconds=5.0), feature("since"), feature("mean", seconds=1.0)])
def test_event_time_needs_a_timestamp(wrong: Feature) -> None:
    with pytest.raises(ConfigError, match=r"needs event times; expected \[schema\] timestamp"):
        UNTIMED.with_derived((wrong,))


def test_each_fault_of_many_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        RAW.with_derived((feature(rows=0), feature("hour", "temp", name="g")))
    assert len(str(caught.value).splitlines()) == 2


def test_a_schema_names_its_definitions() -> None:
    one, other = (RAW.with_derived((feature(rows=rows),)) for rows in (1, 2))
    assert one.fingerprint != other.fingerprint
    assert Schema.from_dict(one.as_dict()) == one
    assert one.recorded == RAW
    assert RAW.with_derived(()) == RAW
    assert one.features == ("temp", "rooms", "f", "shop")


def test_every_way_can_be_defined() -> None:
    for how in HOWS:
        of: tuple[str, ...] = ("temp",)
        if how in ("ratio", "difference", "product"):
            of = ("temp", "rooms")
        elif how not in ("lag", "mean", "min", "max", "std", "sum", "count", "delta", "ewm", "since", "log"):
            of = ("sold",)
        remembers = Feature("f", of, how).remembers and how != "since"
        made = Feature("f", of, how, rows=3 if remembers else None, country="BR-SP" if how == "holiday" else None)
        assert set(made.columns) <= set(RAW.with_derived((made,)).features)
