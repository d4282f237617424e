"""Pins quantiles and spreads of the bench: hand-worked values, order, one sample, and none."""

from __future__ import annotations

import pytest

from bench.statistics import NoSamplesError, Spread, quantile, spread


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle():
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5


def test_a_quantile_is_interpolated_between_the_two_samples_around_it():
    # place 0.95 * 4 = 3.8: 0.8 of the way from the fourth to the fifth
    assert quantile([10.0, 20.0, 30.0, 40.0, 50.0], 0.95) == pytest.approx(48.0)


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (1.0, 9.0)])
def test_the_ends_are_the_smallest_and_the_largest(q: float, expected: float):
    assert quantile([5.0, 1.0, 9.0], q) == expected


@pytest.mark.parametrize("q", [0.0, 0.3, 0.99, 1.0])
def test_every_quantile_of_one_sample_is_that_sample(q: float):
    assert quantile([7.0], q) == 7.0


def test_a_quantile_of_nothing_is_an_error_and_not_a_number():
    with pytest.raises(NoSamplesError, match=r"0\.5-quantile of no samples"):
        quantile([], 0.5)


def test_a_spread_names_median_ends_and_count():
    assert spread([3.0, 1.0, 2.0]) == Spread(median=2.0, low=1.0, high=3.0, count=3)
