"""
The guard on failures and the evidence for promotion, as shipped, beside their bars.

Run as `python -m bench.guards [errors | detection | promotion | cost]`. Exit code 1: a bar was missed.
`errors` takes some five minutes of a core; `--seeds 0:50` and then `--seeds 50:100`, anywhere, do the same
(a seed is 1,000 stages). A stage is a day at 1 % of 10 or 100 requests a second: 8,640 or 86,400 requests.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
import timeit
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import mmh3

from bench.statistics import quantile
from rollout.error_guard import ErrorGuard
from rollout.guards import Guard, GuardParams
from rollout.promotion import PromotionEvidence, needed_requests, upper_bound_ratio
from rollout.simulation import Ending, SimulationParams, failing_requests, play, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STAGES_PER_SEED: Final = 1000
SESSION_REQUESTS: Final = 10
POISON_RATIO: Final = 0.0002
"""Part of the sessions of which every request fails, in both arms."""
HEALTHY_RATIO: Final = 0.0002
"""Failure rate before something breaks, and beside the poison sessions."""
COARSE: Final = 0.8
"""Takes half the time of what `simulate` does, and rolls back more rather than less."""
FINE: Final = 0.2
"""Understates delays by less than 1 %."""
STEPS: Final = 15
"""Rounds of timing, in turns with the yardstick."""
CALLS: Final = 2000


def stage(rate_ratio: float, *, per_s: float, later_ratio: float | None = None) -> SimulationParams:
    """Return a canary stage of a day at 1 % of so many requests a second."""
    return SimulationParams(
        rate_ratio=rate_ratio,
        canary_per_s=per_s / 100,
        hold_s=86_400.0,
        promote_below_ratio=0.005,
        later_rate_ratio=later_ratio,
        stretch_ratio=COARSE,
    )


def with_poison_sessions(params: SimulationParams, draw: Callable[[], float]) -> Iterator[int]:
    """
    Draw which of the counted requests fail: single ones, and the first ones of a poison session, in a row.

    What a session fails beyond the cap is not counted and has no number.
    """
    cap = params.guard.failures_per_key
    sessions = replace(params, rate_ratio=POISON_RATIO, canary_per_s=params.canary_per_s / SESSION_REQUESTS)
    begins = (
        number * SESSION_REQUESTS - earlier * (SESSION_REQUESTS - cap)
        for earlier, number in enumerate(failing_requests(sessions, draw))
    )
    poisoned = (begin + more for begin in begins for more in range(cap))
    last = -1
    for number in heapq.merge(failing_requests(params, draw), poisoned):
        if last < number < params.requests:
            yield number
            last = number


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseRollback:
    """A healthy stage that should not be rolled back."""

    name: str
    params: SimulationParams
    bar: float
    """The largest part of the stages that may be."""
    failing: Callable[[SimulationParams, Callable[[], float]], Iterator[int]] = failing_requests


ERRORS: Final = (
    FalseRollback(name="0.1 %, 10 requests/s", params=stage(0.001, per_s=10), bar=1e-3),
    FalseRollback(name="0.05 %, 10 requests/s", params=stage(0.0005, per_s=10), bar=5e-5),
    FalseRollback(name="0.1 %, 100 requests/s", params=stage(0.001, per_s=100), bar=1e-3),
    FalseRollback(name="0.05 %, 100 requests/s", params=stage(0.0005, per_s=100), bar=5e-5),
    FalseRollback(
        name="0.02 % and poison sessions, 10 requests/s",
        params=stage(HEALTHY_RATIO, per_s=10),
        bar=1e-3,
        failing=with_poison_sessions,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """A broken stage that must be rolled back soon."""

    name: str
    params: SimulationParams
    requests: tuple[int, int]
    """Canary requests until then that are allowed: median, 95th percentile."""
    failed: tuple[int, int]
    """Failing ones, likewise."""


_AT_START = {0.005: (2400, 5500), 0.01: (760, 1650), 0.05: (75, 190), 1.0: (2, 2)}
_MIDWAY = {0.005: (3750, 7200), 0.01: (1260, 2350), 0.05: (135, 270), 1.0: (4, 4)}
DETECTIONS: Final = tuple(
    Detection(
        name=f"{rate:g} from the start, 10 requests/s",
        params=stage(rate, per_s=10),
        requests=bar,
        failed=(12, 36),
    )
    for rate, bar in _AT_START.items()
) + tuple(
    Detection(
        name=f"{rate:g} from the middle on, 100 requests/s",
        params=stage(HEALTHY_RATIO, per_s=100, later_ratio=rate),
        requests=bar,
        failed=(19, 36),
    )
    for rate, bar in _MIDWAY.items()
)


def false_rollbacks(case: FalseRollback, seed: int, stages: int = STAGES_PER_SEED) -> int:
    """Play the stages of one seed and count those that were rolled back."""
    draw = random.Random(seed).random
    played = (play(case.params, case.failing(case.params, draw)) for _ in range(stages))
    return sum(each.ending is Ending.ROLLED_BACK for each in played)


def exact_interval(count: int, trials: int, risk: float = 0.05) -> tuple[float, float]:
    """
    Bound a probability of which `count` of `trials` are known.

    Source:
        Clopper & Pearson, "The use of confidence or fiducial limits", 1934.
    """
    low = 0.0 if count == 0 else _solved(lambda p: 1 - _at_most(count - 1, trials, p) - risk / 2)
    high = 1.0 if count == trials else _solved(lambda p: risk / 2 - _at_most(count, trials, p))
    return low, high


def _at_most(count: int, trials: int, p: float) -> float:
    def of(k: int) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        return math.exp(ways + k * math.log(p) + (trials - k) * math.log1p(-p))

    return math.fsum(of(k) for k in range(count + 1))


def _solved(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high


def chance_of_promotion(
    rate_ratio: float, *, below_ratio: float, first: int, last: int, limit_ratio: float = 1.0
) -> float:
    """
    Compute exactly how likely the evidence for promotion is there at some time.

    Args:
        rate_ratio: Failure rate.
        below_ratio: The rate to exclude.
        first: Requests before which nobody asks.
        last: Requests after which nobody asks.
        limit_ratio: The rate that was observed may not be above this.
    """
    limit = 1 / GuardParams().false_promotion_ratio
    chances, opens_at, promoted = {0: 1.0}, dict[int, float](), 0.0
    for requests in range(1, last + 1):
        after: dict[int, float] = {}
        for failed, chance in chances.items():
            after[failed] = after.get(failed, 0.0) + chance * (1 - rate_ratio)
            after[failed + 1] = after.get(failed + 1, 0.0) + chance * rate_ratio
        chances = {failed: chance for failed, chance in after.items() if chance > 1e-12}
        for failed in chances.keys() - opens_at.keys():
            needed = failed + needed_requests(below_ratio, 0, failed, limit)
            opens_at[failed] = max(needed, failed / limit_ratio, first)
        for failed in [each for each in chances if opens_at[each] <= requests]:
            promoted += chances.pop(failed)
    return promoted


def errors(seeds: range) -> bool:
    """Bar 7."""
    good = True
    for case in ERRORS:
        count = 0
        for done, seed in enumerate(seeds, start=1):
            count += false_rollbacks(case, seed)
            if done % 10 == 0 or done == len(seeds):
                stages = done * STAGES_PER_SEED
                low, high = exact_interval(count, stages)
                print(
                    f"{case.name}: {count} of {stages} stages rolled back (seeds {seeds[0]}:{seed + 1}), "
                    f"95 % interval {low:.1e} to {high:.1e}, bar {case.bar:g}",
                    flush=True,
                )
        good &= count <= case.bar * len(seeds) * STAGES_PER_SEED
    return good


def detection(stages: int) -> bool:
    """Bars 8 and 9."""
    good = True
    for case in DETECTIONS:
        found = simulate(replace(case.params, stages=stages, stretch_ratio=FINE), random.Random(1).random)
        requests = (found.delay_requests(0.5), found.delay_requests(0.95))
        failed = (found.delay_failed(0.5), found.delay_failed(0.95))
        print(
            f"{case.name}: {found.rolled_back} of {stages} rolled back ({found.early} too early), "
            f"median/p95 {requests[0]}/{requests[1]} canary requests (bar {case.requests[0]}/"
            f"{case.requests[1]}), {failed[0]}/{failed[1]} failing (bar {case.failed[0]}/{case.failed[1]})",
            flush=True,
        )
        good &= _within(requests, case.requests) and _within(failed, case.failed)
    return good


def _within(found: tuple[int | None, ...], bar: tuple[int, ...]) -> bool:
    return all(each is not None and each <= most for each, most in zip(found, bar, strict=True))


def promotion(stages: int) -> bool:
    """Bar 11, but for what the controller adds."""
    good = True
    for below, clean in ((0.005, 1076), (0.002, 2694), (0.001, 5390)):
        needed = needed_requests(below, 0, 0, 100)
        ever = chance_of_promotion(below, below_ratio=below, first=1, last=round(120 / below))
        print(f"exclude {below:g}: {needed} clean requests (bar {clean}), {ever:.4f} at that rate (bar 0.01)")
        good &= needed == clean and ever <= 0.01
    at_edge = simulate(replace(stage(0.005, per_s=10), stages=stages), random.Random(1).random)
    print(f"stages at 0.005: {at_edge.promoted} of {stages} promoted (bar 1 %)")
    starved = _starved(stages)
    print(f"stages of 0 to 1,000 canary requests, all clean: {starved} of {stages} promoted (bar 0)")
    good &= at_edge.promoted <= 0.01 * stages and starved == 0
    for rate in (0.0, 0.0002, 0.0005):
        alone = chance_of_promotion(rate, below_ratio=0.005, first=8640, last=8640)
        rows = [
            (part, chance_of_promotion(rate, below_ratio=0.005, first=8640, last=last, limit_ratio=0.001))
            for part, last in (("at its end", 8640), ("an hour later", 9000), ("6 hours later", 10_800))
        ]
        told = ", ".join(f"{part} {chance:.4f}" for part, chance in rows)
        print(
            f"a day at {rate:g}, 10 requests/s: evidence there {alone:.4f} (bar 0.99); with no more than "
            f"0.001 observed: {told}"
        )
        good &= alone >= 0.99
    return good


def _starved(stages: int) -> int:
    chance = random.Random(1)
    asked = (stage(0.0, per_s=100 * chance.randint(0, 1000) / 86_400) for _ in range(stages))
    return sum(play(params, ()).ending is Ending.PROMOTED for params in asked)


def cost() -> bool:
    """Bar 15, the guard's part: beside one call of mmh3, in turns, because the machine's speed drifts."""
    taken_s: dict[str, list[float]] = {}
    for _ in range(STEPS):
        for name, work in _works().items():
            taken_s.setdefault(name, []).append(timeit.timeit(work, number=CALLS) / CALLS)
    yardstick_s, *_ = taken_s.values()
    for name, each_s in taken_s.items():
        ratio = quantile([mine / its for mine, its in zip(each_s, yardstick_s, strict=True)], 0.5)
        median_us, least_us = quantile(each_s, 0.5) * 1e6, min(each_s) * 1e6
        print(f"{name}: {median_us:.2f} us median, {least_us:.2f} least, {ratio:.0f} of mmh3")
    # The least: whatever else the machine does only adds to it.
    return min(taken_s[_DECISION]) <= 5e-6


_DECISION: Final = "guard: a failure after 999 passes, and the decision"


def _works() -> dict[str, Callable[[], object]]:
    """Return what is timed, on guards that are new: evidence must not run into its bounds meanwhile."""
    failing, passing, promoting = ErrorGuard(0.001), ErrorGuard(0.001), PromotionEvidence(0.005)
    limit = GuardParams().limit(Guard.ERRORS)
    promoting.observe(8636, 4)

    def decide() -> bool:
        failing.observe(999, 1)
        return failing.evidence >= limit

    return {
        "mmh3 of 8 bytes": lambda: mmh3.hash(b"12345678"),
        _DECISION: decide,
        "guard: 37 passes": lambda: passing.observe(37, 0),
        "guard: stake laid down": lambda: passing.advance(0.5),
        "promotion: the counts": lambda: promoting.observe(1, 0),
        "promotion: the evidence": lambda: promoting.evidence,
        "promotion: requests needed": lambda: needed_requests(0.005, 611, 0, 100),
        "promotion: the upper bound": lambda: upper_bound_ratio(8636, 4),
    }


def main() -> int:
    """Print the figures that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.guards", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("errors", "detection", "promotion", "cost"))
    parser.add_argument("--seeds", default="0:100", help="errors: FROM:TO, 1,000 stages each")
    parser.add_argument("--stages", type=int, default=10_000, help="detection, promotion: how many of a kind")
    chosen = parser.parse_args()
    first, _, end = chosen.seeds.partition(":")
    works: dict[str, Callable[[], bool]] = {
        "cost": cost,
        "promotion": lambda: promotion(chosen.stages),
        "detection": lambda: detection(chosen.stages),
        "errors": lambda: errors(range(int(first), int(end))),
    }
    return 0 if all([work() for name, work in works.items() if chosen.what in (None, name)]) else 1


if __name__ == "__main__":
    sys.exit(main())
