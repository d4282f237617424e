"""
Which rows are decoded together. Pure.

Theory of operation. A decode step is one forward pass per group. A pass costs something whoever is in it, and
each of its rows pays for as many tokens of KV as the longest of them has, since the shorter ones are padded.
So one long row among many short ones is better off alone, and two rows of about the same length together.
Rows of a group grow in step: what the best groups are changes only when a row comes or goes. Changing groups
copies their KV, hence the hysteresis; opening one does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

REGROUP_GAIN: Final = 1.5
"""What is saved must be so many times what it costs, each step, before rows change their group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """What a decode step costs."""

    forward_s: float = 3e-3
    """One more forward pass; the default and the next are a 1B model's on an M4 Max, as plant.py has them."""
    padded_token_s: float = 7e-8
    """One more token of KV in one row, padding or not."""

    def __post_init__(self) -> None:
        """Refuse costs that would make every choice equal."""
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


def place(groups: Sequence[tuple[int, int]], *, rows: int, longest_tokens: int, cost: StepCost) -> int | None:
    """
    Choose the group that makes the step cheapest when new rows join it.

    Args:
        groups: (rows, tokens of the longest) of each group.
        rows: How many rows join together.
        longest_tokens: Of the longest of them.
        cost: What a step costs.

    Returns:
        The group's index, or None for a group of their own.
    """
    best, least_s = None, cost.forward_s
    own_tokens = rows * longest_tokens
    for index, (other_rows, other_tokens) in enumerate(groups):
        together = (other_rows + rows) * max(other_tokens, longest_tokens)
        extra_s = (together - other_rows * other_tokens - own_tokens) * cost.padded_token_s
        if extra_s < least_s:
            best, least_s = index, extra_s
    return best


def merger(groups: Sequence[tuple[int, int]], *, cost: StepCost) -> tuple[int, int] | None:
    """Return the indices of the two groups, (rows, longest) each, that gain most by becoming one, or None."""
    found, least_s = None, cost.forward_s / REGROUP_GAIN
    for left, (left_rows, left_tokens) in enumerate(groups):
        for right in range(left + 1, len(groups)):
            right_rows, right_tokens = groups[right]
            shorter_rows = left_rows if left_tokens < right_tokens else right_rows
            padding_s = shorter_rows * abs(left_tokens - right_tokens) * cost.padded_token_s
            if padding_s < least_s:
                found, least_s = (left, right), padding_s
    return found


def cut(lengths: Sequence[int], *, cost: StepCost) -> int | None:
    """Return the length up to which the rows of a group had better leave it, or None when all should stay."""
    ordered = sorted(lengths)
    longest_tokens = ordered[-1]
    found, most_s = None, cost.forward_s * REGROUP_GAIN
    for rows, length in enumerate(ordered, start=1):
        padding_s = rows * (longest_tokens - length) * cost.padded_token_s
        if padding_s > most_s:
            found, most_s = length, padding_s
    return found
