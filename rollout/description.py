"""Where every feature stands, as plain rows for screens and JSON."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING

from rollout.bucketing import VERSION
from rollout.findings import findings_document
from rollout.spec import Mode
from rollout.stages import Phase, State, stage_in_force

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rollout.assignment import FlagSnapshot
    from rollout.spec import Feature
    from rollout.verdict import Judged


def describe(
    snapshot: FlagSnapshot, *, judged: Mapping[str, Judged | None] = MappingProxyType({})
) -> list[dict[str, object]]:
    """
    Tell of every feature where it stands: the rows of `status`, of `rollout status` and of their JSON.

    Args:
        snapshot: What is in force.
        judged: By feature, what its controller says (`Controller.judged`); one may be missing.
    """
    features = snapshot.spec.features.values()
    return [_describe(snapshot, each, judged=judged.get(each.name)) for each in features]


def _describe(snapshot: FlagSnapshot, feature: Feature, *, judged: Judged | None) -> dict[str, object]:
    findings, verdict = (None, None) if judged is None else judged
    spec = snapshot.spec
    state = snapshot.states.get(feature.name, State(feature=feature.name))
    share = snapshot.shares[feature.name]
    staged = feature.mode is Mode.STAGED
    stage = stage_in_force(state, spec) if staged else None
    return {
        "feature": feature.name,
        "mode": str(feature.mode),
        "enabled": feature.enabled,
        "phase": str(state.phase) if staged or state.phase is Phase.ROLLED_BACK else None,
        "stage": state.stage if staged else None,
        "stage_index": next(
            (i for i, each in enumerate(spec.stages) if stage and each.name == stage.name), None
        ),
        "percentage": share.percentage,
        "ceiling_percentage": feature.rollout_percentage,
        "cause": str(share.cause),
        "revision": state.revision,
        "held_s": None if findings is None or stage is None else findings.served_s,
        "hold_s": None if stage is None else stage.hold_s,
        "compress": state.compress,
        "actor": state.actor or None,
        "reason": state.reason or None,
        "updated_unix_s": state.updated_unix_s,
        "key": str(feature.key),
        "bucketing": VERSION,
        "requires": list(feature.requires),
        "expects": list(feature.expects),
        "promotes": spec.promotes,
        "findings": None if findings is None else findings_document(findings),
        "verdict": None if verdict is None else verdict.document(),
        "stages": [asdict(each) for each in spec.stages],
    }
