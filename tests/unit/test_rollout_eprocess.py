"""Pins the evidence that all guards are made of: its stake, its growth, its bounds and its documents."""

from __future__ import annotations

import json
import math

import pytest

from rollout.eprocess import EProcess, laid_out_ratio, log10

WEIGHTS = (0.25, 0.75)


@pytest.mark.parametrize(
    ("progress", "ratio"),
    [(0.0, 0.5), (0.5, 0.625), (1.0, 0.75), (2.0, 0.875), (4.0, 0.9375), (math.inf, 1.0)],
)
def test_half_of_the_stake_lies_at_the_start_and_what_is_left_is_halved_by_every_doubling(progress, ratio):
    assert laid_out_ratio(progress) == ratio


def test_without_observations_it_says_nothing():
    assert EProcess(WEIGHTS).evidence == 1.0


def test_only_what_is_laid_down_grows():
    process = EProcess(WEIGHTS)

    process.multiply((4.0, 2.0))

    assert process.evidence == 0.5 + 0.25 * 0.5 * 4 + 0.75 * 0.5 * 2


def test_what_is_laid_down_late_has_lost_nothing_to_what_came_before():
    process = EProcess(WEIGHTS)
    process.multiply((0.0, 0.0))

    process.advance(1.0)
    process.multiply((8.0, 8.0))

    assert process.evidence == 0.25 + 0.25 * 8


def test_laying_stake_down_does_not_change_the_evidence():
    process = EProcess(WEIGHTS)
    process.multiply((0.5, 3.0))
    before = process.evidence

    process.advance(0.7)
    process.advance(30.0)

    assert process.evidence == pytest.approx(before, rel=1e-15)


@pytest.mark.parametrize("progress", [-1.0, 0.0, 0.5, math.nan])
def test_a_clock_that_goes_back_or_knows_no_time_lays_nothing_down(progress):
    process = EProcess(WEIGHTS)
    process.advance(0.5)
    before = process.document()

    process.advance(progress)

    assert process.document() == before


def test_wealth_stops_growing_before_floats_end():
    process = EProcess(WEIGHTS)

    for _ in range(3):
        process.multiply((1e250, 1.0))

    assert process.evidence == 0.25 * 1e280 + 0.5 + 0.75 * 0.5


@pytest.mark.parametrize("weights", [(), (0.5, 0.4), (1.5, -0.5), (1.0, 0.0)])
def test_weights_must_be_a_whole(weights):
    with pytest.raises(ValueError, match="add up to 1"):
        EProcess(weights)


@pytest.mark.parametrize("ratios", [(), (1.0,), (1.0, 1.0, 1.0)])
def test_each_alternative_needs_its_ratio(ratios):
    with pytest.raises(ValueError, match="2 alternatives"):
        EProcess(WEIGHTS).multiply(ratios)


def test_it_goes_on_from_its_document_after_a_detour_through_json():
    process = EProcess(WEIGHTS)
    process.advance(3.0)
    process.multiply((1 / 3, 7.0))

    restored = EProcess(WEIGHTS, json.loads(json.dumps(process.document())))

    assert restored.document() == process.document()
    assert restored.evidence == process.evidence


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"laid": "0.5", "wealth": [0.5, 0.5]},
        {"laid": 0.5, "wealth": 0.5},
        {"laid": 0.5, "wealth": [0.5]},
        {"laid": 0.4, "wealth": [0.5, 0.5]},
        {"laid": 1.1, "wealth": [0.5, 0.5]},
        {"laid": math.nan, "wealth": [0.5, 0.5]},
        {"laid": 0.5, "wealth": [0.5, -0.1]},
        {"laid": 0.5, "wealth": [0.5, math.nan]},
        {"laid": 0.5, "wealth": [0.5, 1e281]},
        {"laid": 0.5, "wealth": [0.5, None]},
        {"laid": 0.5, "wealth": [0.5, 10**400]},
    ],
)
def test_a_document_that_is_none_is_refused(document):
    with pytest.raises(ValueError, match="evidence"):
        EProcess(WEIGHTS, document)


@pytest.mark.parametrize(("evidence", "power"), [(1000.0, 3.0), (1.0, 0.0), (0.0, -30.0)])
def test_evidence_is_written_as_a_power_of_ten(evidence, power):
    assert log10(evidence) == pytest.approx(power, abs=1e-12)
