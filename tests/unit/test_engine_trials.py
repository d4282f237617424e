"""Pins who is suspected, tried, cleared and convicted when hosts die."""

from __future__ import annotations

import pytest

from wicketgate.engine.scheduler import ALONE_TOKENS
from wicketgate.engine.trials import (
    TRANSITIONS,
    TRIAL_TOKENS,
    Finding,
    Standing,
    TransitionError,
    Trials,
    moved,
)


def court(*keys: int) -> Trials:
    trials = Trials()
    for key in keys:
        trials.add(key)
    return trials


def suspected(*keys: int) -> Trials:
    trials = court(*keys)
    trials.died(keys)
    trials.died(keys)
    return trials


def test_one_death_makes_nobody_a_suspect() -> None:
    trials = court(1, 2)

    trials.died([1, 2])

    assert not trials.in_session
    assert trials.call() == []


def test_two_deaths_make_suspects_of_those_who_were_there_at_both() -> None:
    trials = court(1, 2, 3)
    trials.died([1, 2])
    trials.died([2, 3])

    assert [trials.standing(key) for key in (1, 2, 3)] == [
        Standing.INNOCENT,
        Standing.SUSPECT,
        Standing.INNOCENT,
    ]
    assert trials.in_session


def test_waiting_in_a_dead_hosts_queue_counts_half() -> None:
    trials = court(1, 2)
    seen = []
    for _ in range(4):
        trials.died([], waited=[1])
        seen.append(trials.standing(1))
    trials.died([2], waited=[2])

    assert seen == [Standing.INNOCENT] * 3 + [Standing.SUSPECT]
    assert trials.standing(2) is Standing.INNOCENT


def test_suspects_are_tried_one_at_a_time_oldest_first() -> None:
    trials = suspected(2, 1, 3)

    called = [trials.call(), trials.call()]

    assert called == [[1, 2, 3], []]
    assert trials.standing(1) is Standing.ON_TRIAL


def test_lower_ranks_are_tried_first() -> None:
    trials = Trials()
    trials.add(1, rank=1)
    trials.add(2, rank=0)
    for _ in range(2):
        trials.died([1, 2])

    assert trials.call() == [2, 1]


def test_8_tokens_alone_clear_a_suspect_and_its_count_starts_again() -> None:
    trials = suspected(1)
    trials.call()

    cleared = [trials.emitted(1, tokens=1) for _ in range(8)]

    assert cleared == [False] * 7 + [True]
    assert not trials.in_session
    trials.died([1])
    assert trials.standing(1) is Standing.INNOCENT


def test_tokens_of_others_clear_nobody() -> None:
    trials = suspected(1, 2)
    trials.call()

    assert not trials.emitted(2, tokens=100)
    assert trials.standing(1) is Standing.ON_TRIAL


def test_the_end_clears_the_court_for_the_next() -> None:
    trials = suspected(1, 2)
    trials.call()

    trials.end(1)

    assert trials.call() == [2]


def test_a_suspect_that_ends_before_its_trial_is_tried_no_more() -> None:
    trials = suspected(1, 2)
    trials.call()

    trials.end(2)
    trials.end(1)

    assert not trials.in_session


def test_ending_one_that_is_unknown_changes_nothing() -> None:
    trials = court(1)

    trials.end(9)

    assert trials.standing(1) is Standing.INNOCENT


def test_a_death_in_a_trial_speaks_against_the_one_on_trial_alone() -> None:
    trials = suspected(1)
    trials.add(7)
    trials.call()

    convicted = trials.died([1, 7])
    trials.died([7])

    assert convicted == []
    assert trials.standing(1) is Standing.SUSPECT
    assert trials.standing(7) is Standing.INNOCENT


def test_one_that_a_host_died_of_in_its_trial_is_tried_again_before_older_ones() -> None:
    trials = suspected(1, 2, 3)
    trials.call()
    trials.emitted(1, tokens=8)
    trials.call()
    trials.died([])
    trials.died([1])
    trials.died([1])

    assert trials.call() == [2, 1, 3]


def test_the_second_death_in_its_trials_convicts() -> None:
    trials = suspected(1, 2)

    trials.call()
    first = trials.died([])
    trials.call()
    second = trials.died([])

    assert (first, second) == ([], [1])
    assert trials.call() == [2]


def test_tokens_of_an_earlier_trial_do_not_count_in_the_next() -> None:
    trials = suspected(1)
    trials.call()
    trials.emitted(1, tokens=7)
    trials.died([])
    trials.call()

    assert not trials.emitted(1, tokens=1)


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("finding", Finding)
def test_what_the_table_does_not_know_is_refused(standing: Standing, finding: Finding) -> None:
    if (standing, finding) in TRANSITIONS:
        assert moved(standing, finding) is TRANSITIONS[standing, finding]
        return

    with pytest.raises(TransitionError, match=f"{finding} is not possible") as refused:
        moved(standing, finding)

    assert (refused.value.standing, refused.value.finding) == (standing, finding)


def test_host_and_gateway_mean_the_same_by_a_trial() -> None:
    assert ALONE_TOKENS == TRIAL_TOKENS


def test_nothing_leads_out_of_a_conviction() -> None:
    assert not [finding for standing, finding in TRANSITIONS if standing is Standing.CONVICTED]
