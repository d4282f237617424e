"""
What the comparisons of a rollout find, how soon, and how often they cry wolf: `python -m bench.ladders`.

Theory of operation. Stages are simulated request by request on the shipped classes, with seeded draws, and
counted in canary requests; nothing is timed but in the part `cost`. The logarithm of a time is the load's,
which both arms share, an AR(1) process that spreads by 0.3 and forgets within 60 s, plus a normal one of the
request's own that spreads by 0.7. Traffic is 10 requests/s where nothing else is said; a stage is a day.

Parts: labels, ttft, faster, share, wolf (false alarms of the ladder, the longest), cost; all without one.
`--runs` multiplies the number of runs of every row.
"""

from __future__ import annotations

import argparse
import math
import timeit
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bench.statistics import quantile
from rollout.guards import Arm
from rollout.label_guard import LabelGuard
from rollout.ladder import Direction, Ladder, LadderTest
from rollout.share_test import ShareTest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.random import Generator

DAY_S: Final = 24 * 3600.0
GUARD_LIMIT: Final = 5000.0
"""1/alpha of the guards that compare, in the shipped split of the risk."""
PROMOTION_LIMIT: Final = 100.0
STAGE_CANARIES: Final = 8640
"""Of a day at 10 requests/s and a share of 1 %."""
NEVER: Final = math.inf
BLOCK: Final = 2000
"""Requests drawn at a time."""


def row(name: str, delays: Sequence[float], bar: str = "") -> None:
    """Print how many canary requests it took."""
    found = sum(delay < NEVER for delay in delays) / len(delays)
    ordered = sorted(delays)
    median, late = (ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in (0.5, 0.95))
    print(
        f"{name:58} {median:6.0f} / {late:6.0f}   found {found:.3f} of {len(delays)}   {bar}".rstrip(),
        flush=True,
    )


# Failures


@dataclass(frozen=True, slots=True, kw_only=True)
class Spell:
    """A time in which each arm's requests fail at a constant rate."""

    requests: float
    """Of both arms; infinite for one that lasts until the guard trips."""
    canary: float
    control: float


def events(rng: Generator, share: float, spell: Spell) -> Iterator[tuple[int, int, bool]]:
    """
    Draw a spell's failures by the gaps between them.

    Yields:
        Requests until then, canary requests until then, and whether it is the canary's.
    """
    rate = share * spell.canary + (1 - share) * spell.control
    fine_canary = share * (1 - spell.canary) / (1 - rate)
    requests = canaries = 0
    while True:
        gaps = rng.geometric(rate, 64)
        between = rng.binomial(gaps - 1, fine_canary).tolist()
        arms = (rng.random(64) < share * spell.canary / rate).tolist()
        for gap, more, is_canary in zip(gaps.tolist(), between, arms, strict=True):
            requests += gap
            if requests > spell.requests:
                return
            canaries += more + is_canary
            yield requests, canaries, is_canary


def until_tripped(
    rng: Generator, share: float, spells: Sequence[Spell], limit: float, requests_per_s: float = 10.0
) -> float:
    """Return the canary requests of the last spell until a guard trips, 0 if before it, NEVER if never."""
    guard = LabelGuard(share)
    before = 0.0
    for spell in spells:
        for requests, canaries, is_canary in events(rng, share, spell):
            guard.advance((before + requests) / requests_per_s / DAY_S)
            guard.observe(int(is_canary), int(not is_canary))
            if guard.evidence >= limit:
                return canaries if spell is spells[-1] else 0.0
        before += spell.requests
    return NEVER


def labels(runs: float) -> None:
    """Measure what LabelGuard finds, and how often it trips on incidents that both arms share."""
    rng = np.random.default_rng(1)
    half_day = Spell(requests=100 * DAY_S / 2, canary=0.0002, control=0.0002)
    for limit, bars in ((1000.0, ("2", "41", "315")), (GUARD_LIMIT, ("", "", ""))):
        for canary, bar in zip((1.0, 0.05, 0.01), bars, strict=True):
            broken = Spell(requests=math.inf, canary=canary, control=0.0002)
            name = f"{canary:.0%} of canary requests fail, limit {limit:.0f}"
            at_start = [until_tripped(rng, 0.01, [broken], limit) for _ in range(int(300 * runs))]
            row(f"labels: {name}, from the start", at_start, f"page: {bar}" if bar else "")
            later = [
                until_tripped(rng, 0.01, [half_day, broken], limit, 100.0) for _ in range(int(200 * runs))
            ]
            row(f"labels: {name}, mid-stage at 100/s", later)
    for share in (0.01, 0.5):
        for name, spells in {
            "both arms at 5 % for 10 minutes": [_healthy(0.5), _healthy(10 / 1440, 0.05), _healthy(0.5)],
            "both arms at 0.05 %": [_healthy(1.0, 0.0005)],
        }.items():
            trips = [until_tripped(rng, share, spells, GUARD_LIMIT) for _ in range(int(3000 * runs))]
            false = sum(each < NEVER for each in trips)
            print(
                f"labels: share {share:.0%}, {name}: {false} of {len(trips)} stages trip   bar 1e-3",
                flush=True,
            )


