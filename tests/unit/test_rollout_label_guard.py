"""LabelGuard: what one failure says about the arm that it came from, by hand; sign, stake, restart."""

from __future__ import annotations

import json
import random

import pytest

from rollout.label_guard import ODDS, WEIGHTS, LabelGuard, bounded_exp, label_logs

LIMIT = 5000.0
"""Of the guard, in the shipped split of the risk."""


def _guard_after(*events: tuple[int, int], share: float = 0.01) -> LabelGuard:
    guard = LabelGuard(share)
    for canary, control in events:
        guard.observe(canary, control)
    return guard


def test_one_failure_of_the_canary_is_worth_its_likelihood_by_hand():
    guard = _guard_after((1, 0), share=0.5)

    # Half of the stake works; at a share of a half, odds of w make the canary's part w / (w / 2 + 1 / 2).
    paid = sum(weight * odds / (odds / 2 + 0.5) for weight, odds in zip(WEIGHTS, ODDS, strict=True))
    assert guard.evidence == pytest.approx(0.5 * paid + 0.5)


def test_one_failure_of_control_is_worth_its_likelihood_by_hand():
    guard = _guard_after((0, 1), share=0.5)

    paid = sum(weight / (odds / 2 + 0.5) for weight, odds in zip(WEIGHTS, ODDS, strict=True))
    assert guard.evidence == pytest.approx(0.5 * paid + 0.5)


def test_nothing_observed_says_nothing():
    guard = _guard_after((0, 0))

    assert guard.evidence == 1.0


def test_three_failures_of_a_one_percent_canary_trip_it_and_two_do_not():
    assert _guard_after((2, 0)).evidence < LIMIT <= _guard_after((3, 0)).evidence


def test_failures_in_one_arm_only_flip_the_sign_with_the_arm():
    broken, healthy = _guard_after((20, 0), share=0.5), _guard_after((0, 20), share=0.5)

    assert broken.evidence > LIMIT
    assert healthy.evidence < 1


def test_failures_in_both_arms_by_their_share_never_trip_it():
    random_ = random.Random(7)
    guard = LabelGuard(0.5)
    highest = 0.0

    for _ in range(2000):
        canary = random_.random() < 0.5
        guard.observe(int(canary), int(not canary))
        highest = max(highest, guard.evidence)

    assert highest < LIMIT


def test_a_canary_that_breaks_after_a_day_of_health_trips_it_within_four_failures():
    guard = LabelGuard(0.01)
    for event in range(1, 173):
        guard.observe(0, 1)
        guard.advance(event / 172)
    before = guard.evidence

    guard.observe(4, 0)

    assert before < 1
    assert guard.evidence > LIMIT


def test_time_alone_moves_no_evidence():
    guard = LabelGuard(0.01)

    guard.advance(3.0)

    assert guard.evidence == pytest.approx(1.0)


def test_a_flood_of_failures_overflows_nothing():
    guard = _guard_after((10**9, 0), (0, 10**9), (10**9, 10**9), (0, 10))

    assert 0 <= guard.evidence <= 1e281


def test_it_goes_on_from_its_document():
    guard = _guard_after((1, 7), (0, 3))
    guard.advance(0.4)

    again = LabelGuard(0.01, json.loads(json.dumps(guard.document())))

    assert again.evidence == guard.evidence
    assert again.document() == guard.document()


def test_a_document_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="no evidence of 4 alternatives"):
        LabelGuard(0.01, {"laid": 0.5, "wealth": [0.5]})


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_without_two_arms_is_refused(share):
    with pytest.raises(ValueError, match="share_ratio must be above 0 and below 1"):
        LabelGuard(share)


def test_odds_of_one_pay_nothing():
    assert label_logs(1.0, share_ratio=0.3) == (0.0, 0.0)


def test_powers_past_every_float_are_bounded():
    assert bounded_exp(1e9) == bounded_exp(600.0) < float("inf")
    assert bounded_exp(-1e9) == 0.0
