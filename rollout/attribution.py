"""Whose failures were they: the canary's own, everybody's, or the machine's?"""

from __future__ import annotations

from rollout.guards import Attribution

CONVINCING = 20.0
"""Evidence from which an attribution is made."""


def attribute(
    *, relative: float, control: float, control_upper_ratio: float, limit_ratio: float, engine_died: bool
) -> Attribution:
    """
    Say whose failures a canary's are.

    What compares both arms at the same instant counts most. That control was healthy over the whole stage
    counts least, and only while nothing says that it fails now: an incident after days of health hardly moves
    an average.

    Args:
        relative: Evidence that the canary fails more often than control.
        control: Evidence that control fails beyond the limit as well.
        control_upper_ratio: 95 % upper bound of control's failure rate.
        limit_ratio: Failure rate that is allowed.
        engine_died: An engine host died, or was drained, shortly before.
    """
    if relative >= CONVINCING:
        return Attribution.CANARY
    if engine_died:
        return Attribution.INFRASTRUCTURE
    if control >= CONVINCING:
        return Attribution.SHARED
    if control_upper_ratio < limit_ratio and control <= 1:
        return Attribution.CANARY
    return Attribution.UNKNOWN
