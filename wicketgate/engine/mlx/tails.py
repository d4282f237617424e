"""Which candidates a distribution can do without, for many rows at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import mlx.core as mx

if TYPE_CHECKING:
    from collections.abc import Sequence

SORTED_TOKENS: Final = 64
"""So few candidates are sorted; more are first halved."""


def beyond_rank(scores: mx.array, bounds: Sequence[tuple[int, float]]) -> mx.array:
    """
    Tell which candidates top_k cuts off, and top_p within what it leaves; of equals at the edge none.

    Args:
        scores: (rows, vocabulary) float32.
        bounds: How many candidates each row keeps, from 1 to the vocabulary, and which share of their mass.

    Returns:
        (rows, vocabulary) bool.
    """
    count = max(most for most, _ in bounds)
    best = -mx.sort(mx.partition(-scores, count - 1, axis=-1)[:, :count], axis=-1)
    is_within = mx.arange(count) < mx.array([[most] for most, _ in bounds])
    weights = mx.where(is_within, mx.exp(best - best[:, :1]), 0.0)
    # All of the mass is more than rounding can make of it.
    shares = mx.array([[mass if mass < 1.0 else math.inf] for _, mass in bounds])
    better_mass = mx.cumsum(weights, axis=-1, inclusive=False)
    is_kept = is_within & (better_mass < shares * weights.sum(axis=-1, keepdims=True))
    kept = mx.maximum(is_kept.sum(axis=-1, keepdims=True), 1)
    return scores < mx.take_along_axis(best, kept - 1, axis=-1)


def beyond_nucleus(scores: mx.array, masses: Sequence[float]) -> mx.array:
    """
    Tell which candidates top_p cuts off; of equals at its edge none.

    A candidate stays when the better ones have not reached the mass yet; the best one always does. Of half of
    the candidates that are better than the other half it is enough to know the mass to tell in which half the
    worst one is, so the search goes on in that one. Halving by partition takes a third of the time of sorting
    all, with the same result (32 rows of 1,536, 4,096 and 32,000, Linux CPU).

    Args:
        scores: (rows, vocabulary) float32.
        masses: Share of the whole that each row keeps, from 0 to below 1.

    Returns:
        (rows, vocabulary) bool.
    """
    weights = mx.exp(scores - mx.max(scores, axis=-1, keepdims=True))
    wanted = mx.array([[mass] for mass in masses]) * weights.sum(axis=-1, keepdims=True)
    rest = weights
    while (size := rest.shape[1]) > SORTED_TOKENS:
        half = size // 2
        parted = mx.partition(rest, half, axis=-1)
        worse, better = parted[:, :half], parted[:, half:]
        if size % 2:
            worse = mx.concatenate([mx.zeros_like(worse[:, :1]), worse], axis=1)
        mass = better.sum(axis=-1, keepdims=True)
        is_better = wanted <= mass
        rest = mx.where(is_better, better, worse)
        wanted = mx.where(is_better, wanted, wanted - mass)
    best_first = -mx.sort(-rest, axis=-1)
    better_mass = mx.cumsum(best_first, axis=-1, inclusive=False)
    count = mx.maximum((better_mass < wanted).sum(axis=-1, keepdims=True), 1)
    return weights < mx.take_along_axis(best_first, count - 1, axis=-1)
