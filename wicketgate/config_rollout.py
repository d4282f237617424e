"""The keys of runtime.yaml below phase4_rollout: features, stages, guards, a drill."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Literal, Self, get_args

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from rollout.guards import GuardParams, LatencyParams
from rollout.spec import DEFAULT_STAGES, Expectation, Feature, Key, Mode, Spec, SpecError, Stage, Trouble
from wicketgate.config_fields import (
    Name,
    Percent,
    Ratio,
    Seconds,
    Section,
    contradiction,
    require_order,
    to_percent,
)

if TYPE_CHECKING:
    from pydantic_core import PydanticCustomError

SAMPLE_RATE = "an integer N, one sample in N"
FeatureName = Literal["adaptive_governor", "http2_transport", "ttft_pipeline", "qos_monitoring"]
Excess = Annotated[float, BeforeValidator(to_percent), Field(ge=0, le=1000, title="a percentage")]


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
    expects: tuple[Literal["ttft", "throughput"], ...] = ("ttft", "throughput")
    """What it must improve where a stage asks for it; [] for a feature that is there for other things."""

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
    promote_below_percent: Annotated[Percent, Field(gt=0)] = 0.1
    """A failure rate of so much or more must be excluded before the next one."""
    faster_ttft: bool = False
    """The first token must come sooner than in control, if the feature `expects` ttft."""
    throughput_gain_percent: Excess = 0.0
    """Tokens must come so much faster than in control, if the feature `expects` throughput; 0: no matter."""
    quiet: tuple[Literal["violation", "resource", "incident"], ...] = ()
    """What may not have happened for `quiet_s`: objective violated, memory short, engine host dead."""
    quiet_s: Annotated[Seconds, Field(ge=0, le=366 * 86_400)] = 86_400.0
    """How long it must have been quiet."""

    def stage(self) -> Stage:
        """Return what `rollout` takes."""
        return Stage(**dict(self) | {"quiet": tuple(map(Trouble, self.quiet))})


_STAGES = tuple(
    StageEntry(**{name: getattr(stage, name) for name in StageEntry.model_fields} | {"quiet": stage.quiet})
    for stage in DEFAULT_STAGES
)


class LatencySection(Section):
    """How much slower than control a canary may be."""

    tolerance_percent: Excess = 5.0
    """Slower by more than this pauses the stage."""
    rollback_at_percent: Excess = 50.0
    """Slower by more than this rolls back."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_order(self, "tolerance_percent", "rollback_at_percent", blame="rollback_at_percent")
        return self

    def params(self) -> LatencyParams:
        """Return what `rollout` takes."""
        return LatencyParams(
            tolerance_ratio=self.tolerance_percent / 100, rollback_at_ratio=self.rollback_at_percent / 100
        )


class GuardSection(Section):
    """What rolls a feature back, or pauses it, by itself."""

    error_rate_percent: Annotated[Percent, Field(gt=0)] = 0.1
    """Failure rate of requests on a feature that is still allowed."""
    false_rollback_percent: Annotated[Percent, Field(gt=0, le=10)] = 0.1
    """Chance that a stage of a healthy feature is rolled back all the same."""
    false_promotion_percent: Annotated[Percent, Field(gt=0, le=50)] = 1.0
    """Chance that a stage is left upward although its failure rate is at `promote_below_percent`."""
    ttft: LatencySection = LatencySection()
    """Time to first token."""
    itl: LatencySection = LatencySection()
    """Time per token after the first."""
    on_shared_incident: Literal["rollback", "hold"] = "rollback"
    """What to do when requests off the feature fail as well."""
    direct: Literal["alert", "rollback"] = "alert"
    """What to do with a direct feature at 100 %, which nothing can be compared with."""
    failures_per_key: Annotated[int, Field(ge=1, le=1000)] = 2
    """Failures of one key that count in a stage."""
    first_token_deadline_s: Annotated[Seconds, Field(ge=0.1, le=3600)] = 60.0
    """A request without its first token after this long counts as failed, whatever becomes of it."""
    fresh_within_s: Annotated[Seconds, Field(ge=1, le=86_400)] = 600.0
    """The hold clock runs while the last request on the feature ended within this time."""

    def params(self) -> GuardParams:
        """Return what `rollout` takes."""
        return GuardParams(
            error_limit_ratio=self.error_rate_percent / 100,
            false_rollback_ratio=self.false_rollback_percent / 100,
            false_promotion_ratio=self.false_promotion_percent / 100,
            ttft=self.ttft.params(),
            itl=self.itl.params(),
            holds_on_shared_incident=self.on_shared_incident == "hold",
            rolls_back_direct=self.direct == "rollback",
            failures_per_key=self.failures_per_key,
            fresh_within_s=self.fresh_within_s,
        )


class DrillSection(Section):
    """A fault on purpose, to rehearse a rollback with real requests: they fail, or wait, and say so."""

    feature: FeatureName | None = None
    """Requests that are on this feature are hit; null hits nobody."""
    fail_ratio: Ratio = 0.0
    """Part of them that fails."""
    delay_s: Annotated[Seconds, Field(ge=0, le=60)] = 0.0
    """How long each of them waits before it begins."""


class RolloutSection(Section):
    """Who gets each feature. Without this section all four are on at 100 %; with it, one not named is off."""

    kill_switch: bool = False
    """True puts every feature off at once."""
    stages: tuple[StageEntry, ...] = _STAGES
    """The steps of a staged rollout, upward."""
    promotion: Literal["automatic", "manual"] = "automatic"
    """Whether a stage that met everything goes on to the next by itself, or waits for `rollout promote`."""
    guard: GuardSection = GuardSection()
    """What rolls a feature back, or pauses it, by itself."""
    drill: DrillSection = DrillSection()
    """A fault on purpose, off by default."""
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
                stages=tuple(entry.stage() for entry in self.stages),
                kill_switch=self.kill_switch,
                promotes=self.promotion == "automatic",
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
        expects=tuple(map(Expectation, section.expects)),
        settings=MappingProxyType(section.settings()),
    )


def _refused(error: SpecError, section: RolloutSection) -> PydanticCustomError:
    """Point at the entry of `requires` that is meant, not at the whole list."""
    path = error.path
    feature, _, key = path.partition(".")
    if key == "requires" and error.value in (names := getattr(section, feature).requires):
        path += f".{names.index(error.value)}"
    _, hinted, suggestion = error.message.partition(" Did you mean ")
    fix = f"write {suggestion.removesuffix('?')}" if hinted else error.fix or "change one of them"
    return contradiction(path, error.message, fix)


FEATURES: tuple[str, ...] = get_args(FeatureName)
"""The features that this runtime gates."""

EVERYTHING_ON = RolloutSection(
    adaptive_governor=RequestFeatureSection(enabled=True),
    http2_transport=ConnectionFeatureSection(enabled=True),
    ttft_pipeline=RequestFeatureSection(enabled=True),
    qos_monitoring=MonitoringFeatureSection(enabled=True),
)
"""In force without a file, or with one that has no phase4_rollout."""
