"""
Pins how often healthy stages are rolled back, how soon broken ones are, and that no data never promotes.

A slice of `python -m bench.guards`, which plays a hundred thousand stages of each kind; seeds are fixed, so
that the counts are the same everywhere.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from bench.guards import DETECTIONS, ERRORS, FINE, chance_of_promotion, false_rollbacks, stage
from rollout.simulation import simulate

STAGES = 2000
BROKEN_STAGES = 300


@pytest.mark.parametrize("case", ERRORS[:3] + ERRORS[4:], ids=lambda case: case.name)
def test_of_healthy_stages_no_more_are_rolled_back_than_promised(case):
    assert false_rollbacks(case, seed=1, stages=STAGES) <= 1e-3 * STAGES


@pytest.mark.parametrize("case", DETECTIONS, ids=lambda case: case.name)
def test_broken_stages_are_rolled_back_in_time(case):
    params = replace(case.params, stages=BROKEN_STAGES, stretch_ratio=FINE)
    found = simulate(params, random.Random(1).random)

    assert (found.early, found.held + found.promoted <= 0.01 * BROKEN_STAGES) == (0, True)
    assert found.delay_requests(0.5) <= case.requests[0]
    assert found.delay_requests(0.95) <= case.requests[1]
    assert found.delay_failed(0.5) <= case.failed[0]
    assert found.delay_failed(0.95) <= case.failed[1]


def test_a_failure_rate_that_must_be_excluded_is_promoted_in_at_most_one_of_a_hundred():
    assert chance_of_promotion(0.005, below_ratio=0.005, first=1, last=20_000) <= 0.01


@pytest.mark.parametrize("rate_ratio", [0.0, 0.0002, 0.0005])
def test_a_healthy_day_gives_the_evidence_for_promotion(rate_ratio):
    assert chance_of_promotion(rate_ratio, below_ratio=0.005, first=8640, last=8640) >= 0.99


def test_a_starved_stage_is_never_promoted_and_never_rolled_back():
    for per_s in (0.0, 0.01, 0.1, 1.0):
        found = simulate(replace(stage(0.0, per_s=per_s), stages=STAGES), random.Random(1).random)

        assert (found.held, found.stages) == (STAGES, STAGES)
