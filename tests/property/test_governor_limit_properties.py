"""Properties of the limit: within its bounds whatever is reported, and never a bump at a take-over."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from governor.limit import Limit, LimitParams

FACTS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.floats(), st.integers(-1, 1000)),
        st.tuples(st.just("load"), st.integers(0, 500), st.integers(0, 500)),
        st.tuples(st.just("wait"), st.floats(0.0, 20.0), st.just(0)),
        st.tuples(st.just("force"), st.integers(-5, 5000), st.just(0)),
    ),
    max_size=60,
)


def tell(limit: Limit, facts: list[tuple[str, float, int]], *, now_s: float) -> float:
    """Report the facts, advancing on every wait; each step takes 20 ms of our clock."""
    params = LimitParams()
    for verb, first, second in facts:
        match verb:
            case "step":
                now_s += 0.02
                limit.observe_step(gap_s=first, streams=second, now_s=now_s)
            case "load":
                limit.observe_load(in_flight=int(first), queued=second)
            case "force":
                limit.force(int(first))
            case _:
                now_s += first
                before = limit.value
                events = limit.advance(now_s=now_s)
                assert [(event.previous, event.limit) for event in events] == (
                    [] if limit.value == before else [(before, limit.value)]
                )
        assert params.min <= limit.value <= params.max
    return now_s


@settings(deadline=None, derandomize=True)
@given(facts=FACTS)
def test_the_limit_stays_within_its_bounds_and_every_change_is_reported(facts):
    limit = Limit(LimitParams(), now_s=0.0)

    tell(limit, facts, now_s=0.0)

    assert math.isfinite(limit.deadline_s)


@settings(deadline=None, derandomize=True)
@given(facts=FACTS, in_force=st.integers(4, 128), gap_s=st.floats(0.001, 1.0))
def test_taking_over_moves_the_limit_by_no_more_than_one_clamped_step(facts, in_force, gap_s):
    limit = Limit(LimitParams(), now_s=0.0)
    now_s = tell(limit, facts, now_s=0.0)

    limit.force(in_force)
    assert limit.value == in_force
    limit.observe_load(in_flight=in_force, queued=1)
    for _ in range(10):
        now_s += 0.1
        limit.observe_step(gap_s=gap_s, streams=in_force, now_s=now_s)
    limit.advance(now_s=now_s)

    assert in_force * math.exp(-0.5) - 0.5 <= limit.value <= in_force * math.exp(0.25) + 0.5
