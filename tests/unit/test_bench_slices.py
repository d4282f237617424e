"""Pins how slices of two arms become ratios, and when a measurement must not be believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.slices import BLOCK, MIN_PAIRS, Arm, Slice, by_concurrency, compare, faults, pairs
from bench.statistics import NoSamplesError


def a_slice(arm: Arm, *, tokens_per_s: float = 100.0, ttft_s: float = 0.1, order: int = 0) -> Slice:
    """Return one second of load on 8 streams."""
    return Slice(
        arm=arm,
        concurrency=8,
        order=order,
        began_s=float(order),
        duration_s=1.0,
        offered=8,
        ok=8,
        tokens=int(tokens_per_s),
        ttft_s=(ttft_s,) * 8,
        lateness_s=(0.001,) * 8 if arm is Arm.SERVED else (),
    )


def a_run(blocks: int) -> list[Slice]:
    """Return that many blocks of good slices."""
    return [a_slice(arm, order=order) for order, arm in enumerate(BLOCK * blocks)]


def test_a_block_pairs_each_served_slice_with_the_raw_one_beside_it():
    slices = [a_slice(arm, order=order) for order, arm in enumerate(BLOCK)]

    assert [(raw.order, served.order) for raw, served in pairs(slices)] == [(0, 1), (3, 2)]


def test_a_slice_without_a_neighbour_is_in_no_pair():
    slices = a_run(1)[:3]

    assert len(pairs(slices)) == 1


def test_two_neighbours_of_one_arm_are_no_pair():
    assert pairs([a_slice(Arm.RAW), a_slice(Arm.RAW)]) == []


def test_the_ratio_is_the_median_over_pairs_and_not_the_ratio_of_medians():
    speeds = [(100, 50), (200, 180), (400, 160)]
    slices = [
        each
        for raw, served in speeds
        for each in (a_slice(Arm.RAW, tokens_per_s=raw), a_slice(Arm.SERVED, tokens_per_s=served))
    ]

    ratio = compare(slices).ratio

    assert (ratio.low, ratio.median, ratio.high, ratio.count) == (0.4, 0.5, 0.9, 3)


def test_a_steady_drift_cancels_over_a_block():
    speeds = [100, 110, 120, 130]
    slices = [
        a_slice(arm, tokens_per_s=speed, order=order)
        for order, (arm, speed) in enumerate(zip(BLOCK, speeds, strict=True))
    ]

    assert compare(slices).ratio.median == pytest.approx(1.0, abs=0.02)


def test_the_overhead_is_the_difference_of_the_medians_of_a_pair():
    slices = [a_slice(Arm.RAW, ttft_s=0.1), replace(a_slice(Arm.SERVED), ttft_s=(0.11, 0.12, 9.0))]

    assert compare(slices).ttft_overhead_s.median == pytest.approx(0.02)


def test_processor_time_is_told_per_served_token_and_as_a_share_of_a_core():
    served = replace(a_slice(Arm.SERVED), gateway_cpu_s=0.2, host_cpu_s=0.5, client_cpu_s=0.1)

    compared = compare([a_slice(Arm.RAW), served])

    assert compared.gateway_cpu_s_per_token == pytest.approx(0.002)
    assert compared.host_cpu_s_per_token == pytest.approx(0.005)
    assert compared.client_cpu_ratio == pytest.approx(0.1)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(NoSamplesError):
        compare([])


def test_slices_are_sorted_out_by_concurrency_and_keep_their_order():
    slices = [replace(each, concurrency=1 + each.order % 2) for each in a_run(1)]

    assert {key: [s.order for s in group] for key, group in by_concurrency(slices).items()} == {
        1: [0, 2],
        2: [1, 3],
    }


def test_a_good_run_has_no_faults():
    assert faults(a_run(MIN_PAIRS // 2)) == []


def test_one_pair_too_few_is_a_fault():
    assert faults(a_run(MIN_PAIRS // 2)[:-2]) == [
        "9 pairs at concurrency 8 are too few; at least 10 are needed"
    ]


def test_no_slices_at_all_are_a_fault():
    assert faults([]) == ["0 pairs at no concurrency are too few; at least 10 are needed"]


def test_a_request_that_failed_is_a_fault():
    slices = a_run(5)
    slices[1] = replace(slices[1], ok=7)

    assert faults(slices) == ["1 of 80 served requests at concurrency 8 did not give what was asked for"]


def test_slices_in_which_nothing_worked_make_no_pair():
    slices = [replace(each, ok=0, tokens=0) for each in a_run(1)]

    assert "0 pairs at concurrency 8 are too few; at least 10 are needed" in faults(slices)


def test_requests_sent_late_are_a_fault():
    slices = [replace(each, lateness_s=(0.02,) * 8) if each.arm is Arm.SERVED else each for each in a_run(5)]

    assert faults(slices) == ["requests at concurrency 8 were sent 20.0 ms late; at most 5.0"]


def test_one_slice_sent_late_moves_no_median_and_is_no_fault():
    slices = a_run(5)
    slices[1] = replace(slices[1], lateness_s=(0.5,) * 8)

    assert faults(slices) == []


def test_the_same_lateness_is_no_fault_beside_a_long_time_to_first_token():
    slices = [replace(each, lateness_s=(0.02,), ttft_s=(3.0,)) for each in a_run(5)]

    assert faults(slices) == []


def test_a_busy_load_client_is_a_fault():
    slices = [replace(each, client_cpu_s=0.7) for each in a_run(5)]

    assert faults(slices) == ["the load client at concurrency 8 used 70 % of a core; at most 60 %"]
