"""The keys of runtime.yaml that become parameters of the cores: governor, qos and phase4_rollout."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from governor.admission import AdmissionParams
from governor.limit import LimitParams
from governor.pid import PidParams
from qos.objective import Objective, Signal
from qos.policy import MonitorParams
from rollout.spec import DEFAULT_STAGES, Feature, Key, Mode, Spec, SpecError, Stage
from wicketgate.config_fields import Name, Percent, Ratio, Seconds, Section, contradiction, require_order

if TYPE_CHECKING:
    from pydantic_core import PydanticCustomError

SAMPLE_RATE = "an integer N, one sample in N"


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


class FeatureSection(Section):
    """One feature."""

    enabled: bool
    """False: as if the feature did not exist."""
    rollout_percentage: Percent = 100.0
    """The share that gets the feature (mode direct), or its ceiling (mode staged); three decimals."""
    mode: Literal["direct", "staged"] = "direct"
    """Where the share comes from: this file, or `wicketgate rollout start` and its stages."""
    key: str
    """What a share is a share of."""
    requires: tuple[str, ...] = ()
    """Features that must be on for the same key."""

    def settings(self) -> dict[str, object]:
        """Return the feature's own settings."""
        return {}


class RequestFeatureSection(FeatureSection):
    """A feature that is decided for a request."""

    key: Literal["session", "user", "client", "request"] = "session"
    """What a share is a share of."""


class ConnectionFeatureSection(FeatureSection):
    """A feature that is decided for a connection."""

    key: Literal["connection"] = "connection"
    """What a share is a share of."""


class MonitoringFeatureSection(RequestFeatureSection):
    """The feature that takes samples."""

    sample_rate: Annotated[int, Field(ge=1, le=1_000_000, title=SAMPLE_RATE)] = 1
    """One decode step in this many feeds the objectives on gaps, with its weight: 10 is 10 %, 1 is all."""

    def settings(self) -> dict[str, object]:
        """Return the feature's own settings."""
        return {"sample_rate": self.sample_rate}


class StageEntry(Section):
    """One step of a staged rollout."""

    name: Name
    """Its name, for `rollout start --at`."""
    percentage: Percent
    """The share while the stage runs; three decimals."""
    hold_s: Annotated[Seconds, Field(ge=0, le=366 * 86_400)] | None = None
    """How long it must be watched before the next one; null for the last."""


_STAGES = tuple(StageEntry(name=s.name, percentage=s.percentage, hold_s=s.hold_s) for s in DEFAULT_STAGES)


class RolloutSection(Section):
    """Who gets each feature. Without this section all four are on at 100 %; with it, one not named is off."""

    kill_switch: bool = False
    """True puts every feature off at once."""
    stages: tuple[StageEntry, ...] = _STAGES
    """The steps of a staged rollout, upward."""
    adaptive_governor: RequestFeatureSection = RequestFeatureSection(enabled=False)
    """Limit in flight by the governor instead of governor.limit.fixed."""
    http2_transport: ConnectionFeatureSection = ConnectionFeatureSection(enabled=False)
    """Offer HTTP/2; a share of connections."""
    ttft_pipeline: RequestFeatureSection = RequestFeatureSection(enabled=False)
    """Prepare requests while they wait."""
    qos_monitoring: MonitoringFeatureSection = MonitoringFeatureSection(enabled=False)
    """Feed objectives and evidence."""

    _spec: Spec = PrivateAttr()

    @property
    def spec(self) -> Spec:
        """What `rollout` takes."""
        return self._spec

    @model_validator(mode="after")
    def _build(self) -> Self:
        try:
            self._spec = Spec(
                features=MappingProxyType({name: _feature(name, getattr(self, name)) for name in FEATURES}),
                stages=tuple(Stage(**dict(entry)) for entry in self.stages),
                kill_switch=self.kill_switch,
            )
        except SpecError as error:
            raise _refused(error, self) from error
        return self


def _feature(name: str, section: FeatureSection) -> Feature:
    return Feature(
        name=name,
        enabled=section.enabled,
        rollout_percentage=section.rollout_percentage,
        mode=Mode(section.mode),
        key=Key(section.key),
        requires=section.requires,
        settings=MappingProxyType(section.settings()),
    )


def _refused(error: SpecError, section: RolloutSection) -> PydanticCustomError:
    """Point at the entry of `requires` that is meant, not at the whole list."""
    path = error.path
    feature, _, key = path.partition(".")
    if key == "requires" and error.value in (names := getattr(section, feature).requires):
        path += f".{names.index(error.value)}"
    _, hinted, suggestion = error.message.partition(" Did you mean ")
    fix = f"write {suggestion.removesuffix('?')}" if hinted else "change one of them"
    return contradiction(path, error.message, fix)


FEATURES = ("adaptive_governor", "http2_transport", "ttft_pipeline", "qos_monitoring")
"""The features that this runtime gates."""

EVERYTHING_ON = RolloutSection(
    adaptive_governor=RequestFeatureSection(enabled=True),
    http2_transport=ConnectionFeatureSection(enabled=True),
    ttft_pipeline=RequestFeatureSection(enabled=True),
    qos_monitoring=MonitoringFeatureSection(enabled=True),
)
"""In force without a file, or with one that has no phase4_rollout."""
