"""Properties of windows: counts are exact, quantiles within one point of rank, in any order of facts."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qos.figures import Figures
from qos.objective import evidence_nats
from qos.window import Counts, Window, WindowParams

FIVE = WindowParams(span_s=5.0, slot_s=1.0)
FACTS = st.lists(st.tuples(st.floats(0.0, 40.0), st.integers(0, 9), st.integers(0, 9)), max_size=60)


def slot(at_s: float) -> int:
    """The second an instant belongs to."""
    return math.floor(at_s)


@settings(deadline=None, derandomize=True)
@given(facts=FACTS, read_s=st.floats(0.0, 40.0), slots=st.integers(1, 5))
def test_counts_are_exact_for_facts_in_any_order(facts, read_s, slots):
    counts, newest, kept = Counts(FIVE, now_s=0.0), 0, []
    for at_s, good, bad in facts:
        counts.add(good=good, bad=bad, now_s=at_s)
        newest = max(newest, slot(at_s))
        if slot(at_s) > newest - 5:
            kept.append((slot(at_s), good, bad))
    newest = max(newest, slot(read_s))

    for span_s, first in ((None, newest - 4), (float(slots), newest - slots + 1)):
        tally = counts.read(now_s=read_s, span_s=span_s)
        inside = [(good, bad) for at, good, bad in kept if at >= first]
        assert tally.good == sum(good for good, _ in inside)
        assert tally.bad == sum(bad for _, bad in inside)
        assert tally.facts == len(inside)


@settings(deadline=None, derandomize=True)
@given(facts=st.lists(st.tuples(st.floats(0.0, 40.0), st.floats(0, 1e6), st.integers(1, 99)), max_size=60))
def test_a_window_counts_every_weight_that_is_inside(facts):
    window, newest, kept = Window(FIVE, now_s=0.0), 0, []
    for at_s, value, weight in facts:
        window.add(value, weight, now_s=at_s)
        newest = max(newest, slot(at_s))
        if slot(at_s) > newest - 5:
            kept.append((slot(at_s), weight))

    assert window.count(now_s=0.0) == sum(weight for at, weight in kept if at > newest - 5)


STREAMS = {
    "lognormal": lambda draw: draw.lognormvariate(-1.0, 0.8),
    "pareto": lambda draw: draw.paretovariate(1.1),
    "bimodal": lambda draw: draw.gauss(0.2, 0.01) if draw.random() < 0.9 else draw.gauss(2.0, 0.1),
    "uniform": lambda draw: draw.random(),
}


@pytest.mark.parametrize("per_s", [3, 40, 300])
@pytest.mark.parametrize("stream", STREAMS)
def test_figures_are_within_one_point_of_rank_of_the_exact_quantiles(stream, per_s):
    draw = random.Random(7)
    figures, kept = Figures(WindowParams(), now_s=0.0), []
    for second in range(90):
        for each in range(per_s):
            value = abs(STREAMS[stream](draw))
            figures.first_token(ttft_s=value, now_s=second + each / per_s)
            if second >= 30:
                kept.append(value)

    quantiles = figures.ttft(now_s=89.999)

    assert quantiles is not None
    assert quantiles.count == len(kept)
    for q, estimate in ((0.50, quantiles.p50), (0.95, quantiles.p95), (0.99, quantiles.p99)):
        rank = sum(value <= estimate for value in kept) / len(kept)
        assert rank == pytest.approx(q, abs=0.01)


@settings(deadline=None, derandomize=True)
@given(bad=st.integers(0, 500), more=st.integers(0, 500), budget_ratio=st.floats(0.001, 0.5))
def test_evidence_is_never_negative_and_grows_with_the_bad_events(bad, more, budget_ratio):
    total = bad + more
    nats = evidence_nats(bad=bad, total=total, budget_ratio=budget_ratio)

    assert nats >= -1e-9
    if bad < total:
        assert evidence_nats(bad=bad + 1, total=total, budget_ratio=budget_ratio) >= nats - 1e-9
