"""
What the end of a request says of the features that it was on.

| what happened | counts as |
|---|---|
| finished | ok |
| 5xx, a fault of ours, the request's deadline, no first token in time | failed |
| convicted of killing engine hosts (`engine_failed`) | failed |
| refused by admission, no memory for it | refused |
| no engine host (`starting`, `engine_restarting`, `engine_down`), drain | infrastructure |
| a deadline missed while there was no engine host | infrastructure |
| the client went away, or asked for what can never be served | ignored |

A stream whose engine host died goes on with the next host, and counts as it ends; its times are left out.
"""

from __future__ import annotations

from enum import StrEnum


class Ending(StrEnum):
    """What the end of a request says of the features that it was on."""

    OK = "ok"
    FAILED = "failed"
    """By a fault of ours, or because its first token came too late."""
    REFUSED = "refused"
    """By admission, or for want of memory."""
    INFRASTRUCTURE = "infrastructure"
    """There was no engine host, or it was being ended: no feature is to blame."""
    IGNORED = "ignored"
    """The client went away, or asked for what can never be served."""


_INFRASTRUCTURE = ("starting", "engine_restarting", "engine_down", "draining")
"""Codes of what a missing engine host, or a drain, does to requests."""


def ending_of(outcome: str, code: str, *, lost_time: bool) -> Ending:
    """
    Tell what the end of a request says of the features that it was on.

    Args:
        outcome: As on the log line.
        code: As on the log line.
        lost_time: It waited for an engine host, which explains a missed deadline.
    """
    match outcome:
        case "ok":
            return Ending.OK
        case "cancelled" | "invalid":
            return Ending.IGNORED
        case _ if code in _INFRASTRUCTURE or (outcome == "deadline" and lost_time):
            return Ending.INFRASTRUCTURE
        case "shed":
            return Ending.REFUSED
        case _:
            # Memory that ran out after admission is refused as it would have been before.
            return Ending.REFUSED if code == "memory" else Ending.FAILED
