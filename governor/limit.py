"""
The in-flight limit: inter-token time -> PID -> limit.

Theory of operation. The engine's inter-token time grows with the number of streams it decodes at
once, so the limit that meets an objective for that time is found by integral control on logarithms:
the loop's gain is then the same for a fast and a slow engine. The gap y and the batch B are measured
over the same window, and z = ln y + eta ln(L / B) predicts the gap at the limit L, so that a limit
that does not bind is not pushed away. Nothing is learnt when nothing binds (B below half the limit
and nobody waiting), from too few steps, or from telemetry that has gone stale: the limit holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from governor.bounds import require_bounds
from governor.pid import Pid, PidParams

_SLOTS = 8
_SHORTEST_GAP_S = 0.0002
"""A shorter gap between two engine steps is a fault of the clock or a burst of late reports."""
_WINSOR = 12.0
"""A gap counts as at most this many running medians: one stall is no trend."""
_MEDIAN_STEP = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitParams:
    """How the limit is found, and between which bounds."""

    min: int = 4
    """Lowest limit, in requests."""
    max: int = 128
    """Highest limit, in requests."""
    initial: int = 32
    """Limit before anything was measured."""
    tpot_objective_s: float = 0.05
    """Wanted inter-token time."""
    setpoint_ratio: float = 0.9
    """Share of the objective that is aimed at, so that noise stays inside it."""
    elasticity: float = 0.8
    """d ln(gap) / d ln(batch) of the engine; 0.5 to 1.25 behave alike."""
    window_s: float = 2.0
    """Span over which gap and batch are measured."""
    period_s: float = 0.5
    """Time between two moves."""
    min_steps: int = 5
    """Fewer engine steps than this in the window: hold, unless they fill half of it."""
    stale_after_s: float = 5.0
    """No engine step for this long with requests in flight: hold."""
    pid: PidParams = field(default_factory=PidParams)
    """Gains and clamps, on ln(limit)."""

    def __post_init__(self) -> None:
        require_bounds(
            self,
            min=(1, 65_536),
            max=(self.min, 65_536),
            initial=(self.min, self.max),
            tpot_objective_s=(0.001, 60),
            setpoint_ratio=(0.1, 1),
            elasticity=(0.1, 2),
            period_s=(0.05, 60),
            window_s=(self.period_s, 600),
            min_steps=(1, 1000),
            stale_after_s=(self.period_s, 600),
        )


class Governing(StrEnum):
    """What the limit does about what it sees."""

    ACTIVE = "active"
    """Moving by the controller."""
    IDLE = "idle"
    """Holding: the limit does not bind."""
    FEW_STEPS = "few_steps"
    """Holding: too little was measured."""
    STALE = "stale"
    """Holding: requests are in flight and no step was reported."""


class Cause(StrEnum):
    """Why the limit moved."""

    SLOW = "slow"
    """The inter-token time at the limit is above the set-point."""
    FAST = "fast"
    """It is below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged:
    """The limit took another whole number."""

    previous: int
    """Limit before."""
    limit: int
    """Limit from now on."""
    reason: Cause
    """Why."""


