"""What is computed from measured numbers (pure): quantiles, spreads, ratios of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class NoSamplesError(ValueError):
    """There is nothing to compute from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where the samples lie."""

    median: float
    low: float
    """The smallest."""
    high: float
    """The largest."""
    count: int


def spread(values: Sequence[float]) -> Spread:
    """
    Say where samples lie; all of them count, none is an outlier.

    Raises:
        NoSamplesError: there are none.
    """
    return Spread(
        median=quantile(values, 0.5), low=quantile(values, 0), high=quantile(values, 1), count=len(values)
    )


def quantile(values: Sequence[float], q: float) -> float:
    """
    Return a quantile, interpolated linearly between the two samples around it.

    Args:
        values: At least one, in any order.
        q: Wanted quantile, 0 to 1.

    Raises:
        NoSamplesError: no values.

    Source:
        Hyndman & Fan, "Sample quantiles in statistical packages", definition 7 (numpy's default).
    """
    if not values:
        raise NoSamplesError(f"the {q:g}-quantile of no samples")
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
