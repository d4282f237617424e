"""Pins, for any arrivals: never more than the rate and a minute's worth, and refusals are free."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.rates import Account, Meter, Quota

GAPS = st.lists(st.floats(0.0, 40.0), min_size=1, max_size=120)


def times(gaps: list[float]) -> list[float]:
    now_s, moments = 1000.0, []
    for gap_s in gaps:
        now_s += gap_s
        moments.append(now_s)
    return moments


@given(gaps=GAPS, limit=st.integers(1, 30))
def test_no_window_holds_more_requests_than_its_time_gives_and_a_minutes_worth(gaps, limit):
    account = Account(Quota(requests_per_minute=limit))
    entered = [at_s for at_s in times(gaps) if Meter([account]).enter(now_s=at_s) is None]

    for first, since_s in enumerate(entered):
        for last in range(first, len(entered)):
            assert last - first + 1 <= limit + (entered[last] - since_s) * limit / 60 + 1e-6


@given(gaps=GAPS, limit=st.integers(1, 30))
def test_whoever_waits_as_long_as_it_was_told_is_let_in(gaps, limit):
    account = Account(Quota(requests_per_minute=limit))
    for at_s in times(gaps):
        refused = Meter([account]).enter(now_s=at_s)
        if refused is not None:
            assert Meter([account]).enter(now_s=at_s + refused.retry_after_s) is None
            return


@given(
    gaps=GAPS, limit=st.integers(10, 200), seed=st.lists(st.tuples(st.integers(1, 250), st.integers(0, 100)))
)
def test_no_window_holds_more_tokens_than_its_time_gives_and_a_minutes_worth(gaps, limit, seed):
    account = Account(Quota(tokens_per_minute=limit))
    spent = []
    for at_s, (asked, percent) in zip(times(gaps), seed, strict=False):
        meter = Meter([account])
        meter.enter(now_s=at_s)
        if meter.charge(asked, now_s=at_s) is None:
            used = min(asked, limit) * percent // 100
            meter.spend(used)
            spent.append((at_s, used))
        meter.leave()

    for first in range(len(spent)):
        for last in range(first, len(spent)):
            used = sum(tokens for _, tokens in spent[first : last + 1])
            assert used <= limit + (spent[last][0] - spent[first][0]) * limit / 60 + 1e-6


def asked(account: Account, *, at_s: float) -> bool:
    """Whether a request of seven tokens was let in."""
    meter = Meter([account])
    is_in = meter.enter(now_s=at_s) is None and meter.charge(7, now_s=at_s) is None
    meter.leave()
    return is_in


@given(gaps=GAPS, requests=st.integers(1, 30), tokens=st.integers(1, 50))
def test_refused_requests_change_nothing(gaps, requests, tokens):
    quota = Quota(requests_per_minute=requests, tokens_per_minute=tokens)
    insistent, patient = Account(quota), Account(quota)
    for at_s in times(gaps):
        is_in = asked(insistent, at_s=at_s)
        assert is_in is asked(patient, at_s=at_s)
        if not is_in:
            asked(insistent, at_s=at_s)

    end_s = times(gaps)[-1]
    one, other = Meter([insistent]), Meter([patient])
    assert one.requests(now_s=end_s).reset_s == pytest.approx(other.requests(now_s=end_s).reset_s)
    assert one.tokens(now_s=end_s).reset_s == pytest.approx(other.tokens(now_s=end_s).reset_s)
