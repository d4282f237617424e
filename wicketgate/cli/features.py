"""
Where features stand, in words and as a table, from the rows of `wicketgate.flags.describe`: pure.

What the gateway alone knows (findings, verdict) may be missing from a row; it shows as a dash.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli import meters
from wicketgate.cli.output import EN_DASH, Screen, count, duration, number, share
from wicketgate.cli.rollback import undo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wicketgate.cli.output import Cell

UNITS = {
    "session": "sessions",
    "user": "users",
    "client": "clients",
    "request": "requests",
    "connection": "connections",
}
"""What a share is a share of, by the feature's key."""

WHY = {
    "ceiling": "capped by rollout_percentage",
    "prerequisite": "a feature that it requires is at 0 %",
    "disabled": "enabled: false",
    "killed": "the kill switch is on",
    "unreadable": "the ledger cannot be read",
}
"""Causes that a reader of the stage alone would not expect."""

LOOKS = {
    "running": ("▸", "accent"),
    "holding": ("‖", "warn"),
    "paused": ("‖", "warn"),
    "complete": ("✓", "ok"),
    "off": ("·", "dim"),
    "rolled_back": ("✗", "bad"),
}
"""The glyph and the colour of each phase."""
STUCK = frozenset({"holding", "paused", "rolled_back"})
"""Phases that `--exit-code` reports."""


def print_features(screen: Screen, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print where features stand, a row each."""
    headers = ("FEATURE", "STAGE", ">SHARE", "HOLD", ">REQUESTS", ">FAILED", ">95% UPPER", "GUARD", "NEXT")
    groups = (("HOLD", "95% UPPER"), ("REQUESTS",))
    screen.table(headers, [_cells(row) for row in rows], optional=groups)


def phase(row: Mapping[str, Any]) -> str:
    """Name the phase; of a direct feature, `complete` where it lets somebody in."""
    return str(row.get("phase") or ("complete" if row.get("percentage") else "off"))


def stage(row: Mapping[str, Any]) -> str:
    """Write where a feature stands: `canary 1/4`, `holding 1/4`, `rolled back`, `direct`."""
    if row.get("phase") is None:
        return "direct"
    index, stages = row.get("stage_index"), len(row.get("stages") or ())
    place = "" if index is None or row["phase"] == "complete" else f" {index + 1}/{stages}"
    running = row["phase"] == "running"
    return f"{row.get('stage') or 'running' if running else str(row['phase']).replace('_', ' ')}{place}"


def hold_left_s(row: Mapping[str, Any]) -> float:
    """Tell how much of the hold is still to be served."""
    return max(0.0, float(row.get("hold_s") or 0) - float(row.get("held_s") or 0))


def served(row: Mapping[str, Any]) -> str:
    """Write how much of the hold is served: `3 h of 1 d`, with a dash where nobody watches."""
    held_s, hold_s = row.get("held_s"), row["hold_s"]
    # Never more than is asked for, and never rounded up to it.
    told = EN_DASH if held_s is None else duration(hold_s if held_s >= hold_s else int(held_s))
    return f"{told} of {duration(hold_s)}"


def upcoming(row: Mapping[str, Any]) -> str:
    """Say what comes next and when, or why the share is not what the stage says; a dash for nothing."""
    if row.get("cause") in WHY:
        return WHY[str(row["cause"])]
    feature = row.get("feature")
    match row.get("phase"):
        case "running":
            return _when(row)
        case "holding":
            return _missing(row) or f"rollout promote {feature}"
        case "paused":
            return f"rollout resume {feature}"
        case "off":
            return f"rollout start {feature}"
        case "rolled_back":
            return undo(dict(row)).removeprefix("wicketgate ")
        case _:
            return EN_DASH


def next_stage(row: Mapping[str, Any]) -> str | None:
    """Name the stage above the one that a feature is at; None at the top and where it is at none."""
    index, stages = row.get("stage_index"), row.get("stages") or ()
    return None if index is None or index + 1 >= len(stages) else str(stages[index + 1]["name"])


def missing_requests(row: Mapping[str, Any]) -> str:
    """Say how many requests are still needed: `465 more requests, about 18 h`; nothing when none."""
    verdict = row.get("verdict") or {}
    needed = verdict.get("needs_requests") or 0
    if not needed:
        return ""
    eta_s = verdict.get("eta_s")
    about = "" if eta_s is None else f", about {duration(round(eta_s))}"
    return f"{count(needed, 'more request', 'more requests')}{about}"


def _when(row: Mapping[str, Any]) -> str:
    """Say which stage a running one goes on to, and when at the earliest."""
    promotes, above = row.get("promotes"), next_stage(row)
    action = above if promotes and above else f"rollout promote {row.get('feature')}"
    eta_s = (row.get("verdict") or {}).get("eta_s")
    if eta_s is None and _missing(row):
        return _missing(row)
    left_s = round(hold_left_s(row) if eta_s is None else eta_s)
    return f"{action} in {duration(left_s)}" if left_s else action


def _missing(row: Mapping[str, Any]) -> str:
    """Say what a stage waits for; nothing where nothing is known to be missing."""
    requests = missing_requests(row)
    if requests:
        return requests
    verdict = row.get("verdict") or {}
    reasons = verdict.get("reasons") or ()
    return str(reasons[0]) if reasons and verdict["kind"] != "pass" else ""


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    percentage = row.get("percentage")
    glyph, role = LOOKS.get(phase(row), ("!", "warn"))
    guard = meters.guard_word(row)
    return [
        str(row.get("feature", EN_DASH)),
        (f"{glyph} {stage(row)}", role),
        EN_DASH if percentage is None else share(percentage),
        _hold(row),
        *_counts(row),
        (guard, meters.ROLES[guard]),
        upcoming(row),
    ]


def _hold(row: Mapping[str, Any]) -> str:
    if not row.get("hold_s"):
        return EN_DASH
    return served(row)


def _counts(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Write the canary's requests, its failures, and the upper bound of its failure rate."""
    findings = row.get("findings")
    if not findings:
        return EN_DASH, EN_DASH, EN_DASH
    ended = meters.ended(findings["canary"])
    upper = meters.bound(findings["canary_upper_ratio"]) if ended else EN_DASH
    return number(ended), number(findings["canary"]["failed"]), upper
