"""What a guard at its limit says, in words with figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollout.guards import Guard
from rollout.wording import number, percent

if TYPE_CHECKING:
    from rollout.guards import ArmCounts, Findings, GuardParams


def alarm(guard: Guard, findings: Findings, params: GuardParams) -> str:
    """
    Write why a guard acts.

    Args:
        guard: That is at its limit.
        findings: What the stage has shown.
        params: What the guards hold.
    """
    reading = findings.readings[guard]
    said = _said(guard, findings.canary, findings.control, params)
    return f"{said} (evidence {number(reading.evidence)}, limit {number(reading.limit)})"


def _said(guard: Guard, canary: ArmCounts, control: ArmCounts, params: GuardParams) -> str:
    slower = "take over {} longer than in control"
    return {
        Guard.ERRORS: f"{_part(canary, 'canary')} failed; the limit is {percent(params.error_limit_ratio)}",
        Guard.RELATIVE: f"{_part(canary, 'canary')} failed, and {_part(control, 'control')}",
        Guard.REFUSED: f"{number(canary.refused)} canary and {number(control.refused)} control requests "
        "were refused",
        Guard.TTFT: f"first tokens {slower.format(percent(params.ttft.tolerance_ratio))}",
        Guard.TTFT_FAR: f"first tokens {slower.format(percent(params.ttft.rollback_at_ratio))}",
        Guard.ITL: f"tokens {slower.format(percent(params.itl.tolerance_ratio))}",
        Guard.ITL_FAR: f"tokens {slower.format(percent(params.itl.rollback_at_ratio))}",
        Guard.SHARE: "the canary's part of the keys is not its share",
    }[guard]


def _part(counts: ArmCounts, arm: str) -> str:
    return f"{number(counts.failed)} of {number(counts.finished + counts.failed)} {arm} requests"
