"""ShareTest: its closed form by hand and against numbers worked out one key at a time; two sides; restart."""

from __future__ import annotations

import json
import random

import pytest

from rollout.share_test import ShareTest

LIMIT = 1000.0


def _evidence(share: float, canary: int, control: int) -> float:
    test = ShareTest(share)
    test.observe(canary, control)
    return test.evidence


def test_no_key_says_nothing():
    assert _evidence(0.2, 0, 0) == pytest.approx(1.0)


def test_the_first_key_says_nothing_since_the_mixture_is_centred_on_the_declared_share():
    assert _evidence(0.2, 1, 0) == pytest.approx(1.0)
    assert _evidence(0.2, 0, 1) == pytest.approx(1.0)


def test_two_keys_by_hand():
    # At a share of a half the priors are Beta(1, 1) and Beta(100, 100): a second key of the same arm has a
    # probability of 2/3 or 101/201 under them, and of 1/2 under the declared share.
    assert _evidence(0.5, 2, 0) == pytest.approx((4 / 3 + 202 / 201) / 2)
    assert _evidence(0.5, 1, 1) == pytest.approx((2 / 3 + 200 / 201) / 2)


def test_it_equals_the_product_of_single_predictions():
    share, keys = 0.2, [1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 0, 1]
    products = []
    for a, b in ((1.0, 4.0), (100.0, 400.0)):
        product, canary, control = 1.0, 0, 0
        for key in keys:
            expected = (a + canary) / (a + b + canary + control)
            product *= expected / share if key else (1 - expected) / (1 - share)
            canary, control = canary + key, control + 1 - key
        products.append(product)

    assert _evidence(share, sum(keys), len(keys) - sum(keys)) == pytest.approx(sum(products) / 2)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_keys_by_their_share_never_trip_it(share):
    random_ = random.Random(3)
    test = ShareTest(share)
    highest = 0.0

    for _ in range(4000):
        canary = random_.random() < share
        test.observe(int(canary), int(not canary))
        highest = max(highest, test.evidence)

    assert highest < LIMIT


def test_too_few_keys_of_the_canary_trip_it():
    assert _evidence(0.01, 0, 1200) > LIMIT


def test_too_many_keys_of_the_canary_trip_it():
    assert _evidence(0.01, 40, 1160) > LIMIT


def test_a_tenth_too_many_is_found_in_many_keys():
    assert _evidence(0.1, 5500, 44_500) > LIMIT
    assert _evidence(0.1, 5000, 45_000) < 1


def test_swapping_the_arms_and_their_shares_says_the_same():
    assert _evidence(0.1, 30, 90) == pytest.approx(_evidence(0.9, 90, 30))


def test_counts_past_every_float_are_bounded():
    assert LIMIT < _evidence(0.01, 10**12, 1) < float("inf")


def test_it_goes_on_from_its_document():
    test = ShareTest(0.1)
    test.observe(12, 140)

    again = ShareTest(0.1, json.loads(json.dumps(test.document())))

    assert again.evidence == test.evidence
    assert again.document() == {"canary": 12, "control": 140}


@pytest.mark.parametrize(
    "document", [{}, {"canary": 1}, {"canary": 1, "control": "2"}, {"canary": -1, "control": 2}]
)
def test_a_document_of_another_shape_is_refused(document):
    with pytest.raises(ValueError, match="must be a whole number of at least 0"):
        ShareTest(0.1, document)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_without_two_arms_is_refused(share):
    with pytest.raises(ValueError, match="share_ratio must be above 0 and below 1"):
        ShareTest(share)
