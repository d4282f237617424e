"""
Invariants 12 and 14 of rollouts, of the guard on failures and of the evidence for promotion.

No adversary that keeps the failure rate at or below the limit is expected to gain, whatever it does because
of what it saw; without data nothing moves; and how requests are grouped changes nothing.
"""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.error_guard import ErrorGuard
from rollout.promotion import PromotionEvidence, needed_requests, upper_bound_ratio

limits = st.sampled_from([1e-5, 0.0005, 0.001, 0.01, 0.2, 0.7])
counts = st.tuples(st.integers(0, 400), st.integers(0, 6))
clocks = st.lists(st.floats(0, 100), max_size=5)
histories = st.lists(st.tuples(counts, st.floats(0, 5)), max_size=6)
"""Counts of passed and failed requests, and progress of the clock after each."""


def guard_after(limit, history):
    guard = ErrorGuard(limit)
    for (passed, failed), progress in history:
        guard.observe(passed, failed)
        guard.advance(progress)
    return guard


def copied(guard, limit):
    return ErrorGuard(limit, json.loads(json.dumps(guard.document())))


def assert_grouping_is_the_same(limit, history, passed, failed):
    at_once, singly = guard_after(limit, history), guard_after(limit, history)

    at_once.observe(passed, failed)
    for _ in range(passed):
        singly.observe(1, 0)
    for _ in range(failed):
        singly.observe(0, 1)

    assert at_once.evidence == pytest.approx(singly.evidence, rel=1e-12)


@given(limit=limits, history=histories, passed=st.integers(0, 1500), failed=st.integers(0, 50))
@settings(max_examples=50)
def test_requests_taken_in_at_once_equal_single_ones_that_passed_first(limit, history, passed, failed):
    assert_grouping_is_the_same(limit, history, passed, failed)


# More passes would take a wealth out of the range of floats, and so many failures bring it back, less exact.
@given(limit=limits, passed=st.integers(0, 250), failed=st.integers(50, 400))
@settings(max_examples=50)
def test_so_do_more_failures_than_fit_one_step(limit, passed, failed):
    assert_grouping_is_the_same(limit, [], passed, failed)


@given(limit=limits, history=histories, part=st.floats(0, 1))
def test_no_request_at_or_below_the_limit_is_expected_to_raise_the_evidence(limit, history, part):
    before = guard_after(limit, history)
    passes, fails = copied(before, limit), copied(before, limit)
    passes.observe(1, 0)
    fails.observe(0, 1)

    rate = part * limit
    expected = rate * fails.evidence + (1 - rate) * passes.evidence

    assert expected <= before.evidence * (1 + 1e-12)


@given(limit=limits, seed=st.integers(0, 2**32), clock=st.lists(st.floats(0, 3), min_size=7, max_size=7))
def test_an_adversary_that_stays_at_or_below_the_limit_gains_nothing_over_all_its_streams(limit, seed, clock):
    adversary = random.Random(seed)

    def expected(guard, depth):
        if depth == len(clock):
            return guard.evidence
        # What it does next depends on the whole history: each node of the tree draws its own rate.
        rate = limit * adversary.choice((0.0, adversary.random(), 1.0))
        guard.advance(clock[depth])
        fails = copied(guard, limit)
        guard.observe(1, 0)
        fails.observe(0, 1)
        return rate * expected(fails, depth + 1) + (1 - rate) * expected(guard, depth + 1)

    assert expected(ErrorGuard(limit), 0) <= 1 + 1e-12


@given(below=limits, history=st.lists(counts, max_size=6), part=st.floats(0, 1))
def test_no_request_at_or_above_the_rate_is_expected_to_bring_promotion_nearer(below, history, part):
    promotion, passes, fails = (PromotionEvidence(below) for _ in range(3))
    for each in (promotion, passes, fails):
        for passed, failed in history:
            each.observe(passed, failed)
    passes.observe(1, 0)
    fails.observe(0, 1)

    rate = below + part * (1 - below)
    expected = rate * fails.evidence + (1 - rate) * passes.evidence

    assert expected <= promotion.evidence * (1 + 1e-9)


@given(limit=limits, history=histories, clock=clocks)
def test_without_data_no_clock_moves_the_evidence(limit, history, clock):
    guard = guard_after(limit, history)
    before = guard.evidence

    for progress in clock:
        guard.advance(progress)

    assert guard.evidence == pytest.approx(before, rel=1e-12)


@given(limit=limits, history=histories, more=histories)
def test_a_restart_between_two_requests_changes_nothing(limit, history, more):
    guard = guard_after(limit, history)
    restored = copied(guard, limit)

    for each in (guard, restored):
        for (passed, failed), progress in more:
            each.observe(passed, failed)
            each.advance(progress)

    assert restored.document() == guard.document()


@given(below=limits, passed=st.integers(0, 10**7), failed=st.integers(0, 10**4), limit=st.floats(1.5, 1e6))
def test_as_many_clean_requests_are_missing_as_bring_the_evidence_and_no_more(below, passed, failed, limit):
    missing = needed_requests(below, passed, failed, limit)

    def evidence(more):
        promotion = PromotionEvidence(below)
        promotion.observe(passed + more, failed)
        return promotion.evidence

    assert evidence(missing) >= limit
    assert missing == 0 or evidence(missing - 1) < limit


@given(passed=st.integers(1, 10**7), failed=st.integers(0, 10**4), more=st.integers(1, 1000))
def test_the_upper_bound_falls_with_passes_and_rises_with_failures(passed, failed, more):
    bound = upper_bound_ratio(passed, failed)

    assert failed / (passed + failed) < bound <= 1
    assert upper_bound_ratio(passed + more, failed) <= bound * (1 + 1e-12)
    assert upper_bound_ratio(passed, failed + more) >= bound * (1 - 1e-12)
