"""Pins whose failures a canary's are said to be, and which failures count at all."""

from __future__ import annotations

import pytest

from rollout.attribution import attribute
from rollout.failure_cap import FailureCap
from rollout.guards import Arm, Attribution
from rollout.key_sample import KeySample

NOTHING = {
    "relative": 1.0,
    "control": 1.0,
    "control_upper_ratio": 1.0,
    "limit_ratio": 0.001,
    "engine_died": False,
}


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, Attribution.UNKNOWN),
        ({"relative": 20.0}, Attribution.CANARY),
        ({"relative": 19.0}, Attribution.UNKNOWN),
        ({"control_upper_ratio": 0.0009}, Attribution.CANARY),
        ({"control_upper_ratio": 0.001}, Attribution.UNKNOWN),
        ({"control": 20.0}, Attribution.SHARED),
        ({"engine_died": True}, Attribution.INFRASTRUCTURE),
        ({"engine_died": True, "relative": 20.0}, Attribution.CANARY),
        ({"engine_died": True, "control": 20.0}, Attribution.INFRASTRUCTURE),
        ({"relative": 20.0, "control": 20.0}, Attribution.CANARY),
    ],
)
def test_failures_are_attributed_by_what_speaks_loudest(known, expected):
    assert attribute(**NOTHING | known) is expected


def test_a_control_that_was_healthy_for_days_and_fails_now_is_no_reason_to_blame_the_canary():
    known = {"control_upper_ratio": 0.0002, "control": 5.0}

    assert attribute(**NOTHING | known) is Attribution.UNKNOWN


def test_only_the_first_failures_of_a_key_count():
    cap = FailureCap(2)

    assert [cap.counts(7) for _ in range(4)] == [True, True, False, False]
    assert cap.counts(8)


def test_of_many_keys_the_one_that_failed_longest_ago_is_forgotten_first():
    cap = FailureCap(1)
    cap.counts(1)
    cap.counts(2)
    cap.counts(1)
    for key in range(10, 10 + 4095):
        cap.counts(key)

    assert (cap.counts(1), cap.counts(2)) == (False, True)


def test_a_key_is_counted_once_however_often_it_comes():
    sample = KeySample()
    for key in (1, 2, 1, 1, 2):
        sample.saw(Arm.CONTROL, key)
    sample.saw(Arm.CANARY, 3)

    assert sample.take() == (1, 2)
    assert sample.take() == (0, 0)


def test_more_keys_than_fit_are_sampled_without_regard_to_their_arm():
    sample = KeySample()
    for number in range(40_000):
        key = number * 7919 % 40_000  # as if the key were the bucket: the lowest tenth is the canary
        sample.saw(Arm.CANARY if key < 4_000 else Arm.CONTROL, key)

    canary, control = sample.take()

    assert 8192 < canary + control < 30_000
    assert canary / (canary + control) == pytest.approx(0.1, abs=0.01)


def test_a_key_that_left_the_sample_never_comes_back():
    sample = KeySample()
    for key in range(20_000):
        sample.saw(Arm.CONTROL, key)
    sample.take()

    for key in range(20_000):
        sample.saw(Arm.CONTROL, key)

    assert sample.take() == (0, 0)
