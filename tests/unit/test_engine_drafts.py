"""Pins what is drafted from repeated text, how a stream's chance is learnt, and when drafting is used."""

from __future__ import annotations

import random

import pytest

from wicketgate.engine.drafts import (
    LEAST_SAMPLES,
    OFF,
    OFF_STEPS,
    RETRY_STEPS,
    Gain,
    NgramIndex,
    Setting,
    agreement,
    expected_tokens,
)

SHORT = Setting("repeats", 3)
LONG = Setting("repeats", 6)


def index_of(tokens: list[int], **options: float) -> NgramIndex:
    index = NgramIndex(**options)
    index.follow(tokens)
    return index


def test_what_followed_the_last_three_tokens_before_is_drafted() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 9, 1, 2, 3]

    assert index_of(tokens).propose(tokens, 3) == [4, 5, 6]


def test_two_tokens_that_were_there_before_are_not_enough() -> None:
    tokens = [1, 2, 3, 4, 8, 2, 3]

    assert index_of(tokens).propose(tokens, 3) == []


def test_nothing_is_drafted_from_fewer_than_three_tokens() -> None:
    assert index_of([1, 1]).propose([1, 1], 3) == []


def test_the_latest_of_several_places_counts() -> None:
    tokens = [1, 2, 3, 4, 9, 1, 2, 3, 7, 8, 1, 2, 3]
    index = NgramIndex()

    for end in range(1, len(tokens) + 1):
        index.follow(tokens[:end])

    assert index.propose(tokens, 2) == [7, 8]


def test_a_loop_is_drafted_beyond_its_own_end() -> None:
    tokens = [7, 8, 9, 7, 8, 9]

    assert index_of(tokens).propose(tokens, 8) == [7, 8, 9, 7, 8, 9, 7, 8]


def test_a_token_that_repeats_itself_is_drafted() -> None:
    tokens = [5, 5, 5, 5]

    assert index_of(tokens).propose(tokens, 4) == [5, 5, 5, 5]


def test_a_forecast_that_holds_goes_on_from_where_it_is() -> None:
    first, second = [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7, 8]
    tokens = [*first, *second, 9, 1, 2, 3]
    index = index_of(tokens)

    tokens += [4]
    index.follow(tokens)

    assert index.propose(tokens, 2) == [7, 8]


def test_a_forecast_that_fails_is_dropped_for_another_place() -> None:
    tokens = [2, 3, 6, 50, 51, 1, 2, 3, 4, 1, 2, 3]
    index = index_of(tokens)

    tokens += [6]
    index.follow(tokens)

    assert index.propose(tokens, 2) == [50, 51]


def test_nothing_is_drafted_before_all_tokens_are_taken_in() -> None:
    tokens = [1, 2, 3, 4] * 5
    index = NgramIndex()
    index.follow(tokens, most_tokens=12)
    assert index.is_hopeful
    assert index.propose(tokens, 3) == []

    index.follow(tokens, most_tokens=12)

    assert index.propose(tokens, 3) == [1, 2, 3]


def test_tokens_taken_in_one_by_one_or_at_once_are_the_same() -> None:
    chance = random.Random(4)
    tokens = [chance.randrange(3) for _ in range(300)]
    slow = NgramIndex()
    for end in range(1, len(tokens) + 1):
        slow.follow(tokens[:end])
    fast = index_of(tokens)

    assert slow.propose(tokens, 10) == fast.propose(tokens, 10)
    assert slow.chance == fast.chance


def test_a_streams_chance_is_learnt_from_its_forecasts() -> None:
    loop = index_of([1, 2, 3, 4] * 20)
    changing = index_of([token for number in range(20) for token in (1, 2, 3, 100 + number)])

    assert loop.chance > 0.99
    assert changing.chance < 0.1


def test_forecasts_within_the_prompt_do_not_count() -> None:
    tokens = [1, 2, 3, 4] * 20
    index = NgramIndex(chance=0.5)

    index.follow(tokens, judged_from=len(tokens))

    assert index.chance == 0.5
    assert index.propose(tokens, 2) == [1, 2]


def test_where_no_forecast_was_made_the_chance_stays() -> None:
    assert index_of(list(range(100)), chance=0.4).chance == 0.4


def test_the_index_forgets_what_is_long_ago_and_no_more() -> None:
    index = NgramIndex(max_entries=200)
    start = list(range(1000, 1010))
    tokens = [*start, *range(500), *start[:4]]
    index.follow(tokens)
    assert index.propose(tokens, 2) == []

    tokens += [7777, *range(450, 455)]
    index.follow(tokens)

    assert index.propose(tokens, 2) == [455, 456]


@pytest.mark.parametrize(
    ("drafted", "drawn", "count"),
    [([], [4], 0), ([4], [4, 5], 1), ([4, 5, 6], [4, 9, 6, 1], 1), ([3], [4, 5], 0), ([4, 5, 6], [4, 5], 2)],
)
def test_drafts_agree_up_to_the_first_difference(drafted: list[int], drawn: list[int], count: int) -> None:
    assert agreement(drafted, drawn) == count


