"""Invariants of the bets on arms: fair under the null, deaf to order, still without data, and signed."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.guards import Arm
from rollout.label_guard import LabelGuard, label_logs
from rollout.ladder import WARM_UP, Direction, Ladder, LadderTest
from rollout.share_test import ShareTest

shares = st.floats(0.001, 0.999)
counts = st.integers(0, 8)
times_s = st.floats(1e-4, 1e4)
values = st.lists(st.tuples(st.sampled_from(Arm), times_s), max_size=40)
TESTS = (
    LadderTest(name="pause", tolerance_ratio=0.05),
    LadderTest(name="roll back", tolerance_ratio=0.5),
    LadderTest(name="faster", tolerance_ratio=0.3, direction=Direction.FASTER),
)
WARM = [math.exp(0.7 * random.Random(seed).gauss(0, 1)) for seed in range(WARM_UP)]


def _ladder(share: float, tests: tuple[LadderTest, ...] = TESTS) -> Ladder:
    ladder = Ladder(share, tests)
    for value in WARM:
        ladder.observe(Arm.CONTROL, value)
    ladder.fold(0.0)
    return ladder


def _folded(share: float, seen: list[tuple[Arm, float]], tests: tuple[LadderTest, ...] = TESTS) -> Ladder:
    ladder = _ladder(share, tests)
    for arm, value in seen:
        ladder.observe(arm, value)
    ladder.fold(0.0)
    return ladder


def _evidence_of(test: LadderTest, share: float, arm: Arm, value: float) -> float:
    return _folded(share, [(arm, value)], (test,)).evidence(test.name)


@given(share=shares, odds=st.floats(1.0, 1e6), part=st.floats(0, 1))
def test_a_bet_on_an_arm_is_fair_or_worse_while_the_canary_has_at_most_its_share(share, odds, part):
    canary, control = label_logs(odds, share_ratio=share)
    probability = part * share

    expected = probability * math.exp(canary) + (1 - probability) * math.exp(control)

    assert expected <= 1 + 1e-9


@given(share=shares, part=st.floats(0, 1), before=st.lists(st.tuples(counts, counts), max_size=5))
def test_no_event_is_expected_to_raise_the_label_guards_evidence_under_the_null(share, part, before):
    def after(*last: tuple[int, int]) -> float:
        guard = LabelGuard(share)
        for step, (canary, control) in enumerate([*before, *last]):
            guard.advance(step / 3)
            guard.observe(canary, control)
        return guard.evidence

    probability = part * share
    expected = probability * after((1, 0)) + (1 - probability) * after((0, 1))

    assert expected <= after((0, 0)) * (1 + 1e-9)


@given(share=shares, canary=st.integers(0, 500), control=st.integers(0, 500))
def test_no_key_is_expected_to_move_the_share_tests_evidence_under_the_null(share, canary, control):
    def after(*more: int) -> float:
        test = ShareTest(share)
        test.observe(canary + more[0], control + more[1])
        return test.evidence

    expected = share * after(1, 0) + (1 - share) * after(0, 1)

    assert expected == pytest.approx(after(0, 0), rel=1e-6)


@given(share=shares, probabilities=st.lists(st.floats(0.001, 1), min_size=13, max_size=13))
@settings(max_examples=40)
def test_no_value_is_expected_to_raise_a_ladders_evidence_wherever_the_rungs_stand(share, probabilities):
    """Control falls in the bins by any distribution; the canary, exactly as slow as allowed, by the same."""
    test = TESTS[0]
    edges = [math.exp(each) for each in _ladder(share).document()["rungs"]["logs"]]
    middles = [edges[0] / 2, *((low + high) / 2 for low, high in pairwise(edges)), edges[-1] * 2]
    total = sum(probabilities)

    expected = sum(
        weight
        / total
        * (
            share * _evidence_of(test, share, Arm.CANARY, 1.05 * middle)
            + (1 - share) * _evidence_of(test, share, Arm.CONTROL, middle)
        )
        for weight, middle in zip(probabilities, middles, strict=True)
    )

    assert expected <= 1 + 1e-9


@given(share=shares, low_s=times_s, high_s=times_s)
def test_a_slower_canary_never_lowers_the_evidence_that_it_is_slower(share, low_s, high_s):
    low_s, high_s = sorted((low_s, high_s))
    slower, faster = TESTS[0], TESTS[2]

    assert _evidence_of(slower, share, Arm.CANARY, low_s) <= _evidence_of(slower, share, Arm.CANARY, high_s)
    assert _evidence_of(faster, share, Arm.CANARY, low_s) >= _evidence_of(faster, share, Arm.CANARY, high_s)


@given(share=shares, low_s=times_s, high_s=times_s)
def test_a_slower_control_never_raises_the_evidence_that_the_canary_is_slower(share, low_s, high_s):
    low_s, high_s = sorted((low_s, high_s))
    slower, faster = TESTS[0], TESTS[2]

    assert _evidence_of(slower, share, Arm.CONTROL, low_s) >= _evidence_of(slower, share, Arm.CONTROL, high_s)
    assert _evidence_of(faster, share, Arm.CONTROL, low_s) <= _evidence_of(faster, share, Arm.CONTROL, high_s)


@given(share=shares, seen=values, order=st.randoms(use_true_random=False))
def test_the_order_within_a_tick_does_not_matter_to_a_ladder(share, seen, order):
    other = list(seen)
    order.shuffle(other)

    assert _folded(share, seen).document() == _folded(share, other).document()


@given(share=shares, batches=st.lists(st.tuples(counts, counts), max_size=8))
def test_batches_and_order_do_not_matter_to_the_label_guard(share, batches):
    single, whole = LabelGuard(share), LabelGuard(share)

    for canary, control in reversed(batches):
        for _ in range(canary):
            single.observe(1, 0)
        for _ in range(control):
            single.observe(0, 1)
    whole.observe(sum(canary for canary, _ in batches), sum(control for _, control in batches))

    assert single.evidence == pytest.approx(whole.evidence, rel=1e-9)


@given(share=shares, batches=st.lists(st.tuples(counts, counts), max_size=8))
def test_batches_and_order_do_not_matter_to_the_share_test(share, batches):
    forward, backward = ShareTest(share), ShareTest(share)

    for canary, control in batches:
        forward.observe(canary, control)
    for canary, control in reversed(batches):
        backward.observe(canary, control)

    assert forward.evidence == backward.evidence


@given(share=shares, clock=st.lists(st.floats(0, 1e6), max_size=10))
def test_without_data_no_clock_moves_any_evidence(share, clock):
    guard, ladder = LabelGuard(share), _ladder(share)

    for progress in clock:
        guard.advance(progress)
        ladder.fold(progress)

    assert guard.evidence == pytest.approx(1.0)
    assert [ladder.evidence(test.name) for test in TESTS] == pytest.approx([1.0] * 3)


@given(share=shares, failures=st.integers(1, 200))
def test_failures_of_one_arm_only_point_at_that_arm(share, failures):
    canary, control = LabelGuard(share), LabelGuard(share)

    canary.observe(failures, 0)
    control.observe(0, failures)

    assert control.evidence < 1 < canary.evidence
