"""The keys of runtime.yaml that become parameters of the cores governor and qos."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from governor.admission import AdmissionParams
from governor.limit import LimitParams
from governor.pid import PidParams
from qos.objective import Objective, Signal
from qos.policy import MonitorParams
from wicketgate.config_fields import Name, Ratio, Seconds, Section, contradiction, require_order


class LimitSection(Section):
    """How many requests may be in flight."""

    fixed: Annotated[int, Field(ge=1, le=65_536)] = 96
    """Limit of requests that are not on the feature adaptive_governor."""
    min: Annotated[int, Field(ge=1, le=65_536)] = 4
    """Lowest governed limit."""
    max: Annotated[int, Field(ge=1, le=65_536)] = 128
    """Highest governed limit."""
    initial: Annotated[int, Field(ge=1, le=65_536)] = 96
    """Governed limit before anything was measured."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_order(self, "min", "max")
        require_order(self, "min", "initial", blame="initial")
        require_order(self, "initial", "max")
        return self


class PidSection(Section):
    """Gains and clamps of the controller, on the logarithm of the limit."""

    kp: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Proportional gain."""
    ki_per_s: Annotated[float, Field(ge=0, le=10)] = 0.3
    """Integral gain, per second."""
    kd_s: Annotated[Seconds, Field(ge=0, le=10)] = 0.0
    """Derivative gain, in seconds."""
    derivative_filter_s: Annotated[Seconds, Field(ge=0.01, le=60)] = 2.0
    """Time constant of the low-pass before the derivative."""
    deadband_log: Annotated[float, Field(ge=0, le=1)] = 0.03
    """The integral part rests while the error is within plus or minus this."""
    max_step_up_log: Annotated[float, Field(ge=0.01, le=2)] = 0.25
    """Largest rise in one move."""
    max_step_down_log: Annotated[float, Field(ge=0.01, le=2)] = 0.5
    """Largest fall in one move."""


class QueueSection(Section):
    """Waiting for a ticket."""

    max_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 256
    """Requests that may wait; the next one is refused with 429."""
    max_wait_s: Annotated[Seconds, Field(ge=0.1, le=3600)] = 30.0
    """Longest wait, predicted at the door and enforced in the queue."""
    retry_after_max_s: Annotated[Seconds, Field(ge=1, le=3600)] = 30.0
    """Longest advice in Retry-After."""


class GovernorSection(Section):
    """How much may be in flight."""

    limit: LimitSection = LimitSection()
    """How many requests may be in flight."""
    tpot_objective_s: Annotated[Seconds, Field(ge=0.001, le=60)] = 0.05
    """Wanted time between two tokens of a stream; the limit is the highest that keeps it."""
    setpoint_ratio: Annotated[Ratio, Field(ge=0.1)] = 0.9
    """Share of the objective that is aimed at, so that noise stays inside it."""
    elasticity: Annotated[float, Field(ge=0.1, le=2)] = 0.8
    """How the logarithm of the gap grows with the logarithm of the batch."""
    window_s: Annotated[Seconds, Field(ge=0.05, le=600)] = 2.0
    """Span over which gap and batch are measured."""
    period_s: Annotated[Seconds, Field(ge=0.05, le=60)] = 0.5
    """Time between two moves of the limit."""
    min_steps: Annotated[int, Field(ge=1, le=1000)] = 5
    """With fewer engine steps in the window the limit holds."""
    stale_after_s: Annotated[Seconds, Field(ge=0.05, le=600)] = 5.0
    """Without an engine step for this long the limit holds."""
    pid: PidSection = PidSection()
    """Gains and clamps of the controller."""
    queue: QueueSection = QueueSection()
    """Waiting for a ticket."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_order(self, "period_s", "window_s", blame="window_s")
        require_order(self, "period_s", "stale_after_s", blame="stale_after_s")
        return self

    def limit_params(self) -> LimitParams:
        """Return what `governor.limit.Limit` takes."""
        return LimitParams(
            min=self.limit.min,
            max=self.limit.max,
            initial=self.limit.initial,
            tpot_objective_s=self.tpot_objective_s,
            setpoint_ratio=self.setpoint_ratio,
            elasticity=self.elasticity,
            window_s=self.window_s,
            period_s=self.period_s,
            min_steps=self.min_steps,
            stale_after_s=self.stale_after_s,
            pid=PidParams(**dict(self.pid)),
        )

    def admission_params(self) -> AdmissionParams:
        """Return what `governor.admission.Admission` takes."""
        return AdmissionParams(
            fixed_limit=self.limit.fixed,
            max_queued=self.queue.max_requests,
            max_wait_s=self.queue.max_wait_s,
            retry_after_max_s=self.queue.retry_after_max_s,
        )


class ObjectiveEntry(Section):
    """One promise."""

    name: Name
    """Its name, in metrics and alerts."""
    signal: Literal["ttft", "itl", "error"]
    """What is judged: time to first token, gap between two tokens, or failure."""
    target_ratio: Annotated[Ratio, Field(ge=0.5, le=0.99999)]
    """Share of events that must be good."""
    threshold_s: Annotated[Seconds, Field(gt=0, le=3600)] | None = None
    """A time up to this is good; for ttft and itl only."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.threshold_s is None) != (self.signal == "error"):
            if self.threshold_s is None:
                raise contradiction(
                    "signal", f"is {self.signal}, which needs a threshold_s", "add threshold_s"
                )
            raise contradiction("threshold_s", "is set, and a failure takes no time", "remove threshold_s")
        return self


class QosSection(Section):
    """What was promised, and is it kept."""

    window_s: Annotated[Seconds, Field(ge=15, le=1000)] = 60.0
    """Span over which objectives are judged."""
    objectives: tuple[ObjectiveEntry, ...] = (
        ObjectiveEntry(name="ttft-p95", signal="ttft", target_ratio=0.95, threshold_s=0.55),
        ObjectiveEntry(name="itl-p95", signal="itl", target_ratio=0.95, threshold_s=0.05),
        ObjectiveEntry(name="errors", signal="error", target_ratio=0.999),
    )
    """The promises."""
    warn_nats: Annotated[float, Field(ge=0.1, le=1000)] = 9.2
    """Evidence against a promise at which it is at risk; 9.2 is one chance in 10 000."""
    act_nats: Annotated[float, Field(ge=0.1, le=1000)] = 13.8
    """Evidence at which it is violated; 13.8 is one chance in 1 000 000."""
    recover_after_s: Annotated[Seconds, Field(ge=0, le=86_400)] = 120.0
    """A violation ends after this long without evidence."""
    min_events: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """With fewer events in the window nothing is judged."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_order(self, "warn_nats", "act_nats")
        names = [objective.name for objective in self.objectives]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise contradiction(
                    f"objectives.{index}.name", f"is {name}, which is taken", "choose another name"
                )
        return self

    def params(self) -> MonitorParams:
        """Return what `qos.policy.Monitor` takes."""
        return MonitorParams(
            objectives=tuple(
                Objective(
                    name=entry.name,
                    signal=Signal(entry.signal),
                    target_ratio=entry.target_ratio,
                    threshold_s=entry.threshold_s,
                    min_events=self.min_events,
                )
                for entry in self.objectives
            ),
            window_s=self.window_s,
            warn_nats=self.warn_nats,
            act_nats=self.act_nats,
            recover_after_s=self.recover_after_s,
        )
