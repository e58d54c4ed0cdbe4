"""Laws of the category codes."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from correnteza.features import CATEGORIES
from correnteza.normalizer.encoding import Encoded, FieldCodes, category_rows, encode

columns = st.lists(st.one_of(st.none(), st.sampled_from(["", "a", "b", "c", "d", "ç", "A"]), st.text(max_size=3)), max_size=40)


def run(state: FieldCodes, values: list[str | None], cap: int = 5) -> Encoded:
    return encode(state, pa.array(values, pa.string()), cap)


def one_by_one(values: list[str | None], cap: int) -> tuple[list[float | None], list[str]]:
    """The meaning of the codes, said slowly."""
    codes: list[float | None] = []
    known: list[str] = []
    for value in values:
        if not value:
            codes.append(None)
            continue
        if value not in known and len(known) < cap:
            known.append(value)
        codes.append(float(known.index(value) + 1) if value in known else 0.0)
    return codes, known


@settings(deadline=None)
@given(columns, st.integers(1, 8))
def test_codes_count_from_1_in_order_of_first_sight_up_to_the_cap(values: list[str | None], cap: int) -> None:
    done = run(FieldCodes(), values, cap)
    codes, known = one_by_one(values, cap)
    assert done.codes.to_pylist() == codes
    assert list(done.state.codes) == known == list(done.new)
    assert [values.index(v) for v in done.new] == list(done.new_rows)
    assert done.state.capped == (0.0 in codes)


@settings(deadline=None)
@given(columns, columns, st.integers(1, 8))
def test_any_cut_gives_the_same_codes(before: list[str | None], after: list[str | None], cap: int) -> None:
    first = run(FieldCodes(), before, cap)
    second = run(first.state, after, cap)
    whole = run(FieldCodes(), [*before, *after], cap)
    assert whole.codes.to_pylist() == first.codes.to_pylist() + second.codes.to_pylist()
    assert whole.state == second.state
    assert list(whole.state.codes) == list(second.state.codes)


@settings(deadline=None)
@given(columns, columns)
def test_a_value_keeps_its_code_and_the_state_passed_in_its_values(before: list[str | None], after: list[str | None]) -> None:
    state = run(FieldCodes(), before).state
    held = dict(state.codes)
    later = run(state, after).state
    assert dict(state.codes) == held
    assert list(later.codes.items())[: len(held)] == list(held.items())


def test_a_column_without_new_values_gives_back_the_very_state() -> None:
    state = FieldCodes({"a": 1, "b": 2})
    assert run(state, ["b", None, "a"]).state is state


def test_more_values_than_codes_make_it_capped_once_and_known_ones_keep_working() -> None:
    first = run(FieldCodes(), ["a", "b"], cap=2)
    assert not first.state.capped
    second = run(first.state, ["x", "a", "y"], cap=2)
    assert second.state.capped
    assert second.codes.to_pylist() == [0.0, 1.0, 0.0]
    assert run(second.state, ["z", "b"], cap=2).state is second.state


def test_a_lower_cap_takes_no_code_away() -> None:
    state = FieldCodes({"a": 1, "b": 2, "c": 3})
    assert run(state, ["c", "d"], cap=1).codes.to_pylist() == [3.0, 0.0]


def test_rows_of_the_log_come_by_row_and_then_by_field() -> None:
    encoded = {
        "job": run(FieldCodes(), ["cook", "nurse", "cook"]),
        "city": run(FieldCodes({"Rio": 1}), ["Rio", "Natal", "Belém"]),
    }
    rows = category_rows(encoded, np.array([7, 12, 9]), 4)
    assert rows.schema == CATEGORIES
    assert [tuple(r.values()) for r in rows.to_pylist()] == [
        (7, 4, "job", "cook", 1),
        (12, 5, "job", "nurse", 2),
        (12, 5, "city", "Natal", 2),
        (9, 6, "city", "Belém", 3),
    ]
