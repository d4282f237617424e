"""Where a feature stands, as its controller sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.spec import FULL_MILLIPERCENT, Mode, Stage
from rollout.stages import Phase, State, stage_in_force

if TYPE_CHECKING:
    from rollout.assignment import FlagSnapshot
    from rollout.spec import Feature

PERIOD_S = 30 * 86_400.0
"""A complete or direct feature is watched for good: evidence, and the risk of a false alarm, begin anew."""

_TO_BE_LEFT = frozenset({Phase.RUNNING, Phase.HOLDING, Phase.PAUSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one feature stands."""

    feature: Feature
    state: State
    phase: Phase | None
    """Of a staged feature; None of a direct one."""
    stage: Stage
    """What it is held to, with the times that are in force."""
    obstacle: str | None
    """Why the stage cannot be left upward, whatever it has shown."""
    share_ratio: float
    """Its share, of the requests that have what it requires."""
    prerequisites_met: bool
    """What it requires has its share at least."""
    promotes: bool
    """Stages are left upward without being told to."""

    @property
    def entry(self) -> tuple[str | None, float | None]:
        """What evidence belongs to: the stage, and when it was entered."""
        return (None if self.phase is None else self.state.stage), self.state.entered_unix_s

    @property
    def has_stage(self) -> bool:
        """Whether it is at a stage that can be left upward."""
        return self.phase in _TO_BE_LEFT

    @property
    def hold_s(self) -> float:
        """How long the stage must be watched."""
        return self.stage.hold_s or 0.0

    @property
    def plan_s(self) -> float:
        """Time over which the guards' stake is planned."""
        return (self.has_stage and self.stage.hold_s) or PERIOD_S

    @property
    def control_exists(self) -> bool:
        """Whether some requests are off the feature."""
        return self.share_ratio < 1


def standing_of(snapshot: FlagSnapshot, name: str) -> Standing | None:
    """Tell where a feature stands; None for one that is not declared, or staged and off."""
    spec = snapshot.spec
    feature = spec.features.get(name)
    state = snapshot.states.get(name, State(feature=name))
    if feature is None:
        return None
    staged = feature.mode is Mode.STAGED
    if staged and state.phase is Phase.OFF:
        return None
    share = snapshot.shares[name]
    stage = stage_in_force(state, spec) if staged else None
    return Standing(
        feature=feature,
        state=state,
        phase=state.phase if staged else None,
        stage=stage or Stage(name=state.stage or str(feature.mode), percentage=share.percentage),
        obstacle=_obstacle(feature, state, stage),
        share_ratio=share.millipercent / FULL_MILLIPERCENT,
        prerequisites_met=all(
            snapshot.shares[each].millipercent >= share.millipercent for each in feature.requires
        ),
        promotes=spec.promotes,
    )


def _obstacle(feature: Feature, state: State, stage: Stage | None) -> str | None:
    if stage is None:
        return f"stage {state.stage} is no longer declared; promote it by force, or stop it"
    if feature.ceiling_millipercent <= state.share_millipercent:
        # Going on in name only would have a ceiling that is lifted later let in everybody at once.
        return (
            f"rollout_percentage is {feature.rollout_percentage:g}; the next stage would let in nobody more"
        )
    return None