class Limit:
    """How many requests may be in flight."""

    def __init__(self, params: LimitParams, *, now_s: float) -> None:
        self._log_limit = math.log(params.initial)
        self._in_flight = 0
        self._queued = 0
        self._median_s = 0.0
        self._stepped_s = now_s
        self._advanced_s = now_s
        self._state = Governing.IDLE
        self.reconfigure(params)

    def reconfigure(self, params: LimitParams) -> None:
        """Go on from the limit in force, brought within the new bounds; what was measured is forgotten."""
        self._params = params
        self._pid = Pid(params.pid)
        self._window = _StepWindow(slot_s=params.window_s / _SLOTS)
        self._log_setpoint = math.log(params.setpoint_ratio * params.tpot_objective_s)
        self.force(self.value)

    @property
    def value(self) -> int:
        """The limit, in requests."""
        return round(math.exp(self._log_limit))

    @property
    def state(self) -> Governing:
        """Whether the last `advance` moved the limit, or why it held."""
        return self._state

    @property
    def deadline_s(self) -> float:
        """When the next move is due."""
        return self._advanced_s + self._params.period_s

    def observe_step(self, *, gap_s: float, streams: int, now_s: float) -> None:
        """
        Note one decode step of the engine.

        Args:
            gap_s: Time since the previous step, on a monotonic clock.
            streams: How many streams got a token in it.
            now_s: When it ended.
        """
        if not (_SHORTEST_GAP_S <= gap_s < math.inf and streams >= 1):
            return
        # Running median by signed steps of 5 % (the "frugal" estimate, in logarithms): no memory,
        # and one outlier moves it no further than any other value.
        if self._median_s == 0.0:
            self._median_s = gap_s
        elif gap_s > self._median_s:
            self._median_s *= _MEDIAN_STEP
        else:
            self._median_s /= _MEDIAN_STEP
        self._stepped_s = now_s
        self._window.add(gap_s=min(gap_s, _WINSOR * self._median_s), streams=streams, now_s=now_s)

    def observe_load(self, *, in_flight: int, queued: int) -> None:
        """Note how many requests hold a ticket and how many wait for one."""
        self._in_flight = in_flight
        self._queued = queued

    def force(self, limit: int) -> None:
        """Stand at this limit, within the bounds: governing goes on from it without a bump."""
        self._log_limit = math.log(min(max(limit, self._params.min), self._params.max))
        self._pid.forget()

    def advance(self, *, now_s: float) -> list[LimitChanged]:
        """Move the limit if a move is due and there is something to learn from."""
        if now_s < self.deadline_s:
            return []
        elapsed_s = now_s - self._advanced_s
        self._advanced_s = now_s
        seen = self._window.read(now_s=now_s)
        self._state = self._judge(seen, now_s=now_s)
        if self._state is not Governing.ACTIVE:
            return []
        return self._move(seen, elapsed_s=elapsed_s)

    def _judge(self, seen: _Sums, *, now_s: float) -> Governing:
        if self._in_flight == 0:
            return Governing.IDLE
        if now_s - self._stepped_s > self._params.stale_after_s:
            return Governing.STALE
        # Few steps that fill the window are a slow engine, the very thing to act on.
        if seen.steps < self._params.min_steps and seen.span_s < self._params.window_s / 2:
            return Governing.FEW_STEPS
        if self._queued == 0 and seen.batch < self.value / 2:
            return Governing.IDLE
        return Governing.ACTIVE

    def _move(self, seen: _Sums, *, elapsed_s: float) -> list[LimitChanged]:
        params, previous = self._params, self.value
        predicted = math.log(seen.gap_s) + params.elasticity * (self._log_limit - math.log(seen.batch))
        error = min(max(self._log_setpoint - predicted, -1.0), 1.0)
        moved = self._log_limit + self._pid.step(error=error, measurement=predicted, dt_s=elapsed_s)
        self._log_limit = min(max(moved, math.log(params.min)), math.log(params.max))
        if self.value == previous:
            return []
        cause = Cause.SLOW if self.value < previous else Cause.FAST
        return [LimitChanged(previous=previous, limit=self.value, reason=cause)]


class _Sums:
    """Sums over engine steps; `index` says which slot of time they belong to."""

    __slots__ = ("index", "span_s", "steps", "stream_s", "streams")

    def __init__(self, index: int) -> None:
        self.index = index
        self.steps = 0
        self.span_s = 0.0
        self.streams = 0
        self.stream_s = 0.0

    @property
    def gap_s(self) -> float:
        """Inter-token time, weighted by tokens."""
        return self.stream_s / self.streams

    @property
    def batch(self) -> float:
        """Streams decoding, averaged over time."""
        return self.stream_s / self.span_s


class _StepWindow:
    """Sums of the last slots of time: a step costs O(1), a read O(slots), and nothing drifts."""

    def __init__(self, *, slot_s: float) -> None:
        self._slot_s = slot_s
        self._slots = [_Sums(-1) for _ in range(_SLOTS)]

    def add(self, *, gap_s: float, streams: int, now_s: float) -> None:
        index = int(now_s // self._slot_s)
        slot = self._slots[index % _SLOTS]
        if slot.index != index:
            slot = self._slots[index % _SLOTS] = _Sums(index)
        slot.steps += 1
        slot.span_s += gap_s
        slot.streams += streams
        slot.stream_s += gap_s * streams

    def read(self, *, now_s: float) -> _Sums:
        newest = int(now_s // self._slot_s)
        total = _Sums(newest)
        for slot in self._slots:
            if newest - _SLOTS < slot.index <= newest:
                total.steps += slot.steps
                total.span_s += slot.span_s
                total.streams += slot.streams
                total.stream_s += slot.stream_s
        return total
