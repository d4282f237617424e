"""Measures what a decode step costs on this device with this model, for the choice of groups."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Final

import mlx.core as mx

from wicketgate.engine.grouping import StepCost
from wicketgate.engine.mlx.caches import zeros

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.mlx.network import Network

ROWS: Final = 4
MOST_TOKENS: Final = 2048
MOST_BYTES: Final = 256 * 1024 * 1024
"""Of KV made up for the measurement."""
SHORT_TOKENS: Final = 16
PASSES: Final = 7
LEAST_RATIO: Final = 1e-6
"""A token of KV costs at least this share of a pass, where the difference is lost in noise."""


def measured_cost(network: Network, *, context_tokens: int, clock: Callable[[], float]) -> StepCost:
    """Return the measured cost, or the usual one for a model whose KV is more than one entry a token."""
    if not network.has_plain_cache:
        return StepCost()
    fitting = MOST_BYTES // (ROWS * max(1, network.kv_bytes_per_token))
    long_tokens = max(2 * SHORT_TOKENS, min(MOST_TOKENS, context_tokens, fitting))
    shapes = [(1, SHORT_TOKENS), (ROWS, SHORT_TOKENS), (ROWS, long_tokens)]
    with network.computing():
        alone_s, short_s, long_s = _pass_times(network, shapes, clock=clock)
    token_s = (long_s - short_s) / (ROWS * (long_tokens - SHORT_TOKENS))
    return StepCost(forward_s=alone_s, padded_token_s=max(token_s, alone_s * LEAST_RATIO))


def _pass_times(
    network: Network, shapes: Sequence[tuple[int, int]], *, clock: Callable[[], float]
) -> list[float]:
    """Time passes of (rows, tokens of KV), in turn, so that what else the machine does touches all alike."""
    made = [zeros(network, rows=rows, tokens=tokens) for rows, tokens in shapes]
    times: list[list[float]] = [[] for _ in shapes]
    for _ in range(PASSES):
        for (rows, _), cache, seen in zip(shapes, made, times, strict=True):
            began_s = clock()
            mx.eval(network.logits(mx.zeros((rows, 1), dtype=mx.int32), cache))
            seen.append(clock() - began_s)
    return [statistics.median(seen) for seen in times]
