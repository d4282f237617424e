"""Pins the figures of the last minute, and that no data is no number."""

from __future__ import annotations

import pytest

from qos.figures import Figures
from qos.window import WindowParams


def test_without_facts_there_are_no_quantiles_no_error_ratio_and_no_throughput():
    figures = Figures(WindowParams(), now_s=0.0)

    assert figures.ttft(now_s=30.0) is None
    assert figures.itl(now_s=30.0) is None
    assert figures.error_ratio(now_s=30.0) is None
    assert figures.throughput_rps(now_s=30.0) == 0.0
    assert figures.throughput_tps(now_s=30.0) == 0.0


def test_the_quantiles_of_the_first_tokens_are_those_of_the_last_minute():
    figures = Figures(WindowParams(), now_s=0.0)
    figures.first_token(ttft_s=50.0, now_s=1.0)
    for each in range(1, 101):
        figures.first_token(ttft_s=each / 100, now_s=70.0)

    quantiles = figures.ttft(now_s=71.0)

    assert quantiles is not None
    assert quantiles.count == 100
    assert quantiles.p50 == pytest.approx(0.505, abs=0.01)
    assert quantiles.p95 == pytest.approx(0.955, abs=0.01)
    assert quantiles.p99 == pytest.approx(0.995, abs=0.01)


def test_a_gap_counts_once_for_every_stream_of_its_step():
    figures = Figures(WindowParams(), now_s=0.0)
    figures.step(gap_s=0.02, streams=99, now_s=1.0)
    figures.step(gap_s=0.5, streams=1, now_s=1.0)

    quantiles = figures.itl(now_s=1.0)

    assert quantiles is not None
    assert quantiles.count == 100
    assert quantiles.p50 == pytest.approx(0.02, abs=0.01)


def test_the_error_ratio_is_failed_over_all_that_ended():
    figures = Figures(WindowParams(), now_s=0.0)
    for each in range(8):
        figures.finished(failed=each < 2, now_s=10.0)

    assert figures.error_ratio(now_s=20.0) == 0.25


def test_throughput_is_per_second_of_the_time_covered():
    figures = Figures(WindowParams(), now_s=0.0)
    for second in range(20):
        figures.finished(failed=second == 0, now_s=float(second))
        figures.generated(tokens=40, now_s=float(second))

    assert figures.throughput_rps(now_s=20.0) == pytest.approx(19 / 20)
    assert figures.throughput_tps(now_s=20.0) == pytest.approx(40.0)


def test_throughput_falls_to_zero_a_minute_after_the_last_request():
    figures = Figures(WindowParams(), now_s=0.0)
    figures.finished(failed=False, now_s=1.0)
    figures.generated(tokens=40, now_s=1.0)

    assert figures.throughput_rps(now_s=62.0) == 0.0
    assert figures.throughput_tps(now_s=62.0) == 0.0
