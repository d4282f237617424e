"""Pins which rows are decoded together: where a row joins, and when groups part or become one."""

from __future__ import annotations

import pytest

from wicketgate.engine.grouping import REGROUP_GAIN, StepCost, cut, merger, place

COST = StepCost(forward_s=0.010, padded_token_s=1e-6)
"""A forward pass costs as much as 10,000 tokens of padding."""


def step_s(groups: list[list[int]], cost: StepCost = COST) -> float:
    """Return what a step of these groups, by the lengths of their rows, costs."""
    padded = sum(len(lengths) * max(lengths) for lengths in groups)
    return cost.forward_s * len(groups) + cost.padded_token_s * padded


def test_the_first_row_opens_a_group() -> None:
    assert place([], rows=1, longest_tokens=100, cost=COST) is None


def test_a_row_joins_the_group_of_its_length() -> None:
    assert place([(31, 128), (1, 4000)], rows=1, longest_tokens=120, cost=COST) == 0
    assert place([(31, 128), (1, 4000)], rows=1, longest_tokens=3900, cost=COST) == 1


def test_a_long_row_beside_many_short_ones_gets_a_group_of_its_own() -> None:
    assert place([(31, 128)], rows=1, longest_tokens=4000, cost=COST) is None


def test_a_long_row_joins_a_few_short_ones_where_that_costs_less_than_a_pass() -> None:
    assert place([(2, 128)], rows=1, longest_tokens=4000, cost=COST) == 0


def test_many_short_rows_that_come_together_do_not_join_a_long_one() -> None:
    assert place([(1, 4000)], rows=1, longest_tokens=100, cost=COST) == 0
    assert place([(1, 4000)], rows=8, longest_tokens=100, cost=COST) is None


def test_groups_of_about_the_same_length_become_one() -> None:
    assert merger([(1, 4000), (8, 130), (8, 120)], cost=COST) == (1, 2)
    assert merger([(8, 120), (8, 130)], cost=COST) == (0, 1)


def test_groups_that_differ_stay_apart() -> None:
    assert merger([(31, 128), (1, 4000)], cost=COST) is None
    assert merger([(31, 128)], cost=COST) is None


def test_a_group_that_has_shrunk_joins_a_longer_one() -> None:
    assert merger([(1, 4000), (1, 200)], cost=COST) == (0, 1)


def test_short_rows_leave_a_long_one_when_they_have_become_many() -> None:
    assert cut([4000, *[100] * 3], cost=COST) is None
    assert cut([4000, *[100] * 5], cost=COST) == 100


def test_the_cut_is_where_it_saves_most() -> None:
    lengths = [4000, 3800, *[300] * 10, *[100] * 10]

    assert cut(lengths, cost=COST) == 300


def test_rows_of_one_length_stay_together() -> None:
    assert cut([100], cost=COST) is None
    assert cut([100] * 128, cost=COST) is None


@pytest.mark.parametrize("rows", [1, 4, 8, 16])
@pytest.mark.parametrize("length", [50, 500, 1000, 2000, 8000])
def test_what_was_just_cut_or_placed_is_not_changed_back(rows: int, length: int) -> None:
    lengths = [1000, *[length] * rows]
    bound = cut(lengths, cost=COST)
    if bound is not None:
        parts = [[each for each in lengths if each <= bound], [each for each in lengths if each > bound]]
        assert merger([(len(part), max(part)) for part in parts], cost=COST) is None
        assert step_s(parts) < step_s([lengths])
    if place([(1, 1000)], rows=rows, longest_tokens=length, cost=COST) is None:
        assert merger([(1, 1000), (rows, length)], cost=COST) is None
    else:
        assert bound is None


def test_a_change_must_save_more_than_it_costs_by_a_margin() -> None:
    rows = 10
    spread = int(COST.forward_s / (rows * COST.padded_token_s))
    barely, clearly = 1.1, 1.1 * REGROUP_GAIN

    assert cut([100] * rows + [100 + int(spread * barely)], cost=COST) is None
    assert cut([100] * rows + [100 + int(spread * clearly)], cost=COST) == 100
    assert merger([(rows, 100), (1, 100 + int(spread / barely))], cost=COST) is None
    assert merger([(rows, 100), (1, 100 + int(spread / clearly))], cost=COST) == (0, 1)


def test_without_a_measurement_the_cost_is_one_that_was_seen() -> None:
    assert place([(31, 128)], rows=1, longest_tokens=4000, cost=StepCost()) is None


@pytest.mark.parametrize("wrong", [{"forward_s": 0.0}, {"padded_token_s": -1e-9}])
def test_a_cost_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        StepCost(**wrong)
