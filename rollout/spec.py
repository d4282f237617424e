"""Flags as declared in runtime.yaml: ceiling, mode, stages, prerequisites and the kill switch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MILLIPERCENT = 1000
"""Shares are counted in thousandths of a percent: the three decimals that a percentage may have."""
FULL_MILLIPERCENT = 100 * MILLIPERCENT


class SpecError(ValueError):
    """
    A declaration that cannot be used.

    Args:
        path: Where it stands below `phase4_rollout`, such as `ttft_pipeline.rollout_percentage`.
        value: What stands there.
        message: What it must be.
        fix: What to do; empty where the message says it.
    """

    def __init__(self, *, path: str, value: object, message: str, fix: str = "") -> None:
        super().__init__(f"{path} {message}")
        self.path = path
        self.value = value
        self.message = message
        self.fix = fix


class Mode(StrEnum):
    """Where a feature's share comes from."""

    DIRECT = "direct"
    """`rollout_percentage` itself."""
    STAGED = "staged"
    """The ledger, stage by stage, with `rollout_percentage` as the ceiling."""


class Key(StrEnum):
    """What a feature is decided by."""

    SESSION = "session"
    USER = "user"
    CLIENT = "client"
    REQUEST = "request"
    CONNECTION = "connection"


class Expectation(StrEnum):
    """What a feature is there to improve."""

    TTFT = "ttft"
    THROUGHPUT = "throughput"


class Trouble(StrEnum):
    """What a stage may ask to be without."""

    VIOLATION = "violation"
    """An objective was violated."""
    RESOURCE = "resource"
    """Memory ran short."""
    INCIDENT = "incident"
    """An engine host died, or failures came in both arms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One percentage step of a staged rollout, and what it takes to leave it upward."""

    name: str
    percentage: float
    """Share of this stage, above 0 and at most 100, three decimals."""
    hold_s: float | None = None
    """How long the stage must be watched before it is left upward; None for the last one."""
    promote_below_percent: float = 0.1
    """A failure rate of so much or more must be excluded."""
    faster_ttft: bool = False
    """The first token must come sooner than control's, of a feature that is expected to improve that."""
    throughput_gain_percent: float = 0.0
    """Tokens must come so much faster than control's, of a feature that is expected to; 0 asks nothing."""
    quiet: tuple[Trouble, ...] = ()
    """Troubles that may not have happened in the last `quiet_s` of the hold."""
    quiet_s: float = 24 * 3600.0

    @property
    def share_millipercent(self) -> int:
        """The stage's share in thousandths of a percent."""
        return millipercent(self.percentage)