def _healthy(days: float, rate: float = 0.0002) -> Spell:
    return Spell(requests=days * 10 * DAY_S, canary=rate, control=rate)


# Times


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long requests take."""

    share: float
    factor: float
    """The canary's times over control's."""
    slow_after: int = 0
    """Requests of both arms that pass before the canary differs."""
    spread: float = 0.7
    load_spread: float = 0.3
    load_memory_s: float = 60.0
    requests_per_s: int = 10


def drawn(rng: Generator, times: Times) -> Iterator[tuple[list[bool], list[float]]]:
    """Draw requests in blocks: whose they are, and how long they take."""
    kept = math.exp(-1 / times.load_memory_s)
    level = rng.normal() * times.load_spread
    passed = 0
    while True:
        loads = []
        for push in (
            rng.normal(size=BLOCK // times.requests_per_s) * times.load_spread * math.sqrt(1 - kept**2)
        ):
            level = kept * level + push
            loads.append(level)
        arms = rng.random(BLOCK) < times.share
        logs = np.repeat(loads, times.requests_per_s) + times.spread * rng.normal(size=BLOCK)
        differs = arms & (np.arange(passed, passed + BLOCK) >= times.slow_after)
        yield arms.tolist(), np.exp(logs + math.log(times.factor) * differs).tolist()
        passed += BLOCK


def until_found(
    rng: Generator, test: LadderTest, times: Times, *, limit: float, canaries: int, tick: int = 10
) -> float:
    """
    Return the canary requests, since it differs, until a ladder finds it; NEVER within so many.

    Args:
        rng: For the draws.
        test: What is asked.
        times: Of the requests.
        limit: Evidence that finds it.
        canaries: After so many the stage is over.
        tick: Requests between two folds.
    """
    ladder = Ladder(times.share, [test])
    requests = seen = 0
    for arms, values in drawn(rng, times):
        for first in range(0, BLOCK, tick):
            for is_canary, value in zip(
                arms[first : first + tick], values[first : first + tick], strict=True
            ):
                ladder.observe(Arm.CANARY if is_canary else Arm.CONTROL, value)
                seen += is_canary and requests >= times.slow_after
            requests += tick
            ladder.fold(requests * times.share / STAGE_CANARIES)
            if ladder.evidence(test.name) >= limit:
                return seen if requests > times.slow_after else 0.0
            if seen >= canaries:
                return NEVER
    raise AssertionError("requests never end")


PAUSE: Final = LadderTest(name="pause", tolerance_ratio=0.05)
ROLL_BACK: Final = LadderTest(name="roll back", tolerance_ratio=0.5)


def ttft(runs: float) -> None:
    """Measure how soon a slower canary is found, from the start of a stage and in its middle."""
    rng = np.random.default_rng(2)
    rows = (
        (5.0, 200, "page: 6/9"),
        (2.0, 400, "bar 30/55"),
        (1.5, 300, "bar 92/175"),
        (1.25, 200, "bar 375/780"),
    )
    for share in (0.01, 0.5):
        for factor, count, bar in rows:
            times = Times(share=share, factor=factor)
            _found(rng, PAUSE, times, int(count * runs), bar if share < 0.1 else "")
        slow_after = int(STAGE_CANARIES / 2 / share)
        mid = Times(share=share, factor=2.0, slow_after=slow_after)
        _found(
            rng, PAUSE, mid, int(20 * runs) if share < 0.1 else int(200 * runs), "page: 44/68" * (share < 0.1)
        )
    _found(rng, ROLL_BACK, Times(share=0.01, factor=2.0), int(100 * runs))
    _found(rng, ROLL_BACK, Times(share=0.01, factor=3.0), int(200 * runs))


def faster(runs: float) -> None:
    """Measure how soon a promotion may say that the canary is faster."""
    rng = np.random.default_rng(3)
    any_faster = LadderTest(name="faster", tolerance_ratio=0.0, direction=Direction.FASTER)
    gain = LadderTest(name="gain of 30 %", tolerance_ratio=0.3, direction=Direction.FASTER)
    for share in (0.01, 0.1):
        for less, count in ((0.1, 60), (0.2, 200), (0.3, 200)):
            times = Times(share=share, factor=1 - less)
            _found(rng, any_faster, times, int(count * runs), f"{less:.0%} less time", limit=PROMOTION_LIMIT)
        for more in (0.3, 0.35, 0.4, 0.5):
            times = Times(share=share, factor=1 / (1 + more), spread=0.2)
            count = int((20 if more <= 0.3 else 100) * runs)
            _found(rng, gain, times, count, f"{more:.0%} more tokens/s", limit=PROMOTION_LIMIT)


def _found(
    rng: Generator, test: LadderTest, times: Times, runs: int, note: str = "", *, limit: float = GUARD_LIMIT
) -> None:
    delays = [until_found(rng, test, times, limit=limit, canaries=STAGE_CANARIES) for _ in range(runs)]
    name = f"{test.name}, share {times.share:.0%}, x{times.factor:.3g}, spread {times.spread:g}"
    row(name + (", mid-stage" if times.slow_after else ""), delays, note)


def wolf(runs: float) -> None:
    """Count false pauses: a canary exactly as slow as allowed, and one that is no slower."""
    rng = np.random.default_rng(4)
    for share, factor, count in ((0.5, 1.05, 2000), (0.5, 1.0, 500), (0.01, 1.05, 100), (0.01, 1.0, 20)):
        times = Times(share=share, factor=factor)
        delays = [
            until_found(rng, PAUSE, times, limit=GUARD_LIMIT, canaries=STAGE_CANARIES, tick=50)
            for _ in range(int(count * runs))
        ]
        false = sum(each < NEVER for each in delays)
        print(
            f"wolf: share {share:.0%}, x{factor:g}: {false} of {len(delays)} stages pause   bar 1e-3",
            flush=True,
        )


# Keys


def share(runs: float) -> None:
    """Measure how many canary keys it takes to see that the share is not as declared."""
    rng = np.random.default_rng(5)
    for declared in (0.01, 0.1, 0.5):
        for factor in (0.0, 0.5, 0.8, 0.9, 1.0, 1.1, 1.2, 1.5, 2.0):
            true = declared * factor
            count = int((1000 if factor == 1 else 100) * runs)
            keys = [_keys_until_off(rng, declared, true) for _ in range(count)]
            name = f"share: declared {declared:.0%}, true {true:.3%}, in keys the canary should have had"
            row(name, [each * declared for each in keys], "bar: at most 1e-3 found" if factor == 1 else "")


def _keys_until_off(rng: Generator, declared: float, true: float) -> float:
    test = ShareTest(declared)
    step = max(1, int(1 / declared))
    for ticks, canary in enumerate(rng.binomial(step, true, STAGE_CANARIES).tolist(), 1):
        test.observe(canary, step - canary)
        if test.evidence >= 1000:
            return ticks * step
    return NEVER


# Cost


def cost(_: float) -> None:
    """Time the verbs, each beside an empty call in the same run."""
    rng = np.random.default_rng(6)
    values = np.exp(0.7 * rng.normal(size=1000)).tolist()
    faster_too = LadderTest(name="faster", tolerance_ratio=0.0, direction=Direction.FASTER)
    ladder = Ladder(0.1, [PAUSE, ROLL_BACK, faster_too])
    for value in values:
        ladder.observe(Arm.CONTROL, value)
    ladder.fold(0.0)
    guard, keys = LabelGuard(0.1), ShareTest(0.1)
    keys.observe(100, 900)

    def observe(arm: Arm) -> None:
        for value in values:
            ladder.observe(arm, value)

    def call() -> None:
        for value in values:
            _nothing(Arm.CONTROL, value)

    def fold() -> None:
        for value in values[:20]:
            ladder.observe(Arm.CONTROL, value)
        ladder.observe(Arm.CANARY, values[20])
        ladder.observe(Arm.CANARY, values[21])
        ladder.fold(0.1)

    _timed(
        {
            "an empty call": (call, 1000),
            "Ladder.observe, control": (lambda: observe(Arm.CONTROL), 1000),
            "Ladder.observe, canary, three tests": (lambda: observe(Arm.CANARY), 1000),
            "Ladder.fold of 22 requests, three tests": (fold, 1),
            "LabelGuard.observe": (lambda: guard.observe(1, 0), 1),
            "ShareTest.evidence": (lambda: keys.evidence, 1),
        }
    )


def _nothing(arm: Arm, value: float) -> None:
    """Cost what a call costs."""


def _timed(what: dict[str, tuple[Callable[[], object], int]]) -> None:
    """Time all in turns; a figure is the median of 31 rounds."""
    rounds = [
        {name: timeit.timeit(run, number=100) / 100 / each for name, (run, each) in what.items()}
        for _ in range(31)
    ]
    for name in what:
        median_us = quantile([times[name] for times in rounds], 0.5) * 1e6
        ratio = quantile([times[name] / times["an empty call"] for times in rounds], 0.5)
        print(f"cost: {name:42} {median_us:7.2f} us   {ratio:6.1f} empty calls", flush=True)


PARTS: Final = {"labels": labels, "ttft": ttft, "faster": faster, "share": share, "wolf": wolf, "cost": cost}


def main() -> None:
    """Measure one part, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench.ladders")
    parser.add_argument("part", nargs="?", choices=PARTS)
    parser.add_argument("--runs", type=float, default=1.0, help="multiplies the runs of every row")
    asked = parser.parse_args()
    print("canary requests, median / p95")
    for name, part in PARTS.items():
        if asked.part in {name, None}:
            part(asked.runs)


if __name__ == "__main__":
    main()
