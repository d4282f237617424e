"""
What the rollouts cost a request, and how soon nobody is on after the failure that decides.

Run as `python -m bench.rollout_cost`; exit code 8: a bar was missed. A request is assigned, arrives, gets its
first token and ends well, without anything else around it. Cases take turns in short slices; what an empty
loop takes in that round is subtracted. Times are of this thread's processor time, medians over the rounds,
beside one call of mmh3 in the same rounds, because a shared processor makes every figure larger.

The flip is timed from the call that reports the deciding failure until nobody can be assigned the feature any
more; logging and what is written to the ledger afterwards, in a thread, are not in it.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import mmh3
from prometheus_client import CollectorRegistry

from bench.statistics import quantile
from rollout.guards import GuardParams
from rollout.spec import DEFAULT_SPEC, Feature
from wicketgate.ending import Ending
from wicketgate.errors import ExitCode
from wicketgate.flags import FlagBoard
from wicketgate.inference import InferenceRequest, Sampling, TextPrompt
from wicketgate.ledger import Ledger
from wicketgate.metrics import Metrics
from wicketgate.rollouts import Rollouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS: Final = 201
CALLS: Final = 200
FLIPS: Final = 500
REQUEST_BAR_S: Final = 5e-6
FLIP_BAR_S: Final = 1e-3
NAMES: Final = tuple(DEFAULT_SPEC.features)
ONE: Final = "ttft_pipeline"
CASES: Final[Mapping[str, Mapping[str, float]]] = {
    "all four at 0 %": dict.fromkeys(NAMES, 0.0),
    "all four at 100 %": dict.fromkeys(NAMES, 100.0),
    "one at 1 %, the others at 100 %": {ONE: 1.0},
    "one at 50 %, the others at 100 %": {ONE: 50.0},
    "one at 50 %, the others at 0 %": {**dict.fromkeys(NAMES, 0.0), ONE: 50.0},
    "all four at 50 %": dict.fromkeys(NAMES, 50.0),
}
BARRED: Final = "one at 1 %, the others at 100 %"


def rollouts(
    folder: Path, shares: Mapping[str, float], *, on_change: Callable[[object], None] = lambda _: None
) -> Rollouts:
    """Make the rollouts of the four features at these shares; nothing is ever written."""
    features: dict[str, Feature] = {
        name: replace(each, rollout_percentage=shares.get(name, 100.0))
        for name, each in DEFAULT_SPEC.features.items()
    }
    ledger = Ledger(folder / "ledger.db")
    board = FlagBoard(replace(DEFAULT_SPEC, features=features), ledger, on_change=on_change)
    metrics = Metrics(CollectorRegistry(), models=("demo",), features=NAMES)
    return Rollouts(board, ledger, params=GuardParams(), metrics=metrics, offload=lambda _: None)


def requests(count: int) -> list[InferenceRequest]:
    """Make requests of as many sessions."""
    return [
        InferenceRequest(
            id=f"r{number}",
            model="demo",
            prompt=TextPrompt(text="hello"),
            sampling=Sampling(max_tokens=8, seed=1),
            arrived_s=0.0,
            key=f"sess-{number:010d}",
            key_source="x-session-id",
            connection=f"127.0.0.1:{number}",
        )
        for number in range(count)
    ]


def request_slice(made: Rollouts, asked: list[InferenceRequest]) -> float:
    """Return the seconds of one slice: every request from its assignment to its end."""
    times_s = itertools.cycle((0.08, 0.1, 0.12, 0.15))
    began_s = time.thread_time()
    for each in asked:
        assigned = made.assign(each)
        if assigned.sides:
            if assigned.compared:
                made.arrived(assigned, each)
                made.first_token(assigned, ttft_s=next(times_s))
            made.ended(assigned, each, ending=Ending.OK, tpot_s=0.02)
    took_s = time.thread_time() - began_s
    made.tick()
    return took_s


def empty_slice(asked: list[InferenceRequest]) -> float:
    """Return the seconds of the loop alone."""
    began_s = time.thread_time()
    for _ in asked:
        pass
    return time.thread_time() - began_s


def hash_slice(asked: list[InferenceRequest]) -> float:
    """Return the seconds of one hash for each request."""
    keys = [each.key.encode() for each in asked]
    began_s = time.thread_time()
    for key in keys:
        mmh3.hash(key)
    return time.thread_time() - began_s


def costs_s(folder: Path) -> tuple[dict[str, float], float]:
    """Return the median seconds of a request, by case, and those of one hash."""
    asked = requests(CALLS)
    cases = {name: rollouts(folder, shares) for name, shares in CASES.items()}
    taken: dict[str, list[float]] = {name: [] for name in cases}
    hashes_s = []
    for number in range(ROUNDS):
        empty_s = empty_slice(asked)
        hashes_s.append((hash_slice(asked) - empty_s) / CALLS)
        for name in list(cases)[:: 1 if number % 2 else -1]:
            taken[name].append((request_slice(cases[name], asked) - empty_s) / CALLS)
    return {name: quantile(each, 0.5) for name, each in taken.items()}, quantile(hashes_s, 0.5)


def flips_s(folder: Path) -> list[float]:
    """Return, of many rollbacks by a guard, the seconds from the deciding failure until nobody can be on."""
    return [_flip_s(folder, requests(100)) for _ in range(FLIPS)]


def _flip_s(folder: Path, asked: list[InferenceRequest]) -> float:
    off_s: list[float] = []
    made = rollouts(folder, {ONE: 50.0}, on_change=lambda _: off_s.append(time.thread_time()))
    for each in asked[:20]:
        made.ended(made.assign(each), each, ending=Ending.OK, tpot_s=0.02)
    made.tick()
    began_s = 0.0
    for each in asked:
        assigned = made.assign(each)
        if not off_s and ONE in assigned.on:
            began_s = time.thread_time()
            made.ended(assigned, each, ending=Ending.FAILED, tpot_s=None)
    return off_s[0] - began_s


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name:
        by_case_s, hash_s = costs_s(Path(name))
        taken_s = flips_s(Path(name))
    for case, each_s in by_case_s.items():
        print(f"{1e6 * each_s:8.2f} us a request, {each_s / hash_s:5.1f} hashes   {case}")
    print(f"{1e6 * hash_s:8.3f} us a hash (mmh3)")
    p50_s, p99_s = quantile(taken_s, 0.5), quantile(taken_s, 0.99)
    print(f"flip, {len(taken_s)} times: p50 {1e6 * p50_s:.0f} us, p99 {1e6 * p99_s:.0f} us; the bar is 1000")
    print(f"the bar of a request is {1e6 * REQUEST_BAR_S:.0f} us: {BARRED}")
    good = by_case_s[BARRED] <= REQUEST_BAR_S and p99_s <= FLIP_BAR_S
    return ExitCode.DONE if good else ExitCode.CHECK_FAILED


if __name__ == "__main__":
    sys.exit(main())
