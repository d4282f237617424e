"""Properties of the monitor over simulated hours: quiet when healthy, quick on a hang, paired events."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qos.objective import Objective, Signal
from qos.policy import Monitor, MonitorParams
from qos.verdict import Recovery, State, Violation

TTFT = Objective(name="ttft", signal=Signal.TTFT, target_ratio=0.95, threshold_s=0.5)
ERRORS = Objective(name="errors", signal=Signal.ERROR, target_ratio=0.99)


def arrivals(draw: random.Random, *, per_s: float, from_s: float, for_s: float) -> list[float]:
    """Times of a Poisson process."""
    times, at_s = [], from_s
    while (at_s := at_s + draw.expovariate(per_s)) < from_s + for_s:
        times.append(at_s)
    return times


@pytest.mark.parametrize(("per_s", "seed"), [(0.5, 0), (0.5, 1), (2.0, 2), (2.0, 3), (10.0, 4)])
def test_an_hour_at_half_the_budget_raises_nothing(per_s, seed):
    draw = random.Random(seed)
    monitor, said = Monitor(MonitorParams(objectives=(TTFT, ERRORS)), now_s=0.0), []
    for each, at_s in enumerate(arrivals(draw, per_s=per_s, from_s=0.0, for_s=3600.0)):
        said += monitor.advance(now_s=at_s)
        ttft_s = 0.9 if draw.random() < 0.025 else 0.2
        monitor.first_token(f"r{each}", ttft_s=ttft_s, now_s=at_s)
        monitor.finished(f"r{each}", failed=draw.random() < 0.005, now_s=at_s)

    assert said == []


def seconds_to_find_a_hang(times: list[float]) -> float:
    """Answer the requests at once for five minutes, then none; return how long the violation took."""
    hung_s, said = 300.0, []
    monitor = Monitor(MonitorParams(objectives=(TTFT,)), now_s=0.0)
    for tick in range(1, 361):
        for at_s in times:
            if tick - 1 <= at_s < tick:
                monitor.arrived(f"r{at_s}", now_s=at_s)
                if at_s < hung_s:
                    monitor.first_token(f"r{at_s}", ttft_s=0.2, now_s=at_s)
        said += monitor.advance(now_s=float(tick))
    (violation,) = said
    return violation.at_s - hung_s


def test_a_total_hang_at_two_requests_a_second_is_found_within_ten_seconds():
    assert 0 < seconds_to_find_a_hang([each / 2 for each in range(720)]) <= 10


def test_with_random_arrivals_a_hang_is_found_in_eight_seconds_in_the_median():
    delays_s = sorted(
        seconds_to_find_a_hang(arrivals(random.Random(seed), per_s=2.0, from_s=0.0, for_s=360.0))
        for seed in range(9)
    )

    assert delays_s[4] <= 8
    assert delays_s[-1] <= 15


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    minutes=st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 5)), max_size=12),
    seed=st.integers(0, 9),
)
def test_violations_and_recoveries_alternate_and_agree_with_the_state(minutes, seed):
    draw = random.Random(seed)
    params = MonitorParams(objectives=(TTFT,), recover_after_s=30.0)
    monitor, said, now_s = Monitor(params, now_s=0.0), [], 0.0
    for bad_share, per_s in minutes:
        for _ in range(60):
            for _ in range(per_s):
                ttft_s = 0.9 if draw.random() < bad_share else 0.2
                monitor.first_token("r", ttft_s=ttft_s, now_s=now_s)
            now_s += 1.0
            said += monitor.advance(now_s=now_s)

    kinds = [type(event) for event in said]
    assert kinds == [Violation, Recovery] * (len(kinds) // 2) + [Violation] * (len(kinds) % 2)
    (verdict,) = monitor.verdicts(now_s=now_s)
    assert (verdict.state in {State.VIOLATED, State.RECOVERING}) == (len(kinds) % 2 == 1)


@settings(deadline=None, derandomize=True)
@given(facts=st.lists(st.booleans(), max_size=19), waited_s=st.floats(0.0, 59.0))
def test_without_enough_events_nothing_is_ever_said(facts, waited_s):
    monitor = Monitor(MonitorParams(objectives=(TTFT,), hold_ticks=1), now_s=0.0)
    for each, late in enumerate(facts):
        monitor.first_token(f"r{each}", ttft_s=9.0 if late else 0.1, now_s=0.0)

    assert monitor.advance(now_s=1.0) + monitor.advance(now_s=2.0 + waited_s) == []
    assert monitor.verdicts(now_s=2.0 + waited_s)[0].state is State.NO_DATA