DEFAULT_STAGES = (
    # 1 % of the traffic of a day cannot certify 0.1 %: 5 390 clean requests are needed, and 1 076 for 0.5 %.
    Stage(name="canary", percentage=1.0, hold_s=24 * 3600.0, promote_below_percent=0.5, faster_ttft=True),
    Stage(
        name="early",
        percentage=10.0,
        hold_s=48 * 3600.0,
        throughput_gain_percent=30.0,
        quiet=(Trouble.RESOURCE,),
    ),
    Stage(name="mid", percentage=50.0, hold_s=72 * 3600.0, quiet=tuple(Trouble)),
    Stage(name="full", percentage=100.0),
)
"""The requirement's four steps, with its criteria."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One flag as declared."""

    name: str
    enabled: bool = True
    rollout_percentage: float = 100.0
    """0 to 100, three decimals. The share of a direct feature, the ceiling of a staged one."""
    mode: Mode = Mode.DIRECT
    key: Key = Key.SESSION
    requires: tuple[str, ...] = ()
    """Features that must be on for the same key."""
    expects: tuple[Expectation, ...] = tuple(Expectation)
    """What it must improve where a stage asks for it."""
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    """The feature's own settings; not read here."""

    def __post_init__(self) -> None:
        """Refuse a percentage that is none."""
        _check_percentage(self.rollout_percentage, path=f"{self.name}.rollout_percentage")

    @property
    def ceiling_millipercent(self) -> int:
        """`rollout_percentage` in thousandths of a percent."""
        return millipercent(self.rollout_percentage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The section `phase4_rollout` as a whole."""

    features: Mapping[str, Feature]
    """By name, in the order of the file."""
    stages: tuple[Stage, ...] = DEFAULT_STAGES
    kill_switch: bool = False
    """True puts every feature off."""
    promotes: bool = True
    """A stage that has served its hold and met its criteria is left upward without being told to."""

    def __post_init__(self) -> None:
        """Refuse stages that do not rise and prerequisites that cannot be met."""
        _check_stages(self.stages)
        for feature in self.features.values():
            _check_requires(feature, self.features)
        _check_circles(self.features)

    def in_order(self) -> tuple[Feature, ...]:
        """Every feature after those that it requires; otherwise in the order of the file."""
        done: dict[str, Feature] = {}

        def visit(feature: Feature) -> None:
            if feature.name not in done:
                for name in feature.requires:
                    visit(self.features[name])
                done[feature.name] = feature

        for feature in self.features.values():
            visit(feature)
        return tuple(done.values())


def millipercent(percentage: float) -> int:
    """Turn a percentage (0 to 100) into whole thousandths of a percent."""
    return round(percentage * MILLIPERCENT)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is nearest to a misspelt one, as ` Did you mean X?`; else nothing."""
    import difflib  # 5 ms, and only ever needed for a message

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else ""


def _check_percentage(value: float, *, path: str) -> None:
    if isinstance(value, bool) or not 0 <= value <= 100:  # `not` also refuses NaN
        raise SpecError(path=path, value=value, message=f"is {value}; it must be between 0 and 100.")
    if abs(value * MILLIPERCENT - millipercent(value)) > 1e-6:
        message, fix = f"is {value}; it may have three decimals at most.", f"write {value:.3f}"
        raise SpecError(path=path, value=value, message=message, fix=fix)


def _check_stages(stages: tuple[Stage, ...]) -> None:
    if not stages:
        fix = "add a stage, or remove the line for the default ones"
        raise SpecError(path="stages", value=stages, message="is empty; name at least one stage.", fix=fix)
    before: Stage | None = None
    for index, stage in enumerate(stages):
        path = f"stages.{index}"
        _check_percentage(stage.percentage, path=f"{path}.percentage")
        if stage.percentage == 0:
            message, fix = "is 0; a stage must let some in.", "write a percentage above 0"
            raise SpecError(path=f"{path}.percentage", value=0, message=message, fix=fix)
        if any(stage.name == other.name for other in stages[:index]):
            message = f"is {stage.name}, which an earlier stage has; names of stages must differ."
            fix = "choose another name"
            raise SpecError(path=f"{path}.name", value=stage.name, message=message, fix=fix)
        if before is not None and stage.percentage <= before.percentage:
            message = (
                f"is {stage.percentage:g}: stage {stage.name} ({stage.percentage:g} %) comes after "
                f"{before.name} ({before.percentage:g} %); percentages must rise from stage to stage."
            )
            raise SpecError(path=f"{path}.percentage", value=stage.percentage, message=message)
        if stage.hold_s is not None and not 0 <= stage.hold_s < float("inf"):
            message = f"is {stage.hold_s}; a hold must be at least 0 seconds."
            raise SpecError(path=f"{path}.hold_s", value=stage.hold_s, message=message)
        if not 0 < stage.promote_below_percent <= 100:
            message = f"is {stage.promote_below_percent:g}; it must be above 0 and at most 100."
            path += ".promote_below_percent"
            raise SpecError(path=path, value=stage.promote_below_percent, message=message)
        before = stage


def _check_requires(feature: Feature, features: Mapping[str, Feature]) -> None:
    path = f"{feature.name}.requires"
    for name in feature.requires:
        if name not in features:
            hint = did_you_mean(name, features)
            message = f"names {name}, which is not defined.{hint}"
            raise SpecError(path=path, value=name, message=message)
        if feature.key is Key.CONNECTION and features[name].key is not Key.CONNECTION:
            message = (
                f"names {name}, which is decided by {features[name].key}; a feature decided by connection "
                "can only require others decided by connection."
            )
            raise SpecError(path=path, value=name, message=message)


def _check_circles(features: Mapping[str, Feature]) -> None:
    for start in features:
        circle = _circle_from(start, features)
        if circle:
            message = f"is part of circular prerequisites: {' -> '.join(circle)}. Remove one of them."
            raise SpecError(path=f"{start}.requires", value=circle, message=message)


def _circle_from(start: str, features: Mapping[str, Feature]) -> tuple[str, ...]:
    """The way from a feature back to itself; empty where there is none."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    while ways:
        way = ways.pop()
        for name in features[way[-1]].requires:
            if name == start:
                return (*way, start)
            if name not in seen:
                seen.add(name)
                ways.append((*way, name))
    return ()


DEFAULT_SPEC = Spec(
    features=MappingProxyType(
        {
            "adaptive_governor": Feature(name="adaptive_governor"),
            "http2_transport": Feature(name="http2_transport", key=Key.CONNECTION),
            "ttft_pipeline": Feature(name="ttft_pipeline"),
            "qos_monitoring": Feature(name="qos_monitoring"),
        }
    )
)
"""In force without a file, or with one that has no `phase4_rollout`: all on, direct, 100 %."""
