"""Pins the face of the digest: weights, quantiles, merging, and the samples that it refuses."""

from __future__ import annotations

import math

import pytest

from qos.digest import Digest, EmptyDigestError, InvalidSampleError


def test_an_empty_digest_has_no_quantiles():
    with pytest.raises(EmptyDigestError):
        Digest().quantile(0.5)


def test_the_quantiles_of_a_hundred_numbers_are_those_numbers():
    digest = Digest()
    digest.add_many(range(1, 101))

    assert digest.count == 100
    assert digest.quantile(0.0) == 1
    assert digest.quantile(0.5) == pytest.approx(50.5, abs=0.5)
    assert digest.quantile(0.95) == pytest.approx(95.5, abs=0.5)
    assert digest.quantile(1.0) == 100


def test_the_two_hundred_and_first_sample_does_not_fold_the_digest_into_its_mean():
    digest = Digest()
    digest.add_many(range(201))

    assert digest.quantile(0.5) == pytest.approx(100, abs=1)
    assert digest.quantile(0.95) == pytest.approx(190, abs=1)
    assert digest.quantile(0.99) == pytest.approx(198, abs=1)


def test_a_weight_counts_as_that_many_samples():
    digest = Digest()
    digest.add(1.0, 98.0)
    digest.add(5.0, 2.0)

    assert digest.count == 100.0
    assert digest.quantile(0.5) < 2.0
    assert digest.quantile(0.999) > 4.0


def test_merging_gives_everything_seen_and_changes_nobody():
    low, high, empty = Digest(), Digest(), Digest()
    low.add_many(range(50))
    high.add_many(range(50, 100))

    merged = low.merge(high, empty)

    assert (merged.count, low.count, high.count, empty.count) == (100, 50, 50, 0)
    assert merged.quantile(0.5) == pytest.approx(49.5, abs=1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_sample_that_is_no_amount_is_refused_by_its_value(value):
    digest = Digest()

    with pytest.raises(InvalidSampleError, match=repr(value)):
        digest.add(value)
    with pytest.raises(InvalidSampleError, match=repr(value)):
        digest.add_many([1.0, value, 2.0])

    assert digest.count == 0


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_not_above_zero_is_refused(weight):
    with pytest.raises(InvalidSampleError) as caught:
        Digest().add(1.0, weight)

    assert caught.value.value == 1.0
    assert caught.value.weight == weight or math.isnan(weight)
