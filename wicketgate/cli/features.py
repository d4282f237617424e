"""The table of features, for `status` and `rollout status`, from the rows of `wicketgate.flags.describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli.output import EN_DASH, Screen, duration, share
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

_LOOKS = {
    "running": ("▸", "accent"),
    "holding": ("‖", "warn"),
    "paused": ("‖", "warn"),
    "complete": ("✓", "ok"),
    "off": ("·", "dim"),
    "rolled_back": ("✗", "bad"),
}


def print_features(screen: Screen, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print where features stand, a row each."""
    headers = ("FEATURE", "STAGE", ">SHARE", "HOLD", ">REVISION", "NEXT")
    screen.table(headers, [_cells(row) for row in rows], optional=("HOLD", "REVISION"))


def stage(row: Mapping[str, Any]) -> str:
    """Write where a feature stands: `canary 1/4`, `holding 1/4`, `rolled back`, `direct`."""
    phase = row.get("phase")
    if phase is None:
        return "direct"
    index, count = row.get("stage_index"), len(row.get("stages") or ())
    place = "" if index is None or phase == "complete" else f" {index + 1}/{count}"
    word = row.get("stage") or phase if phase == "running" else str(phase).replace("_", " ")
    return f"{word}{place}"


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    percentage = row.get("percentage")
    phase = row.get("phase") or ("complete" if percentage else "off")
    glyph, role = _LOOKS.get(phase, ("!", "warn"))
    return [
        str(row.get("feature", EN_DASH)),
        (f"{glyph} {stage(row)}", role),
        EN_DASH if percentage is None else share(percentage),
        _hold(row),
        str(row.get("revision", EN_DASH)),
        _next(row),
    ]


def _hold(row: Mapping[str, Any]) -> str:
    if not row.get("hold_s"):
        return EN_DASH
    return f"{duration(round(row.get('held_s') or 0))} of {duration(row['hold_s'])}"


def _next(row: Mapping[str, Any]) -> str:
    """Say what comes next, or why the share is not what the stage says."""
    if row.get("cause") in WHY:
        return WHY[row["cause"]]
    feature, phase = row.get("feature"), row.get("phase")
    match phase:
        case "running":
            left_s = max(0.0, (row.get("hold_s") or 0) - (row.get("held_s") or 0))
            return f"rollout promote {feature}" + (f" in {duration(round(left_s))}" if left_s else "")
        case "holding":
            return f"rollout promote {feature}"
        case "paused":
            return f"rollout resume {feature}"
        case "off":
            return f"rollout start {feature}"
        case "rolled_back":
            return undo(dict(row)).removeprefix("wicketgate ")
        case _:
            return EN_DASH
