"""Rows of features as a gateway tells them, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from rollout.assignment import FlagSnapshot
from rollout.findings import findings_document
from rollout.guards import ArmCounts, Attribution, Findings, Guard, Reading
from rollout.spec import Feature, Key, Mode, Spec
from rollout.stages import Phase, State
from rollout.verdict import Kind, Verdict
from wicketgate.flags import describe

DAY_S = 86_400.0
STAGES = ("canary", "early", "mid", "full")
NAME = "http2_transport"


def row_with(
    *,
    phase: str = "running",
    stage: str = "canary",
    held_s: float = DAY_S,
    hold_s: float | None = None,
    finished: int = 611,
    failed: int = 0,
    refused: int = 0,
    lost: int = 0,
    upper: float = 0.0075,
    errors: float = 1.0,
    ttft: float = 1.4,
    attribution: str = "unknown",
    kind: str = "inconclusive",
    reasons: tuple[str, ...] = (),
    needs_requests: int = 0,
    eta_s: float | None = None,
    promotes: bool = True,
    actor: str = "",
    reason: str = "",
    in_flight_on: int = 1,
    **changed: Any,
) -> dict[str, Any]:
    """
    Describe http2_transport at a stage, with what its guards saw.

    Args:
        phase: Of the rollout; the rest is what the names say.
        changed: Fields of the row that are to be other than described.
    """
    spec = Spec(features={NAME: Feature(name=NAME, mode=Mode.STAGED, key=Key.CONNECTION)}, promotes=promotes)
    share = {each.name: each.share_millipercent for each in spec.stages}[stage]
    state = State(
        feature=NAME,
        revision=8,
        phase=Phase(phase),
        stage=stage,
        share_millipercent=0 if phase == "rolled_back" else share,
        actor=actor,
        reason=reason,
        updated_unix_s=1_767_225_600.0 if actor else None,
    )
    findings = Findings(
        readings={
            Guard.ERRORS: Reading(guard=Guard.ERRORS, evidence=errors, limit=2000.0),
            Guard.RELATIVE: Reading(guard=Guard.RELATIVE, evidence=1.0, limit=5000.0),
            Guard.TTFT: Reading(guard=Guard.TTFT, evidence=ttft, limit=5000.0),
        },
        canary=ArmCounts(finished=finished, failed=failed, refused=refused, infrastructure=lost),
        control=ArmCounts(finished=0, failed=0),
        canary_upper_ratio=upper,
        served_s=held_s,
        attribution=Attribution(attribution),
        needed_requests=needs_requests,
        canary_per_s=26 / 3600,
    )
    verdict = Verdict(kind=Kind(kind), reasons=reasons, needs_requests=needs_requests, eta_s=eta_s)
    row = describe(FlagSnapshot(spec, {NAME: state}))[0]
    at_stage = phase in ("running", "holding", "paused")
    seen = {
        "held_s": held_s if at_stage else None,
        "hold_s": hold_s or row["hold_s"],
        "findings": findings_document(findings),
        "verdict": verdict.document() if at_stage else None,
        "in_flight_on": in_flight_on,
    }
    return {**row, **seen, **changed}
