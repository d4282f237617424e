"""Pins what a client may cost: the sliding sums, the budgets, and what is spared to clients who mean well."""

from __future__ import annotations

import pytest

from transport.budgets import BudgetParams, Budgets, SlidingSum


def budgets(**limits: int) -> Budgets:
    return Budgets(BudgetParams(**limits), now_s=0)


def test_a_sum_forgets_what_is_older_than_its_span():
    total = SlidingSum(span_s=10, now_s=0)
    total.add(8, now_s=1)

    assert total.add(0, now_s=9) == 8
    assert total.add(0, now_s=15) == pytest.approx(4)
    assert total.add(1, now_s=20) == pytest.approx(1)
    assert total.add(0, now_s=45) == 0


def test_a_sum_keeps_its_spans_in_step_after_a_pause():
    total = SlidingSum(span_s=10, now_s=0)
    total.add(4, now_s=25)

    assert total.add(0, now_s=30) == pytest.approx(4)
    assert total.add(0, now_s=35) == pytest.approx(2)


def test_a_client_that_resets_what_it_asked_for_is_stopped():
    made = budgets(resets=3)

    assert [made.reset(was_answered=False, now_s=0) for _ in range(4)] == [True, True, True, False]


def test_a_client_that_cancels_every_answer_is_not():
    made = budgets(resets=3)

    assert all(made.reset(was_answered=True, now_s=0) for _ in range(29))
    assert not made.reset(was_answered=False, now_s=0)


def test_twice_as_many_resets_as_good_ends_are_free():
    made = budgets(resets=1)
    for _ in range(3):
        made.ended_well(now_s=0)

    assert [made.reset(was_answered=False, now_s=0) for _ in range(7)] == [True] * 6 + [False]


def test_resets_that_a_client_provokes_are_counted_with_their_weight():
    made = budgets(provoked=2)

    assert all(made.provoked(0.1, now_s=0) for _ in range(10))
    assert made.provoked(now_s=0)
    assert not made.provoked(now_s=0)


def test_frames_that_carry_nothing_are_stopped_and_forgiven_in_time():
    made = budgets(controls=2)

    assert [made.control(now_s=0) for _ in range(3)] == [True, True, False]
    assert made.control(now_s=30)


def test_two_window_updates_are_free_for_each_frame_sent():
    made = budgets(controls=1)
    made.sent(2, now_s=0)

    assert [made.window_update(now_s=0) for _ in range(6)] == [True] * 5 + [False]
