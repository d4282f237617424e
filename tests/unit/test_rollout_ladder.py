"""Ladder: warm-up, where values fall, what a bet pays, which way it points, how its rungs follow, restart."""

from __future__ import annotations

import json
import math
import random

import pytest

from rollout.guards import Arm
from rollout.ladder import WARM_UP, Direction, Ladder, LadderTest

LIMIT = 5000.0
SLOWER = LadderTest(name="pause", tolerance_ratio=0.05)
FAR = LadderTest(name="roll back", tolerance_ratio=0.5)
FASTER = LadderTest(name="faster", tolerance_ratio=0.0, direction=Direction.FASTER)
GAIN = LadderTest(name="gain", tolerance_ratio=0.3, direction=Direction.FASTER)
ALL = (SLOWER, FAR, FASTER, GAIN)


def _times(seed: int, count: int) -> list[float]:
    random_ = random.Random(seed)
    return [random_.lognormvariate(0, 0.7) for _ in range(count)]


def _warm(share: float = 0.1, tests: tuple[LadderTest, ...] = ALL) -> Ladder:
    ladder = Ladder(share, tests)
    for value in _times(1, WARM_UP):
        ladder.observe(Arm.CONTROL, value)
    ladder.fold(0.0)
    return ladder


def _evidence(ladder: Ladder) -> dict[str, float]:
    return {test.name: ladder.evidence(test.name) for test in ALL}


def _run(factor: float, *, requests: int, share: float = 0.5, seed: int = 5) -> dict[str, float]:
    """Return the evidence after requests whose canary takes so many times as long."""
    random_ = random.Random(seed)
    ladder = _warm(share)
    for number, value in enumerate(_times(seed, requests)):
        canary = random_.random() < share
        ladder.observe(Arm.CANARY if canary else Arm.CONTROL, value * factor if canary else value)
        if number % 10 == 9:
            ladder.fold(0.0)
    return _evidence(ladder)


def _rungs(ladder: Ladder) -> list[float]:
    document = json.loads(json.dumps(ladder.document()))
    return [math.exp(each) for each in document["rungs"]["logs"]]


def test_nothing_counts_until_control_has_placed_the_rungs():
    ladder = Ladder(0.1, ALL)

    for value in _times(1, WARM_UP - 1):
        ladder.observe(Arm.CONTROL, value)
        ladder.observe(Arm.CANARY, 100.0)
    ladder.fold(0.0)

    assert set(_evidence(ladder).values()) == {1.0}
    assert _rungs(ladder) == []


def test_the_first_values_of_control_place_the_rungs_at_their_quantiles():
    ladder = Ladder(0.1, ALL)

    for value in range(1, WARM_UP + 1):
        ladder.observe(Arm.CONTROL, float(value))
    ladder.observe(Arm.CONTROL, 1e6)
    ladder.fold(0.0)

    # The 3.6 % quantile of 50 values is the 2nd, the 7.5 % quantile the 4th, the 98.5 % quantile the 50th.
    rungs = _rungs(ladder)
    assert [rungs[0], rungs[1], rungs[-1]] == pytest.approx([2.0, 4.0, 50.0])


def test_evidence_moves_with_the_fold_and_not_before():
    ladder = _warm()
    before = _evidence(ladder)

    ladder.observe(Arm.CANARY, 100.0)
    unfolded = _evidence(ladder)
    ladder.fold(0.0)

    assert unfolded == before
    assert ladder.evidence("pause") > before["pause"]


def test_a_tick_without_values_changes_nothing():
    ladder = _warm()
    ladder.observe(Arm.CANARY, 100.0)
    ladder.fold(0.0)
    before = ladder.document()

    ladder.fold(0.0)

    assert ladder.document() == before


def test_time_alone_moves_no_evidence():
    ladder = _warm()

    ladder.fold(2.5)

    assert list(_evidence(ladder).values()) == pytest.approx([1.0] * 4)


def test_the_slowest_value_is_worth_its_likelihood_by_hand():
    ladder = _warm(share=0.5, tests=(SLOWER,))

    ladder.observe(Arm.CANARY, 1e6)
    ladder.fold(0.0)

    # Beyond 2.16 standard deviations: how much likelier under each shift, and what that pays at a half.
    def beyond(shift: float) -> float:
        return 0.5 * math.erfc((2.16 - shift) / math.sqrt(2))

    odds = [beyond(shift) / beyond(0) for shift in (0.1, 0.25, 0.5, 1.0, 2.0)]
    weights = (0.15, 0.25, 0.25, 0.25, 0.1)
    paid = sum(weight * each / (0.5 * each + 0.5) for weight, each in zip(weights, odds, strict=True))
    assert ladder.evidence("pause") == pytest.approx(0.5 * paid + 0.5)


def test_a_canary_twice_as_slow_is_found_by_both_tests_for_slower():
    evidence = _run(2.0, requests=600)

    assert evidence["pause"] > LIMIT
    assert evidence["roll back"] > 20
    assert evidence["faster"] < 1
    assert evidence["gain"] < 1


def test_a_canary_three_times_as_slow_is_to_be_rolled_back():
    assert _run(3.0, requests=600)["roll back"] > LIMIT


def test_a_canary_in_half_the_time_is_found_by_both_tests_for_faster():
    evidence = _run(0.5, requests=600)

    assert evidence["faster"] > LIMIT
    assert evidence["gain"] > 20
    assert evidence["pause"] < 1
    assert evidence["roll back"] < 1


def test_a_slow_control_flips_the_sign():
    random_ = random.Random(2)
    ladder = _warm(share=0.5)

    for value in _times(2, 600):
        canary = random_.random() < 0.5
        ladder.observe(Arm.CANARY if canary else Arm.CONTROL, value if canary else 2 * value)
        ladder.fold(0.0)

    assert ladder.evidence("faster") > LIMIT
    assert ladder.evidence("pause") < 1


