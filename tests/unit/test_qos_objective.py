"""Pins objectives: thresholds that fit the signal, goodness, burn rate and evidence worked by hand."""

from __future__ import annotations

import math

import pytest

from qos.bounds import OutOfBoundsError
from qos.objective import Objective, Signal, burn_rate, evidence_nats

TTFT = Objective(name="ttft", signal=Signal.TTFT, target_ratio=0.95, threshold_s=0.5)
ITL = Objective(name="itl", signal=Signal.ITL, target_ratio=0.95, threshold_s=0.1)
ERRORS = Objective(name="errors", signal=Signal.ERROR, target_ratio=0.999)
THROUGHPUT = Objective(name="tps", signal=Signal.THROUGHPUT, target_ratio=0.9, threshold_tps=100.0)


@pytest.mark.parametrize(
    ("objective", "good", "bad"),
    [(TTFT, 0.5, 0.51), (ITL, 0.1, math.inf), (ERRORS, 0.0, 1.0), (THROUGHPUT, 100.0, 99.9)],
)
def test_an_event_is_good_up_to_the_threshold_and_throughput_from_it_on(objective, good, bad):
    assert objective.is_good(good)
    assert not objective.is_good(bad)


def test_the_budget_is_what_the_target_leaves():
    assert TTFT.budget_ratio == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("bad", "total", "burn"),
    [(5, 100, 1.0), (100, 100, 20.0), (0, 100, 0.0)],
)
def test_the_burn_rate_is_the_bad_share_over_the_allowed_one(bad, total, burn):
    assert burn_rate(bad=bad, total=total, target_ratio=0.95) == pytest.approx(burn)


def test_without_events_there_is_no_burn_rate():
    assert burn_rate(bad=0, total=0, target_ratio=0.95) is None


def test_the_evidence_agrees_with_cases_worked_by_hand():
    # 20 of 100 on a budget of 5 %: 100 * (0.2 ln 4 + 0.8 ln(0.8 / 0.95)).
    assert evidence_nats(bad=20, total=100, budget_ratio=0.05) == pytest.approx(13.9782, abs=1e-3)
    # All bad: n * ln(1 / budget).
    assert evidence_nats(bad=10, total=10, budget_ratio=0.05) == pytest.approx(10 * math.log(20))


def test_burstiness_divides_the_evidence():
    assert evidence_nats(bad=20, total=100, budget_ratio=0.05, phi=4.0) == pytest.approx(
        13.9782 / 4, abs=1e-3
    )


@pytest.mark.parametrize(("bad", "total"), [(0, 0), (0, 100), (4, 100), (5, 100)])
def test_within_the_budget_there_is_no_evidence(bad, total):
    assert evidence_nats(bad=bad, total=total, budget_ratio=0.05) == 0.0


def test_the_explanation_names_the_events_the_span_and_what_is_allowed():
    assert TTFT.explain(bad=31, total=214, span_s=60.0) == (
        "31 of 214 requests waited more than 0.5 s for their first token in 60 s (14.5%, allowed 5.00%)"
    )
    assert ERRORS.explain(bad=1, total=10, span_s=15.0) == (
        "1 of 10 requests failed in 15 s (10.0%, allowed 0.10%)"
    )


@pytest.mark.parametrize(
    ("field", "signal", "thresholds"),
    [
        ("threshold_s", Signal.TTFT, {}),
        ("threshold_s", Signal.ITL, {"threshold_s": 0.0}),
        ("threshold_s", Signal.ITL, {"threshold_s": math.inf}),
        ("threshold_tps", Signal.TTFT, {"threshold_s": 0.5, "threshold_tps": 9.0}),
        ("threshold_s", Signal.ERROR, {"threshold_s": 0.5}),
        ("threshold_tps", Signal.THROUGHPUT, {}),
    ],
)
def test_a_threshold_that_does_not_fit_the_signal_is_refused_by_name(field, signal, thresholds):
    with pytest.raises(OutOfBoundsError) as caught:
        Objective(name="x", signal=signal, target_ratio=0.95, **thresholds)

    assert caught.value.field == field


@pytest.mark.parametrize("target_ratio", [0.0, 1.0, math.nan])
def test_a_target_without_a_budget_is_refused(target_ratio):
    with pytest.raises(OutOfBoundsError, match="target_ratio must be between"):
        Objective(name="x", signal=Signal.ERROR, target_ratio=target_ratio)
