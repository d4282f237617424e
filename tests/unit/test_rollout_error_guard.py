"""Pins the guard on failures: what it bets on, when it decides, and what it does at the edges."""

from __future__ import annotations

import json

import pytest

from rollout.error_guard import ErrorGuard, alternatives
from rollout.guards import Guard, GuardParams

LIMIT = 0.001
DECIDES = GuardParams().limit(Guard.ERRORS)


def test_at_the_default_limit_it_bets_on_the_rates_of_the_specification():
    assert alternatives(0.001) == pytest.approx((0.002, 0.005, 0.02, 0.1, 0.9), rel=1e-12)


@pytest.mark.parametrize("limit", [1e-9, 1e-6, 0.0001, 0.001, 0.01, 0.1, 0.5, 0.89, 0.9, 0.99, 1 - 1e-9])
def test_at_every_limit_it_bets_on_rising_rates_between_it_and_1(limit):
    rates = (limit, *alternatives(limit), 1.0)

    assert list(rates) == sorted(set(rates))


def test_the_first_failure_is_worth_what_can_be_reckoned_by_hand():
    guard = ErrorGuard(LIMIT)

    guard.observe(0, 1)

    on_bets = 0.15 * 2 + 0.25 * 5 + 0.2 * 20 + 0.15 * 100 + 0.25 * 900
    assert guard.evidence == pytest.approx(0.5 + 0.5 * on_bets, rel=1e-12)


def test_the_first_pass_is_worth_what_can_be_reckoned_by_hand():
    guard = ErrorGuard(LIMIT)

    guard.observe(1, 0)

    on_bets = (0.15 * 0.998 + 0.25 * 0.995 + 0.2 * 0.98 + 0.15 * 0.9 + 0.25 * 0.1) / 0.999
    assert guard.evidence == pytest.approx(0.5 + 0.5 * on_bets, rel=1e-12)


def test_a_feature_that_fails_at_once_is_decided_by_its_second_failure():
    guard = ErrorGuard(LIMIT)

    guard.observe(0, 1)
    first = guard.evidence
    guard.observe(0, 1)

    assert first < DECIDES <= guard.evidence


def test_after_twelve_healthy_hours_a_total_failure_is_decided_by_its_fourth():
    guard = ErrorGuard(LIMIT)
    for minute in range(719):
        guard.observe(60, 0)
        guard.advance((minute + 1) * 60 / 86_400)
    for second in range(60):
        guard.observe(1, 0)
        guard.advance((719 * 60 + second + 1) / 86_400)

    seen = []
    for _ in range(4):
        guard.observe(0, 1)
        seen.append(guard.evidence >= DECIDES)

    assert seen[-1]


def test_without_requests_no_clock_moves_the_evidence():
    guard = ErrorGuard(LIMIT)

    for progress in (0.1, 0.5, 0.2, 1.0, 40.0, 1e9):
        guard.advance(progress)

    assert guard.evidence == pytest.approx(1.0, rel=1e-12)


def test_nothing_to_observe_changes_nothing():
    guard = ErrorGuard(LIMIT)
    guard.observe(3, 1)
    before = guard.document()

    guard.observe(0, 0)

    assert guard.document() == before


def test_a_million_failures_at_once_are_counted_without_overflow():
    guard = ErrorGuard(LIMIT)

    guard.observe(1000, 1_000_000)

    assert guard.evidence == pytest.approx(1e280, rel=0.9)


def test_a_limit_of_1_allows_everything():
    guard = ErrorGuard(1.0)

    guard.observe(0, 100_000)

    assert guard.evidence == pytest.approx(1.0, rel=1e-3)


def test_a_limit_next_to_nothing_is_exceeded_by_one_failure():
    guard = ErrorGuard(5e-324)

    guard.observe(0, 1)

    assert guard.evidence >= DECIDES


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.1, float("nan")])
def test_a_limit_that_is_no_rate_is_refused(limit):
    with pytest.raises(ValueError, match="limit_ratio must be above 0"):
        ErrorGuard(limit)


def test_it_goes_on_from_its_document_after_a_detour_through_json():
    guard = ErrorGuard(LIMIT)
    guard.observe(700, 1)
    guard.advance(0.3)

    restored = ErrorGuard(LIMIT, json.loads(json.dumps(guard.document())))
    for each in (guard, restored):
        each.observe(10, 1)

    assert restored.evidence == guard.evidence


def test_evidence_against_another_limit_is_refused():
    document = ErrorGuard(0.002).document()

    with pytest.raises(ValueError, match=r"no evidence against a limit of 0\.001"):
        ErrorGuard(LIMIT, document)
