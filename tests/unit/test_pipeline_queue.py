"""The waiting order: places, trading of places among flagged requests, the bound on overtaking."""

from __future__ import annotations

from wicketgate.pipeline.queue import QueueParams, WaitQueue


def queue_of(
    *entries: tuple[str, bool, int], params: QueueParams | None = None, fcfs_s: float = 10.0
) -> WaitQueue:
    queue = WaitQueue(params or QueueParams())
    for at_s, (name, flagged, uncached_tokens) in enumerate(entries):
        queue.arrive(name, flagged=flagged, uncached_tokens=uncached_tokens, fcfs_s=fcfs_s, now_s=float(at_s))
    return queue


def drained(queue: WaitQueue, *, now_s: float = 5.0) -> list[str]:
    order = []
    while (name := queue.take(eligible=lambda _: True, now_s=now_s)) is not None:
        order.append(name)
    return order


def test_requests_off_the_flag_are_served_in_order_of_arrival() -> None:
    queue = queue_of(("a", False, 900), ("b", False, 10), ("c", False, 500))

    assert drained(queue) == ["a", "b", "c"]


def test_flagged_requests_are_served_by_what_is_left_to_compute() -> None:
    queue = queue_of(("long", True, 900), ("short", True, 10), ("middle", True, 500))

    assert drained(queue) == ["short", "middle", "long"]


def test_a_request_off_the_flag_keeps_its_place_among_flagged_ones() -> None:
    queue = queue_of(("long", True, 900), ("plain", False, 400), ("short", True, 10))

    assert drained(queue) == ["short", "plain", "long"]


def test_the_displaced_request_takes_over_the_later_place_for_good() -> None:
    queue = queue_of(("long", True, 900), ("short", True, 10), ("plain", False, 1))

    assert queue.take(eligible=lambda _: True, now_s=3.0) == "short"
    assert queue.take(eligible=lambda _: True, now_s=3.0) == "long"


def test_nobody_is_overtaken_past_the_bound() -> None:
    params = QueueParams(overtake_ratio=1.5, overtake_floor_s=0.25)
    queue = queue_of(("long", True, 900), ("short", True, 10), params=params, fcfs_s=1.0)

    assert queue.take(eligible=lambda _: True, now_s=1.76) == "long"


def test_within_the_bound_the_shorter_one_goes_first() -> None:
    params = QueueParams(overtake_ratio=1.5, overtake_floor_s=0.25)
    queue = queue_of(("long", True, 900), ("short", True, 10), params=params, fcfs_s=1.0)

    assert queue.take(eligible=lambda _: True, now_s=1.74) == "short"


def test_order_fcfs_leaves_flagged_requests_in_order_of_arrival() -> None:
    queue = queue_of(("long", True, 900), ("short", True, 10), params=QueueParams(order="fcfs"))

    assert drained(queue) == ["long", "short"]


def test_a_request_that_is_not_eligible_keeps_its_place() -> None:
    queue = queue_of(("blocked", False, 1), ("free", False, 1))

    assert queue.take(eligible=lambda name: name == "free", now_s=0.0) == "free"
    assert drained(queue) == ["blocked"]


def test_a_size_that_becomes_known_moves_the_request() -> None:
    queue = queue_of(("first", True, 100), ("second", True, 200))

    queue.sized("second", 20)

    assert drained(queue) == ["second", "first"]


def test_a_size_of_an_unknown_request_changes_nothing() -> None:
    queue = queue_of(("first", True, 100))

    queue.sized("gone", 20)

    assert drained(queue) == ["first"]


def test_a_place_is_given_up_once() -> None:
    queue = queue_of(("a", False, 1), ("b", False, 1))

    assert queue.remove("a")
    assert not queue.remove("a")
    assert len(queue) == 1


def test_an_empty_queue_has_nobody_next() -> None:
    assert WaitQueue(QueueParams()).take(eligible=lambda _: True, now_s=0.0) is None


def test_other_bounds_take_effect_at_once() -> None:
    queue = queue_of(("long", True, 900), ("short", True, 10))

    queue.replace_params(QueueParams(order="fcfs"))

    assert drained(queue) == ["long", "short"]
