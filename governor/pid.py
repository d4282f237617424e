"""
A discrete PID controller in velocity form: it returns the change of its output, not the output.

Theory of operation. The caller owns the output u and adds each step's du to it, so there is no
integral beside u that could wind up while u is clamped, and changing a gain or taking over at any
u causes no bump. The proportional part acts on the change of the error, the integral part on the
error itself, the derivative part on the change of the slope of the filtered measurement. That slope
is (z - zf) / (Td + dt), which needs no division by dt: a step of no length changes nothing, and a
very short one cannot explode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from governor.bounds import require_bounds

# Errors are logarithms and steps last seconds: larger figures are faults of the telemetry. Clamping
# them here keeps every sum below finite, whatever comes in.
_LARGEST_INPUT = 1e6
_LONGEST_STEP_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PidParams:
    """
    Gains and clamps; the defaults are integral only.

    Source: IMC tuning of a static plant behind a dead time of about 1.4 s, ki = 1 / (eta (lambda + theta)).
    """

    kp: float = 0.0
    """Proportional gain, output per error."""
    ki_per_s: float = 0.3
    """Integral gain, output per error and second."""
    kd_s: float = 0.0
    """Derivative gain, output per (measurement per second)."""
    derivative_filter_s: float = 2.0
    """Time constant of the low-pass on the measurement, for the derivative only."""
    deadband_log: float = 0.03
    """The integral part rests while the error is within plus or minus this."""
    max_step_up_log: float = 0.25
    """Largest rise of the output in one step."""
    max_step_down_log: float = 0.5
    """Largest fall of the output in one step; lowering may be faster than raising."""

    def __post_init__(self) -> None:
        require_bounds(
            self,
            kp=(0, 10),
            ki_per_s=(0, 10),
            kd_s=(0, 10),
            derivative_filter_s=(0.01, 60),
            deadband_log=(0, 1),
            max_step_up_log=(0.01, 2),
            max_step_down_log=(0.01, 2),
        )


class Pid:
    """The controller's memory: the last error, the filtered measurement and its slope."""

    def __init__(self, params: PidParams) -> None:
        self._params = params
        self._last_error: float | None = None
        self._filtered = 0.0
        self._slope_per_s = 0.0

    def forget(self) -> None:
        """Drop the past: somebody else moved the output, so the next step compares with nothing."""
        self._last_error = None

    def step(self, *, error: float, measurement: float, dt_s: float) -> float:
        """
        Advance by one measurement.

        Args:
            error: Wanted minus measured.
            measurement: What the derivative part looks at.
            dt_s: Seconds since the previous step. Zero, negative or not finite: nothing changes.

        Returns:
            The change of the output, between -max_step_down_log and max_step_up_log.
        """
        if not (0.0 < dt_s < math.inf and math.isfinite(error) and math.isfinite(measurement)):
            return 0.0
        params = self._params
        dt_s = min(dt_s, _LONGEST_STEP_S)
        error = _clamp(error, -_LARGEST_INPUT, _LARGEST_INPUT)
        measurement = _clamp(measurement, -_LARGEST_INPUT, _LARGEST_INPUT)
        if self._last_error is None:
            self._last_error, self._filtered, self._slope_per_s = error, measurement, 0.0

        slope_per_s = (measurement - self._filtered) / (params.derivative_filter_s + dt_s)
        proportional = params.kp * (error - self._last_error)
        integral = params.ki_per_s * dt_s * error if abs(error) > params.deadband_log else 0.0
        derivative = -params.kd_s * (slope_per_s - self._slope_per_s)

        self._last_error = error
        self._filtered += slope_per_s * dt_s
        self._slope_per_s = slope_per_s
        return _clamp(proportional + integral + derivative, -params.max_step_down_log, params.max_step_up_log)


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
