"""
The guard on failures: an anytime-valid test of a canary's failure rate against the rate that is allowed.

Null hypothesis: whatever came before, a request fails with a probability of at most the limit. Neither
independence nor a sample size is asked for, and it may be looked at after every request.

Source:
    Alternatives and weights: simulated stages at 10 and 100 requests/s, see `bench/guards.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from rollout.eprocess import EProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHTS: Final = (0.15, 0.25, 0.2, 0.15, 0.25)
_ALTERNATIVES: Final = (0.002, 0.005, 0.02, 0.1, 0.9)
"""Failure rates that the wealth is bet on ..."""
_THEIR_LIMIT: Final = 0.001
"""... at this limit. Those of another limit lie likewise between it and the last of them, in log odds."""
_LOWEST: Final = 1e-9
_HIGHEST: Final = 1 - 1e-9
"""A limit outside of these is taken for the nearest: nothing may fail, or everything may."""
_LOG_LARGEST: Final = 280 * math.log(10)
"""No more failures are taken in at once than have this factor; floats end at 308 powers of ten."""


def alternatives(limit_ratio: float) -> tuple[float, ...]:
    """
    Choose the failure rates to bet on.

    Args:
        limit_ratio: Failure rate that is allowed, above 0 and below 1.

    Returns:
        Rising, above the limit and below 1.
    """
    low, their_low = _log_odds(limit_ratio), _log_odds(_THEIR_LIMIT)
    their_high = _log_odds(_ALTERNATIVES[-1])
    stretch = (max(their_high, low + math.log(2)) - low) / (their_high - their_low)
    return tuple(
        1 / (1 + math.exp(-(low + stretch * (_log_odds(each) - their_low)))) for each in _ALTERNATIVES
    )


class ErrorGuard:
    """
    Evidence that requests fail more often than allowed.

    Args:
        limit_ratio: Failure rate that is allowed, above 0, at most 1 (which allows everything).
        document: What `document()` gave before a restart; None begins anew.

    Raises:
        ValueError: no such limit, or a document of another shape or against another limit.
    """

    __slots__ = ("_at_once", "_factors", "_limit_ratio", "_process")

    def __init__(self, limit_ratio: float, document: Mapping[str, object] | None = None) -> None:
        if not 0 < limit_ratio <= 1:
            raise ValueError(f"limit_ratio must be above 0 and at most 1, got {limit_ratio}")
        if document is not None and document.get("limit_ratio") != limit_ratio:
            raise ValueError(f"no evidence against a limit of {limit_ratio}: {dict(document)}")
        limit = min(max(limit_ratio, _LOWEST), _HIGHEST)
        self._limit_ratio = limit_ratio
        self._factors = tuple(((1 - each) / (1 - limit), each / limit) for each in alternatives(limit))
        self._at_once = int(_LOG_LARGEST / math.log(self._factors[-1][1]))
        self._process = EProcess(_WEIGHTS, document)

    def observe(self, passed: int, failed: int) -> None:
        """
        Take requests in, in the time of one: those that passed first.

        Args:
            passed: Requests that ended well.
            failed: Requests that failed.
        """
        while failed > self._at_once:
            self._multiply(passed, self._at_once)
            passed, failed = 0, failed - self._at_once
        self._multiply(passed, failed)

    def _multiply(self, passed: int, failed: int) -> None:
        self._process.multiply([well**passed * badly**failed for well, badly in self._factors])

    def advance(self, progress: float) -> None:
        """
        Lay stake down. Call it by the clock, never because of what was observed.

        Args:
            progress: Hold served over hold planned.
        """
        self._process.advance(progress)

    @property
    def evidence(self) -> float:
        """1 says nothing; at 1/alpha the limit is exceeded, but for a chance of alpha."""
        return self._process.evidence

    def document(self) -> dict[str, object]:
        """Return what `ErrorGuard` can go on from."""
        return {"limit_ratio": self._limit_ratio, **self._process.document()}


def _log_odds(ratio: float) -> float:
    return math.log(ratio / (1 - ratio))
