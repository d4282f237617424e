"""Pins the sums of bench/guards.py: exact intervals, the exact chance of promotion, poison sessions."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from bench.guards import chance_of_promotion, exact_interval, stage, with_poison_sessions


def test_the_interval_of_none_and_of_all_can_be_reckoned_by_hand():
    edge = 0.025 ** (1 / 10)

    assert exact_interval(0, 10) == pytest.approx((0.0, 1 - edge), rel=1e-9)
    assert exact_interval(10, 10) == pytest.approx((edge, 1.0), rel=1e-9)


def test_at_its_ends_an_interval_leaves_a_fortieth_on_either_side():
    low, high = exact_interval(1, 10)

    assert (1 - low) ** 10 == pytest.approx(0.975, rel=1e-9)
    assert (1 - high) ** 10 + 10 * high * (1 - high) ** 9 == pytest.approx(0.025, rel=1e-9)


def test_none_of_a_hundred_thousand_leaves_3_7_in_a_hundred_thousand():
    assert exact_interval(0, 100_000) == pytest.approx((0.0, 3.7e-5), rel=0.01)


def test_the_chance_that_no_request_fails_can_be_reckoned_by_hand():
    # 1 076 clean requests are needed; with a failure among them, many more.
    chance = chance_of_promotion(0.001, below_ratio=0.005, first=1076, last=1076)

    assert chance == pytest.approx(0.999**1076, rel=1e-9)


def test_with_too_few_requests_there_is_no_chance():
    assert chance_of_promotion(0.0, below_ratio=0.005, first=1, last=1075) == 0.0


def test_an_observed_rate_above_the_limit_waits_for_more_requests():
    free = chance_of_promotion(0.0005, below_ratio=0.005, first=8640, last=8640)
    bound = chance_of_promotion(0.0005, below_ratio=0.005, first=8640, last=8640, limit_ratio=0.001)

    assert bound < free


def test_of_a_poison_session_two_requests_in_a_row_count():
    params = replace(stage(0.0, per_s=100), hold_s=1e6)

    numbers = list(with_poison_sessions(params, random.Random(1).random))

    assert numbers[1::2] == [number + 1 for number in numbers[::2]]
    # 1,000,000 requests are 100,000 sessions, 20 of them poison.
    assert 10 <= len(numbers) / 2 <= 35


def test_single_failures_and_poison_sessions_keep_their_order():
    params = replace(stage(0.3, per_s=100), hold_s=2e5)

    numbers = list(with_poison_sessions(params, random.Random(1).random))

    assert numbers == sorted(set(numbers))
    assert numbers[-1] < params.requests
