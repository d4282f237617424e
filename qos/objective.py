"""
Objectives: what was promised, when an event keeps the promise, and how sure it is that it is broken.

A promise such as "p95 of TTFT is at most 0.55 s" is judged as a count: at most 5 % of the events are
worse. Comparing an estimated p95 with its bound would raise hundreds of false alarms a day.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from qos.bounds import OutOfBoundsError, require_bounds


class Signal(StrEnum):
    """What an objective looks at."""

    TTFT = "ttft"
    """Time to first token; an event is a request."""
    ITL = "itl"
    """Gap between two tokens of a stream; an event is a token."""
    ERROR = "error"
    """Failure; an event is a finished or failed request."""
    THROUGHPUT = "throughput"
    """Tokens per second; an event is one tick during which somebody was waiting."""


_THRESHOLD_OF = {Signal.TTFT: "threshold_s", Signal.ITL: "threshold_s", Signal.THROUGHPUT: "threshold_tps"}
_BAD = {
    Signal.TTFT: "requests waited more than {:g} s for their first token",
    Signal.ITL: "tokens came more than {:g} s after the one before",
    Signal.ERROR: "requests failed",
    Signal.THROUGHPUT: "ticks with requests waiting made fewer than {:g} tokens a second",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A promise: at least this share of the events is good."""

    name: str
    """Unique among the objectives."""
    signal: Signal
    """What it looks at."""
    target_ratio: float
    """Wanted share of good events; 0.95 makes a promise about the p95."""
    threshold_s: float | None = None
    """For ttft and itl: an event is good up to this."""
    threshold_tps: float | None = None
    """For throughput: an event is good from this on, in tokens per second."""
    min_events: int = 20
    """Fewer events than this in the window are no data."""

    def __post_init__(self) -> None:
        require_bounds(self, target_ratio=(0.5, 0.99999), min_events=(1, 1_000_000))
        for field in ("threshold_s", "threshold_tps"):
            value = getattr(self, field)
            if field != _THRESHOLD_OF.get(self.signal):
                if value is not None:
                    raise OutOfBoundsError(field=field, value=value, bound=f"absent for signal {self.signal}")
            elif value is None or not 0.0 < value < math.inf:
                raise OutOfBoundsError(field=field, value=value, bound=f"above 0 for signal {self.signal}")

    @property
    def threshold(self) -> float:
        """The threshold of the signal, in its unit; 0 for errors: good is no failure."""
        return self.threshold_s or self.threshold_tps or 0.0

    @property
    def budget_ratio(self) -> float:
        """Allowed share of bad events."""
        return 1.0 - self.target_ratio

    def is_good(self, value: float) -> bool:
        """Say whether an event keeps the promise: seconds, tokens per second, or 1 for a failure."""
        if self.signal is Signal.THROUGHPUT:
            return value >= self.threshold
        return value <= self.threshold

    def explain(self, *, bad: int, total: int, span_s: float) -> str:
        """Say in one sentence how many events were bad, and how many may be; total is above 0."""
        what = _BAD[self.signal].format(self.threshold)
        return f"{bad} of {total} {what} in {span_s:g} s ({bad / total:.1%}, allowed {self.budget_ratio:.2%})"


def burn_rate(*, bad: int, total: int, target_ratio: float) -> float | None:
    """Return the bad share over the allowed one: 1 spends the budget exactly on time; None without data."""
    return bad / total / (1.0 - target_ratio) if total else None


def evidence_nats(*, bad: int, total: int, budget_ratio: float, phi: float = 1.0) -> float:
    """
    Weigh the evidence that the true bad share is above the budget.

    Args:
        bad: Bad events, 0 to total.
        total: All events.
        budget_ratio: Allowed bad share, above 0 and below 1.
        phi: Burstiness: how many events count as one independent event, at least 1.

    Returns:
        total / phi * KL(bad / total || budget) in nats while the share is above the budget, else 0.
        exp(-evidence) bounds the chance of so many bad events on a budget just kept.

    Source:
        Chernoff's bound on the binomial tail.
    """
    if bad <= total * budget_ratio:
        return 0.0
    share = bad / total
    divergence = share * math.log(share / budget_ratio)
    if bad < total:
        divergence += (1.0 - share) * math.log((1.0 - share) / (1.0 - budget_ratio))
    return total / phi * divergence
