"""Pins the evidence for promotion: how much a clean stage needs, what no data gives, and the upper bound."""

from __future__ import annotations

import json
import math

import pytest

from rollout.promotion import PromotionEvidence, needed_requests, upper_bound_ratio


def evidence(below_ratio: float, passed: int, failed: int) -> float:
    promotion = PromotionEvidence(below_ratio)
    promotion.observe(passed, failed)
    return promotion.evidence


@pytest.mark.parametrize(("below_ratio", "requests"), [(0.005, 1076), (0.002, 2694), (0.001, 5390)])
def test_a_clean_stage_needs_the_requests_of_the_specification(below_ratio, requests):
    assert needed_requests(below_ratio, 0, 0, 100) == requests
    assert evidence(below_ratio, requests - 1, 0) < 100 <= evidence(below_ratio, requests, 0)


def test_without_requests_it_says_nothing():
    assert PromotionEvidence(0.005).evidence == pytest.approx(1.0, rel=1e-12)


def test_a_failure_is_worth_what_can_be_reckoned_by_hand():
    assert evidence(0.005, 0, 1) == pytest.approx(0.702 * 0.1 + 0.218 * 0.3 + 0.06 * 0.6 + 0.02 * 0.85)


def test_a_pass_is_worth_what_can_be_reckoned_by_hand():
    expected = (0.702 * 0.95 + 0.218 * 0.85 + 0.06 * 0.7 + 0.02 * 0.575) / 0.5

    assert evidence(0.5, 1, 0) == pytest.approx(expected)


def test_counts_may_come_in_any_order_and_grouping():
    promotion = PromotionEvidence(0.005)

    promotion.observe(100, 0)
    promotion.observe(0, 2)
    promotion.observe(900, 1)

    assert promotion.evidence == evidence(0.005, 1000, 3)


def test_what_failed_makes_more_requests_necessary():
    needed = [needed_requests(0.005, 0, failed, 100) for failed in range(20)]

    assert needed == sorted(set(needed))


def test_what_passed_already_is_not_needed_again():
    assert needed_requests(0.005, 611, 0, 100) == 465
    assert needed_requests(0.005, 1076, 0, 100) == 0
    assert needed_requests(0.005, 5000, 0, 100) == 0


def test_to_exclude_that_everything_fails_one_pass_is_needed():
    assert needed_requests(1.0, 0, 50, 100) > 0
    assert needed_requests(1.0, 0, 0, 100) == 1


def test_evidence_of_a_billion_requests_stays_a_number():
    assert math.isfinite(evidence(0.5, 10**9, 0))
    assert evidence(0.001, 0, 10**9) == 0.0


def test_nothing_bounds_the_rate_of_nothing():
    assert upper_bound_ratio(0, 0) == 1.0
    assert upper_bound_ratio(0, 7) == 1.0


@pytest.mark.parametrize(("passed", "failed"), [(1, 0), (611, 0), (8636, 4), (300, 1000), (738_089, 112)])
@pytest.mark.parametrize("risk_ratio", [0.5, 0.05, 0.001])
def test_the_bound_is_the_rate_that_is_just_excluded(passed, failed, risk_ratio):
    bound = upper_bound_ratio(passed, failed, risk_ratio)

    assert evidence(bound, passed, failed) == pytest.approx(1 / risk_ratio, rel=1e-9)
    assert bound > failed / (passed + failed)


def test_the_bound_of_many_requests_is_near_what_was_observed():
    assert upper_bound_ratio(738_089, 112) < 1.5 * 112 / 738_201
    assert upper_bound_ratio(99_900_000, 100_000) < 1.1 * 0.001


def test_the_bound_of_hardly_a_pass_is_1():
    assert upper_bound_ratio(1, 10**15) == 1.0


@pytest.mark.parametrize("below_ratio", [0.0, -1.0, 1.1, math.nan])
def test_a_rate_to_exclude_that_is_none_is_refused(below_ratio):
    with pytest.raises(ValueError, match="below_ratio must be above 0"):
        PromotionEvidence(below_ratio)
    with pytest.raises(ValueError, match="below_ratio must be above 0"):
        needed_requests(below_ratio, 0, 0, 100)


def test_it_goes_on_from_its_document_even_when_another_rate_is_to_be_excluded():
    promotion = PromotionEvidence(0.005)
    promotion.observe(4000, 1)

    restored = PromotionEvidence(0.002, json.loads(json.dumps(promotion.document())))

    assert restored.evidence == evidence(0.002, 4000, 1)


@pytest.mark.parametrize(
    "document", [{}, {"passed": 1.5, "failed": 0}, {"passed": 1, "failed": None}, {"passed": -1, "failed": 0}]
)
def test_a_document_that_is_none_is_refused(document):
    with pytest.raises(ValueError, match="must be a whole number"):
        PromotionEvidence(0.005, document)