def test_a_slowdown_of_both_arms_is_no_evidence():
    random_ = random.Random(4)
    ladder = _warm(share=0.5)
    highest = 0.0

    for number, value in enumerate(_times(4, 2000)):
        arm = Arm.CANARY if random_.random() < 0.5 else Arm.CONTROL
        ladder.observe(arm, value * (10.0 if number > 1000 else 1.0))
        ladder.fold(0.0)
        highest = max(highest, *_evidence(ladder).values())

    assert highest < 100


def test_a_gain_of_less_than_asked_for_is_no_evidence_of_it():
    evidence = _run(1 / 1.15, requests=4000)

    assert evidence["faster"] > 100
    assert evidence["gain"] < 1


def test_the_rungs_follow_control_to_another_load():
    ladder = _warm()
    before = _rungs(ladder)

    for value in _times(6, 1000):
        ladder.observe(Arm.CONTROL, 5 * value)
        ladder.fold(0.0)

    ratios = [after / old for after, old in zip(_rungs(ladder), before, strict=True)]
    assert 3 < min(ratios) < max(ratios) < 9
    assert _rungs(ladder)[5] == pytest.approx(5.0, rel=0.3)


def test_one_big_tick_moves_the_rungs_no_further_than_its_values():
    ladder = _warm()

    values = _times(6, 1000)
    for _ in range(8):
        for value in values:
            ladder.observe(Arm.CONTROL, value)
        ladder.fold(0.0)

    wanted = [math.exp(0.7 * (-1.8 + 0.36 * rung)) for rung in range(12)]
    assert _rungs(ladder) == pytest.approx(wanted, rel=0.25)


def test_equal_values_do_not_freeze_the_rungs():
    ladder = Ladder(0.1, [SLOWER])
    for _ in range(WARM_UP):
        ladder.observe(Arm.CONTROL, 1.0)
    ladder.fold(0.0)

    for _ in range(2000):
        ladder.observe(Arm.CONTROL, 2.0)
        ladder.fold(0.0)

    assert 1.8 < _rungs(ladder)[6] < 2.2


def test_values_without_a_logarithm_do_no_harm():
    ladder = Ladder(0.1, [SLOWER])
    for value in [0.0, math.inf, math.nan] * WARM_UP:
        ladder.observe(Arm.CONTROL, value)
    ladder.fold(0.0)

    for value in [0.0, math.inf, math.nan] * 100:
        ladder.observe(Arm.CONTROL, value)
        ladder.observe(Arm.CANARY, value)
        ladder.fold(0.0)

    assert all(1e-10 < rung < 1e10 for rung in _rungs(ladder))
    assert 0 <= ladder.evidence("pause") < 1e281


def test_it_goes_on_from_its_document():
    ladder = _warm()
    ladder.observe(Arm.CANARY, 3.0)
    ladder.fold(0.3)

    again = Ladder(0.1, ALL, json.loads(json.dumps(ladder.document())))
    for each in (ladder, again):
        each.observe(Arm.CANARY, 2.0)
        each.observe(Arm.CONTROL, 1.0)
        each.fold(0.4)

    assert again.document() == ladder.document()


def test_a_document_made_before_the_rungs_stood_warms_up_again():
    young = Ladder(0.1, ALL)
    young.observe(Arm.CONTROL, 1.0)

    again = Ladder(0.1, ALL, json.loads(json.dumps(young.document())))
    again.observe(Arm.CANARY, 1.0)
    again.fold(0.0)

    assert set(_evidence(again).values()) == {1.0}


_RISING = [float(each) for each in range(12)]


@pytest.mark.parametrize(
    ("rungs", "cause"),
    [
        ({"logs": _RISING}, "seen must be"),
        ({"logs": "none", "seen": 60}, "no rungs"),
        ({"logs": _RISING[:3], "seen": 60}, "no rungs"),
        ({"logs": [*_RISING[:11], None], "seen": 60}, "out of order"),
        ({"logs": _RISING[::-1], "seen": 60}, "out of order"),
        ({"logs": _RISING, "seen": 11}, "out of order"),
        ({"logs": [*_RISING[:11], math.inf], "seen": 60}, "out of range"),
        ({"logs": [*_RISING[:11], math.nan], "seen": 60}, "out of range"),
    ],
)
def test_a_document_with_other_rungs_is_refused(rungs, cause):
    document = {**_warm().document(), "rungs": rungs}

    with pytest.raises(ValueError, match=cause):
        Ladder(0.1, ALL, document)


@pytest.mark.parametrize("missing", ["rungs", "tests"])
def test_a_document_that_lacks_a_part_is_refused(missing):
    document = {name: part for name, part in _warm().document().items() if name != missing}

    with pytest.raises(ValueError, match=f"{missing} must be an object"):
        Ladder(0.1, ALL, document)


def test_a_document_of_other_tests_is_refused():
    document = _warm(tests=(SLOWER,)).document()

    with pytest.raises(ValueError, match="faster must be an object"):
        Ladder(0.1, (SLOWER, FASTER), document)


def test_two_tests_of_one_name_are_refused():
    with pytest.raises(ValueError, match="names of their own"):
        Ladder(0.1, (SLOWER, SLOWER))


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
def test_a_tolerance_that_is_none_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance_ratio of pause must be at least 0"):
        LadderTest(name="pause", tolerance_ratio=tolerance)


def test_a_share_without_two_arms_is_refused():
    with pytest.raises(ValueError, match="share_ratio must be above 0 and below 1"):
        Ladder(1.0, ALL)


def test_a_name_that_no_test_has_has_no_evidence():
    with pytest.raises(KeyError):
        _warm().evidence("other")
