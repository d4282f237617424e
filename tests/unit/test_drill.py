"""Pins whom a drill hits, how evenly, and what it says of itself."""

from __future__ import annotations

import pytest

from wicketgate.drill import Drill, DrillParams, Hit

ON = frozenset({"ttft_pipeline", "qos_monitoring"})


def fails(drill: Drill, requests: int) -> list[bool]:
    """Tell of each request whether it was made to fail."""
    hits = [drill.hit(ON) for _ in range(requests)]
    return [hit is not None and hit.fails for hit in hits]


@pytest.mark.parametrize(
    "params",
    [
        DrillParams(),
        DrillParams(fail_ratio=1.0),
        DrillParams(feature="ttft_pipeline"),
        DrillParams(feature="adaptive_governor", fail_ratio=1.0, delay_s=1.0),
    ],
)
def test_nobody_is_hit_without_a_drill_of_a_feature_that_the_request_is_on(params: DrillParams) -> None:
    assert Drill(params).hit(ON) is None


def test_every_request_on_the_feature_fails_at_a_ratio_of_1() -> None:
    assert fails(Drill(DrillParams(feature="ttft_pipeline", fail_ratio=1.0)), 5) == [True] * 5


def test_failures_are_spread_evenly_by_counting() -> None:
    drill = Drill(DrillParams(feature="ttft_pipeline", fail_ratio=0.25))

    assert fails(drill, 8) == [False, False, False, True] * 2


@pytest.mark.parametrize("ratio", [0.1, 0.29, 0.7, 0.001])
def test_of_a_thousand_requests_the_ratio_fails_to_the_last_one(ratio: float) -> None:
    drill = Drill(DrillParams(feature="ttft_pipeline", fail_ratio=ratio))

    assert sum(fails(drill, 1000)) == round(1000 * ratio)


def test_requests_off_the_feature_are_not_counted() -> None:
    drill = Drill(DrillParams(feature="ttft_pipeline", fail_ratio=0.5))
    drill.hit(ON)

    drill.hit(frozenset())

    assert fails(drill, 1) == [True]


def test_a_request_that_does_not_fail_waits() -> None:
    drill = Drill(DrillParams(feature="ttft_pipeline", fail_ratio=0.5, delay_s=2.0))

    assert [drill.hit(ON), drill.hit(ON)] == [Hit(False, 2.0), Hit(True, 0.0)]


def test_another_drill_begins_to_count_anew_and_the_same_one_goes_on() -> None:
    params = DrillParams(feature="ttft_pipeline", fail_ratio=0.5)
    drill = Drill(params)
    drill.hit(ON)

    drill.reconfigure(params)
    went_on = fails(drill, 1)
    drill.hit(ON)
    drill.reconfigure(DrillParams(feature="ttft_pipeline", fail_ratio=0.5, delay_s=1.0))

    assert went_on == [True]
    assert fails(drill, 2) == [False, True]


def test_a_drill_says_what_it_does_to_whom() -> None:
    params = DrillParams(feature="ttft_pipeline", fail_ratio=0.25, delay_s=1.5)

    assert str(params) == "requests on ttft_pipeline: 25 % of them fail and each waits 1.5 s"
    assert str(DrillParams(feature="ttft_pipeline")) == "off"
