"""
Slices of load, taken in turns from two arms, and what pairs of them say (pure).

Theory of operation. The machine's speed drifts, so absolute figures of different minutes cannot be compared.
Each slice of the served arm stands beside one of the raw arm, in the order A B B A, so that a steady drift
cancels; every figure is the median over such pairs of a ratio or a difference.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from bench.statistics import Spread, quantile, spread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIN_PAIRS: Final = 10
"""Fewer say nothing (research: a median of 10 pairs finds 20 % on a noisy machine)."""
MAX_LATENESS_S: Final = 0.005
"""How late requests are sent (99th percentile of a slice, median over slices) must stay below this or ..."""
MAX_LATENESS_OF_TTFT: Final = 0.01
"""... this share of the median time to first token. The median, as of all figures: one slice in which the
machine took the load client's core away moves none of them."""
MAX_CLIENT_CPU: Final = 0.6
"""Of one core; a busier load client measures itself."""


class Arm(StrEnum):
    """What a slice of load is given to."""

    RAW = "raw"
    """mlx-lm's BatchGenerator by itself."""
    SERVED = "served"
    """The whole stack, over HTTP."""


BLOCK: Final = (Arm.RAW, Arm.SERVED, Arm.SERVED, Arm.RAW)
"""The order of slices; two pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A few bursts of requests at once, one burst after the other."""

    arm: Arm
    concurrency: int
    """Requests of one burst."""
    order: int
    """Number among the slices of this concurrency, from 0."""
    began_s: float
    """Since the measurement began."""
    duration_s: float
    """Of all bursts, what lies between them left out."""
    offered: int
    """Requests sent."""
    ok: int
    """Of those, answered with as many tokens as asked for."""
    tokens: int
    """Generated."""
    ttft_s: tuple[float, ...]
    """From when each request was due to its first token."""
    tpot_s: tuple[float, ...] = ()
    """Time per token after the first, of each request."""
    lateness_s: tuple[float, ...] = ()
    """From when each request was due to its last byte sent."""
    client_cpu_s: float = 0.0
    gateway_cpu_s: float = 0.0
    host_cpu_s: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second, prefill included."""
        return self.tokens / self.duration_s

    @property
    def ttft_p50_s(self) -> float:
        """Median time to first token."""
        return quantile(self.ttft_s, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The two arms at one concurrency."""

    concurrency: int
    ratio: Spread
    """Tokens a second, served over raw, of each pair."""
    ttft_overhead_s: Spread
    """Median time to first token, served minus raw, of each pair."""
    raw_tokens_per_s: Spread
    served_tokens_per_s: Spread
    raw_ttft_s: Spread
    served_ttft_s: Spread
    gateway_cpu_s_per_token: float
    host_cpu_s_per_token: float
    client_cpu_ratio: float
    """Of one core, while served slices ran."""
    lateness_s: float
    """How late requests were sent: 99th percentile of a slice, median over slices."""


def pairs(slices: Sequence[Slice]) -> list[tuple[Slice, Slice]]:
    """
    Return neighbours of the two arms, (raw, served); what has no neighbour is left out.

    Args:
        slices: Of one concurrency, in the order in which they ran.
    """
    couples = zip(slices[::2], slices[1::2], strict=False)
    return [(a, b) if a.arm is Arm.RAW else (b, a) for a, b in couples if a.arm is not b.arm]


def by_concurrency(slices: Sequence[Slice]) -> dict[int, list[Slice]]:
    """Sort slices out by their concurrency."""
    sorted_out: dict[int, list[Slice]] = defaultdict(list)
    for each in slices:
        sorted_out[each.concurrency].append(each)
    return dict(sorted_out)


def compare(slices: Sequence[Slice]) -> Comparison:
    """
    Compare the arms.

    Args:
        slices: Of one concurrency, in the order in which they ran.

    Raises:
        NoSamplesError: there is no pair.
    """
    couples = pairs(slices)
    served = [b for _, b in couples]
    tokens = max(1, sum(each.tokens for each in served))

    def of(figure: Callable[[Slice, Slice], float]) -> Spread:
        return spread([figure(a, b) for a, b in couples])

    return Comparison(
        concurrency=slices[0].concurrency if slices else 0,
        ratio=of(lambda a, b: b.tokens_per_s / a.tokens_per_s),
        ttft_overhead_s=of(lambda a, b: b.ttft_p50_s - a.ttft_p50_s),
        raw_tokens_per_s=of(lambda a, _: a.tokens_per_s),
        served_tokens_per_s=of(lambda _, b: b.tokens_per_s),
        raw_ttft_s=of(lambda a, _: a.ttft_p50_s),
        served_ttft_s=of(lambda _, b: b.ttft_p50_s),
        gateway_cpu_s_per_token=sum(each.gateway_cpu_s for each in served) / tokens,
        host_cpu_s_per_token=sum(each.host_cpu_s for each in served) / tokens,
        client_cpu_ratio=sum(each.client_cpu_s for each in served) / sum(each.duration_s for each in served),
        lateness_s=quantile([quantile(each.lateness_s, 0.99) for each in served], 0.5),
    )


def faults(slices: Sequence[Slice]) -> list[str]:
    """
    Say why slices of one concurrency must not be believed; empty when they may.

    Args:
        slices: In the order in which they ran.
    """
    where = f"at concurrency {slices[0].concurrency}" if slices else "at no concurrency"
    found = []
    for arm in Arm:
        offered = sum(each.offered for each in slices if each.arm is arm)
        ok = sum(each.ok for each in slices if each.arm is arm)
        if ok < offered:
            found.append(
                f"{offered - ok} of {offered} {arm} requests {where} did not give what was asked for"
            )
    couples = pairs([each for each in slices if each.ok])
    if len(couples) < MIN_PAIRS:
        found.append(f"{len(couples)} pairs {where} are too few; at least {MIN_PAIRS} are needed")
    if not couples:
        return found
    compared = compare(slices)
    bound_s = max(MAX_LATENESS_S, MAX_LATENESS_OF_TTFT * compared.served_ttft_s.median)
    if compared.lateness_s > bound_s:
        late_ms = 1000 * compared.lateness_s
        found.append(f"requests {where} were sent {late_ms:.1f} ms late; at most {1000 * bound_s:.1f}")
    if compared.client_cpu_ratio > MAX_CLIENT_CPU:
        share = 100 * compared.client_cpu_ratio
        found.append(
            f"the load client {where} used {share:.0f} % of a core; at most {100 * MAX_CLIENT_CPU:.0f} %"
        )
    return found
