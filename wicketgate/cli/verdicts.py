"""The refusal, in words, of what the evidence does not let go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wicketgate.cli.output import count, duration
from wicketgate.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def check(row: Mapping[str, Any], *, is_watched: bool) -> None:
    """
    Refuse to leave a stage upward where something is missing.

    Args:
        row: Where the feature stands, with the verdict if there is one.
        is_watched: A gateway runs, which may find what is missing.

    Raises:
        RefusedError: something is missing; the message says what, and when it may be there.
    """
    verdict = row.get("verdict")
    if verdict is not None and verdict["kind"] == "pass":
        return
    feature, stage = row["feature"], row["stage"]
    fix = f'Promote anyway: wicketgate rollout promote {feature} --force --reason "..."'
    if verdict is None:
        message = f"{feature} stays at {stage}: no evidence was gathered there yet. Nothing was done."
        raise RefusedError(message, fix=fix)
    against = verdict["kind"] == "fail"
    head = (
        f"{feature} stays at {stage}, {'the evidence is against it' if against else 'for want of evidence'}"
    )
    when = _when(row) if is_watched else "No gateway is running, so nothing more is gathered. "
    raise RefusedError(f"{head}:{_listed(verdict['reasons'])}{when}Nothing was done.", fix=fix)


def _listed(reasons: Sequence[str]) -> str:
    """Write one reason in the line, several a line each."""
    if len(reasons) == 1:
        return f" {reasons[0]}. "
    return "".join(f"\n  {each}" for each in reasons) + "\n"


def _when(row: Mapping[str, Any]) -> str:
    """Say when what is missing may be there; nothing where that cannot be told."""
    verdict = row["verdict"]
    if not verdict.get("eta_s"):
        return ""
    about = f"about {duration(round(verdict['eta_s']))}. "
    hourly = round(3600 * (row.get("findings") or {}).get("canary_per_s", 0.0))
    if not hourly or not verdict["needs_requests"]:
        return f"That is {about}"
    return f"At {count(hourly, 'request', 'requests')}/h that is {about}"
