"""Properties of the waiting order under random arrivals."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wicketgate.pipeline.queue import QueueParams, WaitQueue

ENTRIES = st.lists(st.tuples(st.booleans(), st.integers(1, 5000), st.integers(0, 20)), max_size=30)


def positions(entries: list[tuple[bool, int, int]], now_s: float) -> list[int]:
    queue = WaitQueue(QueueParams())
    for index, (flagged, tokens, fcfs_s) in enumerate(entries):
        queue.arrive(str(index), flagged=flagged, uncached_tokens=tokens, fcfs_s=fcfs_s, now_s=0.0)
    order = []
    while (name := queue.take(eligible=lambda _: True, now_s=now_s)) is not None:
        order.append(int(name))
    return order


@given(ENTRIES, st.floats(0, 60))
def test_everybody_is_served_exactly_once(entries: list[tuple[bool, int, int]], now_s: float) -> None:
    assert sorted(positions(entries, now_s)) == list(range(len(entries)))


@given(ENTRIES, st.floats(0, 60))
def test_a_request_off_the_flag_is_served_exactly_when_it_would_be_without_the_flag(
    entries: list[tuple[bool, int, int]], now_s: float
) -> None:
    order = positions(entries, now_s)

    for place, index in enumerate(order):
        if not entries[index][0]:
            assert place == index


@given(ENTRIES)
def test_past_every_bound_all_are_served_in_order_of_their_bounds(
    entries: list[tuple[bool, int, int]],
) -> None:
    flagged = [(True, tokens, fcfs_s) for _, tokens, fcfs_s in entries]

    order = positions(flagged, now_s=1000.0)

    assert [flagged[index][2] for index in order] == sorted(entry[2] for entry in flagged)
