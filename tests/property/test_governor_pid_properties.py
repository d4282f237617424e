"""Properties of the PID: bounded and finite for any input, and equal to the positional form."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governor.pid import Pid, PidParams

ANY = st.floats(allow_nan=True, allow_infinity=True)
STEPS = st.lists(st.tuples(ANY, ANY, ANY), max_size=20)
PARAMS = st.builds(
    PidParams,
    kp=st.floats(0, 10),
    ki_per_s=st.floats(0, 10),
    kd_s=st.floats(0, 10),
    derivative_filter_s=st.floats(0.01, 60),
    deadband_log=st.floats(0, 1),
    max_step_up_log=st.floats(0.01, 2),
    max_step_down_log=st.floats(0.01, 2),
)
SMALL_STEPS = st.lists(
    st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05), st.floats(0.01, 1.0)), min_size=1, max_size=30
)


@settings(deadline=None, derandomize=True)
@given(params=PARAMS, steps=STEPS)
def test_the_output_is_finite_and_within_the_clamps_for_any_floats(params, steps):
    pid = Pid(params)

    for error, measurement, dt_s in steps:
        du = pid.step(error=error, measurement=measurement, dt_s=dt_s)
        assert math.isfinite(du)
        assert -params.max_step_down_log <= du <= params.max_step_up_log


@settings(deadline=None, derandomize=True)
@given(steps=SMALL_STEPS)
def test_the_sum_of_the_steps_is_the_positional_controller(steps):
    params = PidParams(
        kp=0.7, ki_per_s=0.4, kd_s=0.3, deadband_log=0.0, max_step_up_log=2.0, max_step_down_log=2.0
    )
    pid = Pid(params)

    moved = sum(pid.step(error=error, measurement=z, dt_s=dt_s) for error, z, dt_s in steps)

    filtered, slope_per_s = steps[0][1], 0.0
    for _, z, dt_s in steps:
        following = filtered + dt_s / (params.derivative_filter_s + dt_s) * (z - filtered)
        slope_per_s, filtered = (following - filtered) / dt_s, following
    proportional = params.kp * (steps[-1][0] - steps[0][0])
    integral = params.ki_per_s * sum(error * dt_s for error, _, dt_s in steps)
    assert moved == pytest.approx(proportional + integral - params.kd_s * slope_per_s, abs=1e-9)
