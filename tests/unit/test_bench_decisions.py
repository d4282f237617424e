"""The bars of the decision bench: held against medians, and against ratios of the same round."""

from __future__ import annotations

from bench import decisions
from bench.decisions import ALL, FOUR, HASH, NONE, ONE, bars

FIGURES_S = {
    HASH: [0.1e-6, 0.2e-6, 0.4e-6],
    ONE: [0.3e-6, 0.4e-6, 1.2e-6],
    ALL: [0.1e-6] * 3,
    NONE: [0.3e-6] * 3,
    FOUR: [2e-6] * 3,
}
SLOW, SLOWER = list(decisions.ANCHORS)[:2]


def found(**more: list[float]) -> dict[str, tuple[float, bool]]:
    return {bar.what: (round(bar.measured, 3), bar.met) for bar in bars({**FIGURES_S, **more})}


def test_medians_are_held_against_their_bars():
    assert found()[ONE] == (0.4, True)
    assert found()[NONE] == (0.3, False)


def test_a_ratio_is_the_median_of_the_ratios_within_a_round():
    assert found()[f"{ONE} / {HASH}"] == (3.0, True)


def test_the_fastest_of_the_others_counts():
    told = found(**{SLOW: [9e-6, 12e-6, 36e-6], SLOWER: [1e-3] * 3})

    assert told[f"{SLOW} / {ONE}"] == (30.0, True)


def test_without_the_others_nothing_is_claimed_about_them():
    assert len(found()) == 5


def test_the_loops_do_what_they_are_named_for():
    for loop in decisions.ours().values():
        loop()

    assert decisions.snapshot(1, 10, 50, 1).shares[decisions.SPLIT].millipercent == 1000
