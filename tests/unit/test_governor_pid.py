"""Pins the PID in velocity form: a case worked by hand, the clamps, and steps of no length."""

from __future__ import annotations

import math

import pytest

from governor.bounds import OutOfBoundsError
from governor.pid import Pid, PidParams

HAND = PidParams(
    kp=1.0,
    ki_per_s=0.5,
    kd_s=2.0,
    derivative_filter_s=1.0,
    deadband_log=0.0,
    max_step_up_log=2.0,
    max_step_down_log=2.0,
)


def test_three_steps_agree_with_the_ones_worked_by_hand():
    pid = Pid(HAND)

    # Step 1: nothing to compare with, so only the integral: 0.5 * 1 * 0.1.
    assert pid.step(error=0.1, measurement=1.0, dt_s=1.0) == pytest.approx(0.05)
    # Step 2: P 1 * 0.1; I 0.5 * 0.2; slope (0.9 - 1.0) / (1 + 1) = -0.05, D -2 * -0.05.
    assert pid.step(error=0.2, measurement=0.9, dt_s=1.0) == pytest.approx(0.1 + 0.1 + 0.1)
    # Step 3: P 0; I 0.1; the filter stands at 0.95, slope -0.025, D -2 * (-0.025 + 0.05).
    assert pid.step(error=0.2, measurement=0.9, dt_s=1.0) == pytest.approx(0.1 - 0.05)


def test_the_default_is_integral_only():
    pid = Pid(PidParams())

    assert pid.step(error=0.4, measurement=0.0, dt_s=0.5) == pytest.approx(0.3 * 0.5 * 0.4)
    assert pid.step(error=0.2, measurement=9.0, dt_s=0.5) == pytest.approx(0.3 * 0.5 * 0.2)


@pytest.mark.parametrize("error", [0.03, -0.03, 0.0])
def test_the_integral_rests_inside_the_dead_band(error):
    pid = Pid(PidParams())

    assert pid.step(error=error, measurement=0.0, dt_s=0.5) == 0.0


@pytest.mark.parametrize(("error", "expected"), [(50.0, 0.25), (-50.0, -0.5)])
def test_a_step_is_clamped_and_may_fall_further_than_it_may_rise(error, expected):
    pid = Pid(PidParams())

    assert pid.step(error=error, measurement=0.0, dt_s=0.5) == expected


@pytest.mark.parametrize(
    ("error", "measurement", "dt_s"),
    [(1.0, 1.0, 0.0), (1.0, 1.0, -1.0), (1.0, 1.0, math.inf), (math.nan, 1.0, 1.0), (1.0, math.inf, 1.0)],
)
def test_a_step_without_length_or_sense_changes_nothing(error, measurement, dt_s):
    pid, twin = Pid(HAND), Pid(HAND)
    for each in (pid, twin):
        each.step(error=0.1, measurement=1.0, dt_s=1.0)

    assert pid.step(error=error, measurement=measurement, dt_s=dt_s) == 0.0
    assert pid.step(error=0.2, measurement=0.9, dt_s=1.0) == twin.step(error=0.2, measurement=0.9, dt_s=1.0)


def test_two_steps_in_one_instant_do_not_explode():
    pid = Pid(HAND)
    pid.step(error=0.0, measurement=0.0, dt_s=1.0)

    assert abs(pid.step(error=-0.1, measurement=0.1, dt_s=1e-12)) < 0.4


def test_after_forgetting_the_next_step_has_neither_p_nor_d():
    pid = Pid(HAND)
    pid.step(error=0.1, measurement=1.0, dt_s=1.0)
    pid.step(error=0.2, measurement=0.5, dt_s=1.0)

    pid.forget()

    assert pid.step(error=-1.0, measurement=7.0, dt_s=1.0) == pytest.approx(-0.5)


@pytest.mark.parametrize("field", ["kp", "ki_per_s", "kd_s", "derivative_filter_s", "deadband_log"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_bad_gain_is_refused_with_its_name_value_and_bound(field, value):
    with pytest.raises(OutOfBoundsError, match=field) as caught:
        PidParams(**{field: value})

    assert caught.value.field == field
    assert caught.value.value == value or math.isnan(value)
    assert "must be between" in str(caught.value)
