"""Pins that an outbox gives back what was put in, in order, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.outbox import Outbox


def test_all_is_taken_at_once():
    outbox = Outbox()
    outbox.add(b"ab")
    outbox.add(b"c")

    assert (outbox.take(10), outbox.size) == (b"abc", 0)


def test_a_part_that_was_begun_is_gone_on_with():
    outbox = Outbox()
    outbox.add(b"abcd")

    assert [outbox.take(1), outbox.take(2), outbox.take(9)] == [b"a", b"bc", b"d"]


def test_a_part_that_is_used_up_makes_way_for_the_next():
    outbox = Outbox()
    outbox.add(b"ab")
    outbox.add(b"cd")

    assert [outbox.take(2), outbox.take(1), outbox.take(1)] == [b"ab", b"c", b"d"]


def test_a_cleared_outbox_is_as_new():
    outbox = Outbox()
    outbox.add(b"abcd")
    outbox.take(1)
    outbox.clear()
    outbox.add(b"xy")

    assert (outbox.size, outbox.take(1), outbox.take(1)) == (2, b"x", b"y")


@given(steps=st.lists(st.one_of(st.binary(min_size=1, max_size=20), st.integers(1, 30)), max_size=60))
def test_what_comes_out_is_what_went_in(steps):
    outbox, put, taken = Outbox(), b"", b""

    for step in steps:
        if isinstance(step, bytes):
            outbox.add(step)
            put += step
        elif outbox.size:
            data = outbox.take(step)
            assert len(data) == min(step, len(put) - len(taken))
            taken += data
        assert outbox.size == len(put) - len(taken)

    assert put.startswith(taken)
