"""Pins the simulation of stages: which requests fail, how a stage ends, and how delays are counted."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from rollout.error_guard import ErrorGuard
from rollout.guards import Guard
from rollout.simulation import Ending, Outcomes, SimulationParams, failing_requests, play, simulate


def stage(rate_ratio: float = 0.0, **changes: float) -> SimulationParams:
    """Make a canary stage of a day at 1 % of 10 requests a second: 8,640 requests."""
    return SimulationParams(
        **{
            "rate_ratio": rate_ratio,
            "canary_per_s": 0.1,
            "hold_s": 86_400.0,
            "promote_below_ratio": 0.005,
            "stages": 20,
            **changes,
        }
    )


def draws(seed: int):
    return random.Random(seed).random


def test_a_day_of_a_request_every_10_seconds_has_8640():
    assert stage().requests == 8640


def test_at_a_rate_of_0_none_fails_and_at_1_all_do():
    assert list(failing_requests(stage(0.0), draws(1))) == []
    assert list(failing_requests(stage(1.0, hold_s=50.0), draws(1))) == [0, 1, 2, 3, 4]


def test_as_many_fail_as_the_rate_says_before_and_after_the_break():
    params = stage(0.01, later_rate_ratio=0.2, hold_s=1e6)

    numbers = list(failing_requests(params, draws(2)))

    before = sum(number < 50_000 for number in numbers)
    assert abs(before - 500) < 4 * math.sqrt(500)
    assert abs(len(numbers) - before - 10_000) < 4 * math.sqrt(10_000)
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < params.requests == 100_000


def test_gaps_between_failures_are_geometric():
    params = stage(0.25, hold_s=4e5)

    numbers = list(failing_requests(params, draws(3)))

    gaps = [later - earlier for earlier, later in pairwise(numbers)]
    for gap in (1, 2, 3):
        expected = len(gaps) * 0.25 * 0.75 ** (gap - 1)
        assert abs(gaps.count(gap) - expected) < 4 * math.sqrt(expected)


def test_a_rate_that_is_next_to_nothing_fails_nobody():
    assert list(failing_requests(stage(1e-300), draws(1))) == []


def test_failures_to_expect_are_those_of_both_halves():
    assert stage(0.1).failures == 864.0
    assert stage(0.1, later_rate_ratio=0.3).failures == 0.2 * 8640


def test_a_stage_without_failures_is_promoted():
    assert play(stage(), ()).ending is Ending.PROMOTED


@pytest.mark.parametrize("requests", [0, 1, 1000, 1075])
def test_a_stage_with_too_few_requests_is_held_however_clean(requests):
    assert play(stage(canary_per_s=requests / 86_400), ()).ending is Ending.HELD


def test_a_stage_in_which_more_failed_than_the_limit_allows_is_held():
    spread_out = range(100, 8640, 950)

    assert len(spread_out) == 9
    assert play(stage(), spread_out[:8]).ending is Ending.PROMOTED
    assert play(stage(), spread_out).ending is Ending.HELD


def test_a_stage_whose_guard_is_suspicious_at_its_end_is_held():
    assert play(stage(), range(0, 8640, 2000)).ending is Ending.PROMOTED
    assert play(stage(), range(8540, 8640, 20)).ending is Ending.HELD


def test_a_stage_is_rolled_back_by_its_second_failure_at_the_start():
    played = play(stage(), (0, 1, 2, 3))

    assert (played.ending, played.requests, played.failed) == (Ending.ROLLED_BACK, 2, 2)


def test_delays_are_counted_from_the_break():
    params = stage(later_rate_ratio=1.0, canary_per_s=1.0)

    played = play(params, (17, *range(43_200, 43_300)))

    assert played.ending is Ending.ROLLED_BACK
    assert played.requests == played.failed <= 4


def test_a_rollback_before_the_break_is_told_apart():
    outcomes = simulate(stage(1.0, later_rate_ratio=0.0), draws(1))

    assert (outcomes.rolled_back, outcomes.early, outcomes.delays_requests) == (20, 20, ())
    assert outcomes.delay_requests(0.5) is None


def test_whatever_a_clock_that_ticks_at_every_request_rolls_back_is_rolled_back_no_later():
    params = stage(0.004, later_rate_ratio=0.05, canary_per_s=0.05)
    limit = params.guard.limit(Guard.ERRORS)
    for seed in range(6):
        failing = set(failing_requests(params, draws(seed)))

        exact, number = ErrorGuard(0.001), 0
        while exact.evidence < limit:
            exact.observe(int(number not in failing), int(number in failing))
            exact.advance((number + 1) / params.requests)
            number += 1

        played = play(params, sorted(failing))
        assert played.ending is Ending.ROLLED_BACK
        assert played.requests <= max(0, number - params.breaks_at)


def test_outcomes_of_a_broken_stage_count_delays_over_all_stages():
    outcomes = simulate(stage(0.05), draws(4))

    assert outcomes.stages == outcomes.rolled_back == 20
    assert 20 < outcomes.delay_requests(0.5) < 150
    assert 2 <= outcomes.delay_failed(0.5) <= outcomes.delay_failed(0.95) <= 12


def test_a_healthy_feature_is_promoted_and_a_starved_one_held():
    assert simulate(stage(0.0001), draws(5)).promoted == 20
    assert simulate(stage(0.0001, canary_per_s=0.001), draws(5)).held == 20


def test_a_delay_that_too_few_stages_reached_is_none():
    outcomes = Outcomes(
        rolled_back=2, promoted=1, held=1, early=0, delays_requests=(5, 9), delays_failed=(2, 3)
    )

    assert outcomes.delay_requests(0.0) == 5
    assert outcomes.delay_requests(0.5) == 9
    assert outcomes.delay_requests(0.51) is None
    assert outcomes.delay_failed(0.25) == 2


def test_the_same_draws_give_the_same_outcomes():
    assert simulate(stage(0.002), draws(6)) == simulate(stage(0.002), draws(6))


@pytest.mark.parametrize(
    "changes",
    [
        {"rate_ratio": -0.1},
        {"rate_ratio": math.nan},
        {"later_rate_ratio": 1.1},
        {"canary_per_s": -1.0},
        {"canary_per_s": -1.0, "hold_s": -1.0},
        {"hold_s": math.inf},
        {"hold_s": math.nan},
        {"stages": 0},
        {"stretch_ratio": 0.0},
        {"stretch_ratio": 1.1},
    ],
)
def test_what_is_no_stage_is_refused(changes):
    with pytest.raises(ValueError, match=r"must be|no traffic"):
        stage(**changes)
