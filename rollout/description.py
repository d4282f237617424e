"""Where every feature stands, as plain rows for screens and JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.bucketing import VERSION
from rollout.spec import Mode
from rollout.stages import Phase, State, current_stage

if TYPE_CHECKING:
    from rollout.assignment import FlagSnapshot
    from rollout.spec import Feature


def describe(snapshot: FlagSnapshot, *, now_unix_s: float) -> list[dict[str, object]]:
    """Tell of every feature where it stands: the rows of `status`, of `rollout status` and of their JSON."""
    return [_describe(snapshot, each, now_unix_s=now_unix_s) for each in snapshot.spec.features.values()]


def _describe(snapshot: FlagSnapshot, feature: Feature, *, now_unix_s: float) -> dict[str, object]:
    spec = snapshot.spec
    state = snapshot.states.get(feature.name, State(feature=feature.name))
    share = snapshot.shares[feature.name]
    staged = feature.mode is Mode.STAGED
    stage = current_stage(state, spec) if staged else None
    return {
        "feature": feature.name,
        "mode": str(feature.mode),
        "enabled": feature.enabled,
        "phase": str(state.phase) if staged or state.phase is Phase.ROLLED_BACK else None,
        "stage": state.stage if staged else None,
        "stage_index": None if stage is None else spec.stages.index(stage),
        "percentage": share.percentage,
        "ceiling_percentage": feature.rollout_percentage,
        "cause": str(share.cause),
        "revision": state.revision,
        "held_s": None if stage is None else state.served_s(now_unix_s=now_unix_s),
        "hold_s": None if stage is None else stage.hold_s,
        "actor": state.actor or None,
        "reason": state.reason or None,
        "updated_unix_s": state.updated_unix_s,
        "key": str(feature.key),
        "bucketing": VERSION,
        "requires": list(feature.requires),
        "stages": [
            {"name": each.name, "percentage": each.percentage, "hold_s": each.hold_s} for each in spec.stages
        ],
    }
