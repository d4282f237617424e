"""What the guards of a rollout are told to hold, and how they answer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Arm(StrEnum):
    """The side of a feature that a request is on."""

    CANARY = "canary"
    CONTROL = "control"


class Guard(StrEnum):
    """The tests that may take a feature back or pause it."""

    ERRORS = "errors"
    """Canary failures against the limit: rolls back."""
    RELATIVE = "relative"
    """Canary failures against control's: rolls back, or pauses while the canary is below the limit."""
    REFUSED = "refused"
    """Canary refusals against control's: pauses."""
    TTFT = "ttft"
    """Canary's time to first token beyond the tolerance: pauses."""
    TTFT_FAR = "ttft_far"
    """Beyond `rollback_at_ratio`: rolls back."""
    ITL = "itl"
    """Canary's time per token after the first beyond the tolerance: pauses."""
    ITL_FAR = "itl_far"
    """Beyond `rollback_at_ratio`: rolls back."""
    SHARE = "share"
    """The canary's part of the keys is not its share: blocks promotion and alerts."""


class Attribution(StrEnum):
    """Whose failures they were."""

    CANARY = "canary"
    SHARED = "shared"
    INFRASTRUCTURE = "infrastructure"
    UNKNOWN = "unknown"


SPENDING: Mapping[Guard, float] = MappingProxyType(
    {
        Guard.ERRORS: 0.5,
        Guard.RELATIVE: 0.2,
        Guard.TTFT_FAR: 0.1,
        Guard.ITL_FAR: 0.1,
        # These roll nothing back; each has a risk of its own.
        Guard.REFUSED: 0.2,
        Guard.TTFT: 0.2,
        Guard.ITL: 0.2,
        Guard.SHARE: 1.0,
    }
)
"""Part of `false_rollback_ratio` that a guard may spend; a tenth is kept for single nodes of a cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyParams:
    """How much slower a canary may be."""

    tolerance_ratio: float = 0.05
    """Slower by more than this pauses."""
    rollback_at_ratio: float = 0.5
    """Slower by more than this rolls back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardParams:
    """What the guards hold."""

    error_limit_ratio: float = 0.001
    """Failure rate of the canary that is still allowed."""
    false_rollback_ratio: float = 0.001
    """Chance that a stage of a healthy feature is rolled back all the same."""
    false_promotion_ratio: float = 0.01
    """Chance that a stage is left upward although the failure rate is at `promote_below_percent`."""
    ttft: LatencyParams = LatencyParams()
    itl: LatencyParams = LatencyParams()
    holds_on_shared_incident: bool = False
    """What fails in both arms holds the stage instead of rolling it back."""
    rolls_back_direct: bool = False
    """A direct feature at 100 %, which has no control, is rolled back too, not only alerted."""
    failures_per_key: int = 2
    """Failures of one key that count in a stage: one broken session is no broken feature."""
    fresh_within_s: float = 600.0
    """The hold clock runs while the last canary request ended within this time."""

    def alpha(self, guard: Guard) -> float:
        """Return a guard's chance of a false alarm in a stage."""
        return self.false_rollback_ratio * SPENDING[guard]

    def limit(self, guard: Guard) -> float:
        """Return the evidence at which a guard acts."""
        return 1 / self.alpha(guard)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a guard has to say."""

    guard: Guard
    evidence: float
    """1 says nothing."""
    limit: float
    """It acts from here on."""

    @property
    def is_tripped(self) -> bool:
        """Whether it acts."""
        return self.evidence >= self.limit

    @property
    def meter_ratio(self) -> float:
        """How far it is, on a logarithmic scale: 0 to 1."""
        return min(1.0, max(0.0, math.log(max(self.evidence, 1.0)) / math.log(self.limit)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """How many requests of one arm ended in a stage."""

    finished: int = 0
    """Ended well."""
    failed: int = 0
    """Failures of its own, beyond the cap by key too."""
    counted_failures: int = 0
    """Those that the guards took in."""
    refused: int = 0
    infrastructure: int = 0
    """Lost with the engine host, or in a drain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a stage has shown so far, for decisions, screens and the audit."""

    readings: Mapping[Guard, Reading] = field(default_factory=lambda: MappingProxyType({}))
    canary: ArmCounts = ArmCounts()
    control: ArmCounts = ArmCounts()
    canary_upper_ratio: float = 1.0
    """95 % upper bound of the canary's failure rate."""
    promotion_evidence: float = 1.0
    """Against a failure rate of `promote_below_percent` or more; 1/false_promotion_ratio excludes it."""
    faster_ttft_evidence: float = 1.0
    """That canary requests get their first token sooner than control's."""
    throughput_evidence: float = 1.0
    """That canary requests get their tokens faster than control's by the wanted gain."""
    served_s: float = 0.0
    """Hold served: time with fresh data."""
    quiet_s: float = 0.0
    """Hold served since the last trouble that the stage asks to be without."""
    attribution: Attribution = Attribution.UNKNOWN
    needed_requests: int = 0
    """Clean canary requests still missing to exclude `promote_below_percent`; 0 when none."""
    canary_per_s: float = 0.0
    """Canary requests a second while the hold clock ran."""
