"""
The evidence that lets a stage be left upward: requests fail less often than a rate that must be excluded.

Null hypothesis: whatever came before, a request fails with a probability of at least that rate. The evidence
is a plain mixture of likelihood ratios, a function of two counts; unlike a guard's it bets nothing on a later
change. Evidence against every rate at once makes a confidence bound that holds at all times; so it also stays
valid when the rate to exclude is changed half-way.

Source:
    The alternatives were found by search: a clean stage of 1 076 requests
    excludes 0.5 %, and of all such the chance of excluding 0.1 % with 8 640 requests is nearly the best
    (56 % at a failure rate of 0.02 %, 12 % at 0.05 %).
"""

from __future__ import annotations

import math
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Final

from rollout.saved import whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ALTERNATIVES: Final = ((0.702, 0.1), (0.218, 0.3), (0.06, 0.6), (0.02, 0.85))
"""Weight, and failure rate as a part of the rate to exclude."""
_HIGHEST: Final = 1 - 1e-9
"""Excluding 1 means that something passed; nearly 1 has odds."""
_LARGEST: Final = 280 * math.log(10)
"""Of the logarithm of evidence."""


class PromotionEvidence:
    """
    Evidence that requests fail less often than a rate.

    Args:
        below_ratio: The rate to exclude, above 0, at most 1.
        document: What `document()` gave before a restart, at whatever rate; None begins anew.

    Raises:
        ValueError: no such rate, or a document of another shape.
    """

    __slots__ = ("_below_ratio", "_failed", "_passed")

    def __init__(self, below_ratio: float, document: Mapping[str, object] | None = None) -> None:
        _check(below_ratio)
        self._below_ratio = below_ratio
        self._passed, self._failed = (0, 0) if document is None else _restored(document)

    def observe(self, passed: int, failed: int) -> None:
        """
        Take requests in; their order does not matter.

        Args:
            passed: Requests that ended well.
            failed: Requests that failed, all of them: a cap by key is for guards.
        """
        self._passed += passed
        self._failed += failed

    @property
    def evidence(self) -> float:
        """1 says nothing; at 1/beta the rate is excluded, but for a chance of beta."""
        return _evidence(self._below_ratio, self._passed, self._failed)

    def document(self) -> dict[str, object]:
        """Return what `PromotionEvidence` can go on from."""
        return {"passed": self._passed, "failed": self._failed}


def needed_requests(below_ratio: float, passed: int, failed: int, limit: float) -> int:
    """
    Count the requests that must still pass, with none failing, until a rate is excluded.

    Args:
        below_ratio: The rate to exclude, above 0, at most 1.
        passed: Requests that ended well so far.
        failed: Requests that failed so far.
        limit: Evidence that is asked for, 1/beta.

    Returns:
        0 when the evidence is there.

    Raises:
        ValueError: no such rate.
    """
    _check(below_ratio)
    hazard = -math.log1p(-min(below_ratio, _HIGHEST))
    logs = [_log_share(weight, part, hazard, passed, failed) for weight, part in _ALTERNATIVES]
    slopes = [_pass_log(part, hazard) for _, part in _ALTERNATIVES]
    # Convex in the requests that pass, and rising: after its first step Newton's method comes from above.
    more, step = 0.0, 1.0
    while abs(step) > 1e-9 * max(1.0, abs(more)):
        value, slope = _log_sum([log + more * each for log, each in zip(logs, slopes, strict=True)], slopes)
        step = (value - math.log(limit)) / slope
        more -= step
    needed = max(0, math.ceil(more) - 1)
    while _evidence(below_ratio, passed + needed, failed) < limit:
        needed += 1
    return needed


@lru_cache(maxsize=64)  # a decision asks for the same bound three times over
def upper_bound_ratio(passed: int, failed: int, risk_ratio: float = 0.05) -> float:
    """
    Bound a failure rate from above, by a bound that holds at all times at once.

    Args:
        passed: Requests that ended well.
        failed: Requests that failed.
        risk_ratio: Chance that the rate ever is above the bound, above 0 and below 1.

    Returns:
        The lowest rate that is excluded with evidence of 1/risk_ratio; 1 when nothing passed.
    """
    if passed == 0:
        return 1.0
    # Over the hazard -log(1 - rate) the logarithm of evidence is convex, and its slope between 0.15 and 1
    # times `passed`: after its first step Newton's method comes from above, and needs four or five of them.
    hazard, step = -math.log1p(-failed / (passed + failed)), 1.0
    while abs(step) > 1e-12 * hazard:
        logs = [_log_share(weight, part, hazard, passed, failed) for weight, part in _ALTERNATIVES]
        value, slope = _log_sum(logs, [_slope(part, hazard, passed) for _, part in _ALTERNATIVES])
        step = (value + math.log(risk_ratio)) / slope
        hazard -= step
    return -math.expm1(-hazard)


def _evidence(below_ratio: float, passed: int, failed: int) -> float:
    """In logarithms: with a million requests the factors leave the range of floats."""
    hazard = -math.log1p(-min(below_ratio, _HIGHEST))
    return sum(
        math.exp(min(_LARGEST, _log_share(weight, part, hazard, passed, failed)))
        for weight, part in _ALTERNATIVES
    )


def _log_share(weight: float, part: float, hazard: float, passed: int, failed: int) -> float:
    """Logarithm of what one alternative adds to the evidence; the rate to exclude is 1 - exp(-hazard)."""
    return math.log(weight) + failed * math.log(part) + passed * _pass_log(part, hazard)


def _pass_log(part: float, hazard: float) -> float:
    """Logarithm of an alternative's factor for a request that passes."""
    return math.log1p(part * math.expm1(-hazard)) + hazard


def _log_sum(logs: Sequence[float], slopes: Sequence[float]) -> tuple[float, float]:
    """Return the logarithm of a sum given by logarithms, and its derivative given theirs."""
    highest = max(logs)
    shares = [math.exp(each - highest) for each in logs]
    total = sum(shares)
    return highest + math.log(total), sum(map(mul, shares, slopes)) / total


def _slope(part: float, hazard: float, passed: int) -> float:
    """Derivative of `_log_share` by the hazard."""
    return passed * (1 - part * math.exp(-hazard) / (1 + part * math.expm1(-hazard)))


def _check(below_ratio: float) -> None:
    if not 0 < below_ratio <= 1:
        raise ValueError(f"below_ratio must be above 0 and at most 1, got {below_ratio}")


def _restored(document: Mapping[str, object]) -> tuple[int, int]:
    return whole(document, "passed"), whole(document, "failed")
