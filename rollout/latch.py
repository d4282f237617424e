"""
The one change that must work in every state: a rollback, on the ledger's document itself.

Kept apart from the stage machine and without its imports, so that `rollback` starts quickly and does not
depend on whether a row can be understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLLED_BACK = "rolled_back"
"""The phase, as `rollout.stages.Phase` spells it."""
ROLLBACK = "rollback"
"""The input, as `rollout.stages.Input` spells it."""


def rolled_back(
    document: Mapping[str, object], *, now_unix_s: float, actor: str, reason: str
) -> dict[str, object] | None:
    """
    Make a feature's document after a rollback.

    Args:
        document: What the ledger holds of it, as `rollout.stages.State.document` makes it or in any other
            shape; empty where there is none.
        now_unix_s: Wall time, for the record.
        actor: Who does it.
        reason: Why.

    Returns:
        The new document, at 0 % and with the stage that it was at, whose evidence stays
        in sight; None where it is rolled back already.
    """
    if document.get("phase") == ROLLED_BACK:
        return None
    return {
        "phase": ROLLED_BACK,
        "stage": document.get("stage"),
        "share_millipercent": 0,
        "compress": 1.0,
        "entered_unix_s": document.get("entered_unix_s"),
        "cause": ROLLBACK,
        "actor": actor,
        "reason": reason,
        "updated_unix_s": now_unix_s,
    }
