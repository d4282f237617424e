"""Pins what counts as a value of a JSON text, however it is cut, and the bounds."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wicketgate.api.value_count import MAX_DIGITS, MAX_NAMES, MORE_VALUES, ValueCount
from wicketgate.errors import InvalidRequestError

JSON = st.recursive(
    st.none() | st.integers() | st.text(alphabet='a,:[]{}"\\é\n'),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a,:["\\'), inner, max_size=4)
    ),
    max_leaves=20,
)


def counted(data: bytes, *cuts: int) -> tuple[int, int]:
    """Names and values of a text that is cut at places."""
    count = ValueCount(most_ids=0)
    for start, end in itertools.pairwise([0, *sorted(cuts), len(data)]):
        count.add(data[start:end])
    return count.names, count.values


def expected(value: object) -> tuple[int, int]:
    """Names and values of a value, found by walking through it."""
    if isinstance(value, dict):
        inner = [expected(each) for each in value.values()]
        names, values = len(value), max(len(value) - 1, 0)
    elif isinstance(value, list):
        inner = [expected(each) for each in value]
        names, values = 0, max(len(value), 1)
    else:
        return 0, 0
    return names + sum(each[0] for each in inner), values + sum(each[1] for each in inner)


@given(value=JSON, cuts=st.lists(st.integers(0, 200), max_size=6), ascii_only=st.booleans())
def test_a_text_has_as_many_values_as_what_is_made_of_it_wherever_it_is_cut(value, cuts, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode()

    assert counted(data, *(min(cut, len(data)) for cut in cuts)) == expected(value)


def test_what_stands_in_texts_is_no_value():
    data = b'{"a":"' + b'\\",:[' * (2 * MORE_VALUES) + b'\\\\"}'

    assert counted(data, *range(0, len(data), 65_537)) == (1, 0)


@pytest.mark.parametrize(
    ("data", "bound"),
    [
        (b'{"a":[' + b"[]," * (MORE_VALUES // 2 + 1), MORE_VALUES),
        (b'[{"a":1},' * (MAX_NAMES + 1), MAX_NAMES),
        (b'["\\\\",' + b"1," * MORE_VALUES + b'"', MORE_VALUES),
    ],
    ids=["values", "names", "values-behind-an-escape"],
)
def test_too_many_are_refused_though_the_text_never_ends(data, bound):
    with pytest.raises(InvalidRequestError, match=f"at most {bound} ") as refusal:
        counted(data)

    assert refusal.value.code == "array_above_max_length"


@pytest.mark.parametrize("before", ["", "-", "0.", "1e"])
def test_a_number_of_more_digits_than_any_needs_is_refused(before):
    assert counted(f"[{before}{'9' * MAX_DIGITS}]".encode()) == (0, 1)
    assert counted(f'"{before}{"9" * 2 * MAX_DIGITS}"'.encode()) == (0, 0)
    with pytest.raises(InvalidRequestError, match=f"at most {MAX_DIGITS} digits"):
        counted(f"[{before}{'9' * (MAX_DIGITS + 1)}]".encode())


def test_the_ids_of_the_longest_prompt_have_room_besides():
    count = ValueCount(most_ids=1000)

    count.add(b"1," * (MORE_VALUES + 1000))

    with pytest.raises(InvalidRequestError):
        count.add(b",")
