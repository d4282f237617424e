"""
Evidence that may be looked at after every observation: a mixture of Shiryaev-Roberts e-processes.

Theory of operation: one alternative j multiplies its wealth by a likelihood ratio at every observation. A
plain product goes blind after hours of health: all its wealth is lost by the time that something breaks. So
only half of the stake is laid down at the start. The rest is laid down by and by on a schedule that depends
on time alone (`laid_out_ratio`), and what was laid down late has lost little. The evidence is

    e = sum over j of weight_j * wealth_j, plus the stake that is not laid down yet.

Under the null hypothesis e is a non-negative supermartingale that begins at 1, so it ever reaches 1/alpha
with a probability of at most alpha (Ville), however often it is looked at. Without observations it stays
where it is.

Source:
    Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change detection".
"""

from __future__ import annotations

import math
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LARGEST = 1e280
"""Wealth stops growing here: far past every threshold, and no float overflows."""


def laid_out_ratio(progress: float) -> float:
    """
    Tell which part of the stake is laid down: a half at once, a quarter over the plan, a quarter afterwards.

    Args:
        progress: Time served over time planned, 0 or more; beyond 1 every doubling gets half of what is left.

    Returns:
        0.5 to 1.
    """
    if progress <= 1:
        return 0.5 + 0.25 * progress
    return 1 - 0.25 / progress


class EProcess:
    """
    The wealth of several alternatives against one null hypothesis.

    Args:
        weights: Of the alternatives; they add up to 1.
        document: What `document()` gave before a restart; None begins anew.

    Raises:
        ValueError: a document of another shape.
    """

    __slots__ = ("_laid", "_wealth", "_weights")

    def __init__(self, weights: Sequence[float], document: Mapping[str, object] | None = None) -> None:
        if not weights or any(each <= 0 for each in weights) or abs(sum(weights) - 1) > 1e-9:
            raise ValueError(f"weights must be above 0 and add up to 1, got {list(weights)}")
        self._weights = tuple(weights)
        self._laid = laid_out_ratio(0)
        self._wealth = [self._laid] * len(self._weights)
        if document is not None:
            self._laid, self._wealth = _restored(document, len(self._weights))

    def advance(self, progress: float) -> None:
        """
        Lay down what the schedule has come to. Call it by the clock, never because of what was observed.

        Args:
            progress: Time served over time planned; one that went back lays down nothing.
        """
        more = laid_out_ratio(progress) - self._laid
        if more > 0:
            self._laid += more
            self._wealth = [each + more for each in self._wealth]

    def multiply(self, ratios: Sequence[float]) -> None:
        """
        Take an observation, or many, in.

        Args:
            ratios: Of each alternative, the likelihood of what was seen over its likelihood under the null;
                finite.

        Raises:
            ValueError: not one ratio for each alternative.
        """
        if len(ratios) != len(self._wealth):
            raise ValueError(f"there are {len(self._wealth)} alternatives, got ratios {list(ratios)}")
        # map() and max() take 0.4 of the time of a comprehension with min() (measured in turns).
        self._wealth = list(map(mul, self._wealth, ratios))
        if max(self._wealth) > _LARGEST:
            self._wealth = [min(each, _LARGEST) for each in self._wealth]

    @property
    def evidence(self) -> float:
        """How many times the stake has grown; 1 says nothing, 1/alpha decides."""
        grown: float = sum(map(mul, self._weights, self._wealth))
        return grown + (1 - self._laid)

    def document(self) -> dict[str, object]:
        """Return what `EProcess` can go on from."""
        return {"laid": self._laid, "wealth": list(self._wealth)}


def _restored(document: Mapping[str, object], alternatives: int) -> tuple[float, list[float]]:
    laid, wealth = document.get("laid"), document.get("wealth")
    if not isinstance(laid, float) or not isinstance(wealth, list) or len(wealth) != alternatives:
        raise ValueError(f"no evidence of {alternatives} alternatives: {dict(document)}")
    if not 0.5 <= laid <= 1 or not all(isinstance(each, float) and 0 <= each <= _LARGEST for each in wealth):
        raise ValueError(f"evidence out of range: {dict(document)}")
    return laid, list(wealth)


def log10(evidence: float) -> float:
    """Write evidence as a power of ten; what is below 1e-30 is -30."""
    return math.log10(max(evidence, 1e-30))
