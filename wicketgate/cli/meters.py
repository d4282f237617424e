"""Meters and figures of a rollout, from the rows of `GET /v1/rollout`: pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from wicketgate.cli.output import EN_DASH, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FULL, EMPTY = "█", "░"
WARMING = 20.0
"""Evidence from which a meter is amber: promotion stops here too."""
CLEAR, WARM, TRIPPED = "clear", "warming", "TRIPPED"
ROLES = {CLEAR: "ok", WARM: "warn", TRIPPED: "bad", EN_DASH: "dim"}
"""The colour of each word."""


class Gauge(NamedTuple):
    """One line of guards."""

    name: str
    guards: tuple[str, ...]
    """The line shows the one that is nearest to acting."""
    acts: str
    """What it does then."""


GAUGES = (
    Gauge("errors", ("errors",), "rolls back"),
    Gauge("vs control", ("relative",), "rolls back"),
    Gauge("refused", ("refused",), "pauses"),
    Gauge("TTFT, ITL", ("ttft", "itl"), "pauses"),
    Gauge("far slower", ("ttft_far", "itl_far"), "rolls back"),
    Gauge("share", ("share",), "blocks promotion"),
)
"""Every guard, in the order in which they are shown."""
ALL = tuple(guard for gauge in GAUGES for guard in gauge.guards)

_SAYS = {
    "refused": "more were refused than in control",
    "ttft": "the first token comes later than in control",
    "ttft_far": "the first token comes far later than in control",
    "itl": "tokens come slower than in control",
    "itl_far": "tokens come far slower than in control",
    "share": "the part of the keys that is on is not the share",
}
_WHOSE = {
    "canary": "only the canary failed",
    "shared": "control failed as well",
    "infrastructure": "the engine host was lost",
}


def bar(ratio: float, width: int) -> str:
    """Draw a meter; it is full only at 1, and never empty above 0.5 % of it."""
    filled = round(ratio * width)
    if ratio < 1:
        filled = min(filled, width - 1)
    return (FULL * max(0, filled)).ljust(width, EMPTY)[:width]


def meter_ratio(reading: Mapping[str, Any]) -> float:
    """Tell how far a guard is from acting: log e over log(1/alpha), cut to 0 to 1."""
    return min(1.0, max(0.0, math.log(max(reading["evidence"], 1.0)) / math.log(reading["limit"])))


def word(reading: Mapping[str, Any] | None) -> str:
    """Say where a guard stands: clear, warming, TRIPPED; a dash where nothing is known."""
    if reading is None:
        return EN_DASH
    if reading["evidence"] >= reading["limit"]:
        return TRIPPED
    return WARM if reading["evidence"] >= WARMING else CLEAR


def nearest(
    findings: Mapping[str, Any] | None, guards: Sequence[str] = ALL
) -> tuple[str, Mapping[str, Any]] | None:
    """Find the guard that is nearest to acting, and its reading; None where nothing is known."""
    readings = (findings or {}).get("readings") or {}
    found = [(name, each) for name, each in readings.items() if name in guards]
    return max(found, key=lambda each: meter_ratio(each[1]), default=None)


def guard_word(row: Mapping[str, Any]) -> str:
    """Say in one word where the guards of a feature stand."""
    if row.get("phase") == "rolled_back":
        return TRIPPED if str(row.get("actor") or "").startswith("auto:") else EN_DASH
    found = nearest(row.get("findings"))
    return word(None if found is None else found[1])


def why(findings: Mapping[str, Any], guard: str) -> str:
    """Say why a guard tripped: `3 of 9 failed; evidence 2 140 to 1; only the canary failed`."""
    parts = [_SAYS.get(guard, guard), f"evidence {evidence(findings['readings'][guard]['evidence'])} to 1"]
    if guard in ("errors", "relative"):
        parts[0] = failures(findings)
        parts += [_WHOSE[each] for each in (str(findings.get("attribution")),) if each in _WHOSE]
    return "; ".join(parts)


def failures(findings: Mapping[str, Any]) -> str:
    """Write how many of the canary's requests failed."""
    canary = findings["canary"]
    return f"{number(canary['failed'])} of {number(ended(canary))} failed"


def ended(arm: Mapping[str, Any]) -> int:
    """Count the requests of an arm that ended, well or not."""
    return int(arm["finished"]) + int(arm["failed"])


def evidence(value: float) -> str:
    """Write evidence: whole from ten on, as a power of ten where it is too long to read."""
    if value >= 1e7:
        return f"10^{math.log10(value):.0f}"
    return number(round(value)) if value >= 10 else f"{value:.1f}"


def bound(ratio: float) -> str:
    """Write a bound of a rate as a percentage of two figures."""
    percentage = 100 * ratio
    if percentage >= 10:
        return f"{percentage:.0f} %"
    return f"{percentage:.2g} %" if percentage >= 0.001 else "0.001 %"