def test_a_pass_brings_one_token_and_what_its_drafts_are_worth() -> None:
    assert expected_tokens(0.0, 6) == 1
    assert expected_tokens(1.0, 6) == 7
    assert expected_tokens(0.5, 2) == 1.75


def even(rows: int, expected: dict[Setting, float]) -> dict[Setting, list[float]]:
    """Spread the tokens of a step evenly over its rows."""
    return {setting: [tokens / rows] * rows for setting, tokens in expected.items()}


def measured(gain: Gain, rows: int, setting: Setting, step_s: float, count: int = LEAST_SAMPLES) -> Gain:
    for _ in range(count):
        gain.observe(rows, setting, step_s)
    return gain


def test_nothing_is_drafted_before_the_plain_pass_was_measured() -> None:
    gain = measured(Gain(), 1, OFF, 1.0, LEAST_SAMPLES - 1)
    assert gain.choose(even(1, {SHORT: 4.0})) == OFF

    gain.observe(1, OFF, 1.0)

    assert gain.choose(even(1, {SHORT: 4.0})) == SHORT


def test_an_unknown_setting_is_tried_only_where_much_is_expected() -> None:
    gain = measured(Gain(), 1, OFF, 1.0)

    assert gain.choose(even(1, {SHORT: 1.3})) == OFF
    assert gain.choose(even(1, {SHORT: 1.4})) == SHORT


def test_the_setting_with_the_most_tokens_per_second_is_used() -> None:
    gain = measured(measured(measured(Gain(), 2, OFF, 1.0), 2, SHORT, 1.5), 2, LONG, 3.0)

    assert gain.choose(even(2, {SHORT: 6.0, LONG: 10.0})) == SHORT
    assert gain.choose(even(2, {SHORT: 6.0, LONG: 14.0})) == LONG


def test_a_setting_that_gains_too_little_is_not_used() -> None:
    gain = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 2.0)

    assert gain.choose(even(1, {SHORT: 2.09})) == OFF
    assert gain.choose(even(1, {SHORT: 2.11})) == SHORT


def test_nothing_is_drafted_where_one_row_would_pay_for_another() -> None:
    gain = measured(measured(Gain(), 2, OFF, 1.0), 2, SHORT, 1.2)

    assert gain.choose({SHORT: [4.0, 1.0]}) == OFF
    assert gain.choose({SHORT: [4.0, 1.1]}) == SHORT


def test_a_pass_with_drafts_is_never_taken_to_be_the_faster_one() -> None:
    gain = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 0.5)

    assert gain.choose({SHORT: [1.0]}) == OFF


def test_what_was_measured_counts_for_so_many_rows_only() -> None:
    gain = measured(measured(Gain(), 1, OFF, 1.0), 8, OFF, 1.0)
    measured(gain, 8, SHORT, 9.0)

    assert gain.choose(even(8, {SHORT: 32.0})) == OFF
    assert gain.choose(even(1, {SHORT: 4.0})) == SHORT


def test_a_slow_first_pass_is_not_the_last_but_a_hopeless_one_is() -> None:
    slow = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 4.0, 1)
    hopeless = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 12.0, 1)

    assert slow.choose({SHORT: [3.0]}) == SHORT
    assert hopeless.choose({SHORT: [4.0]}) == OFF


def test_one_slow_pass_changes_nothing() -> None:
    gain = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 1.2)
    gain.observe(1, SHORT, 100.0)

    assert gain.choose(even(1, {SHORT: 4.0})) == SHORT


def test_the_plain_pass_is_measured_again_after_a_while() -> None:
    gain = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 1.0)
    measured(gain, 1, SHORT, 1.0, OFF_STEPS)
    assert gain.choose(even(1, {SHORT: 4.0})) == OFF

    measured(gain, 1, OFF, 0.2)

    assert gain.choose(even(1, {SHORT: 4.0})) == OFF
    assert gain.choose(even(1, {SHORT: 6.0})) == SHORT


def test_a_setting_that_lost_is_tried_again_after_a_long_while() -> None:
    gain = measured(measured(Gain(), 1, OFF, 1.0), 1, SHORT, 9.0)
    measured(gain, 1, OFF, 1.0, RETRY_STEPS - 1)
    assert gain.choose(even(1, {SHORT: 4.0})) == OFF

    gain.observe(1, OFF, 1.0)

    assert gain.choose(even(1, {SHORT: 4.0})) == SHORT


def test_drafting_that_never_pays_costs_a_small_share_of_the_time() -> None:
    """Simulate 20,000 steps of a machine on which a pass with drafts takes four times as long."""
    chance = random.Random(1)
    gain = Gain()
    spent_s, tokens = 0.0, 0.0
    for _ in range(20_000):
        setting = gain.choose(even(1, {SHORT: 2.5, LONG: 3.0}))
        step_s = chance.uniform(0.9, 1.3) * (4.0 if setting.length else 1.0)
        gain.observe(1, setting, step_s)
        spent_s += step_s
        tokens += {0: 1.0, 3: 2.5, 6: 3.0}[setting.length]

    assert spent_s / tokens < 1.02 * 1.1
