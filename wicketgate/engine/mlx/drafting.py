"""
Decides for groups of rows what to draft, and measures whether that pays.

Only small groups are looked at: a full batch keeps the device busy, and its rows get no index and no look-up.
What may be drafted for a group is known when its tokens were read, but its plain passes are launched before.
So a group is asked about twice: whether it had better wait for its tokens, and then what is drafted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wicketgate.engine.drafts import (
    CHANCE_WEIGHT,
    OFF,
    Gain,
    NgramIndex,
    Setting,
    agreement,
    expected_tokens,
)
from wicketgate.engine.mlx.draft_model import DraftCache, open_draft_model
from wicketgate.engine.mlx.verification import can_draft

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wicketgate.engine.mlx.draft_model import DraftModel
    from wicketgate.engine.mlx.rows import Pass, Row
    from wicketgate.engine.options import HostOptions

MOST_ROWS: Final = 8
"""Larger groups are not looked at."""
STREAM_WEIGHT: Final = 1 / 256
"""What one step of a stream counts in the chance that new streams begin with."""
IDLE_SHARE: Final = 0.5
"""A step that began later after the last one than this share of its own length says little."""


def open_speculation(
    options: HostOptions, *, vocabulary_size: int, clock: Callable[[], float]
) -> Speculation | None:
    """
    Return what the options ask for; None where it is off.

    Raises:
        DraftModelError: the draft model cannot draft for this model.
    """
    if options.speculation == "off":
        return None
    model = None
    if options.draft_model:
        model = open_draft_model(
            options.draft_model, model_folder=options.model, vocabulary_size=vocabulary_size
        )
    return Speculation(most_tokens=options.draft_tokens, clock=clock, model=model)


@dataclass(slots=True)
class Drafter:
    """What is known of one row for drafting."""

    index: NgramIndex
    model_chance: float
    """How probably a token of the draft model is right."""
    cache: DraftCache = field(default_factory=DraftCache)
    """The draft model's."""
    guessed_from: int = 0
    """How many tokens the row had when the draft model drafted for it last."""
    guessed: list[int] = field(default_factory=list)
    """What it drafted; empty once that was judged."""

    def judge(self, tokens: Sequence[int]) -> None:
        """Take in how many of the draft model's last tokens were right."""
        right = agreement(self.guessed, tokens[self.guessed_from :])
        for is_right in [True] * right + [False] * (right < len(self.guessed)):
            self.model_chance += (is_right - self.model_chance) * CHANCE_WEIGHT
        self.guessed = []


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pass computes beside the last tokens."""

    setting: Setting
    drafts: list[list[int]]
    """Of each row; at least one is not empty."""


class Speculation:
    """Of one batch."""

    def __init__(
        self, *, most_tokens: int, clock: Callable[[], float], model: DraftModel | None = None
    ) -> None:
        lengths = sorted({max(1, most_tokens // 2), most_tokens})
        self._settings = [Setting("repeats", length) for length in lengths]
        if model is not None:
            self._settings += [Setting("model", length) for length in lengths]
        self._model = model
        self._clock = clock
        self._gain = Gain()
        self._chance = 0.5
        self._model_chance = 0.5
        self._began_s = 0.0
        self._ended_s = 0.0
        self._drafting_s = 0.0
        """How long a draft model worked in this step."""
        self._drafted_s = 0.0
        """And in the one before."""

    # What to draft

    def wants_tokens(self, rows: Sequence[Row]) -> bool:
        """Tell whether a group had better read its tokens before its next pass is launched."""
        return len(rows) <= MOST_ROWS and self._choose(rows, is_read=False).length > 0

    def plan(self, rows: Sequence[Row]) -> Plan | None:
        """Return what to draft for a group of which all tokens were read; None for a plain pass."""
        if len(rows) > MOST_ROWS:
            return None
        setting = self._choose(rows, is_read=True)
        if not setting.length:
            return None
        began_s = self._clock() if setting.source == "model" else 0.0
        drafts = [self._draft(row, setting) for row in rows]
        if setting.source == "model":
            self._drafting_s += self._clock() - began_s
        return Plan(setting, drafts) if any(drafts) else None

    def _choose(self, rows: Sequence[Row], *, is_read: bool) -> Setting:
        drafters = [self._drafter(row) for row in rows]
        if self._model is None and not any(drafter.index.is_hopeful for drafter in drafters):
            return OFF
        lengths = [_most_length(row) for row in rows]
        expected = {}
        for setting in self._settings:
            chances = [_chance(drafter, setting) for drafter in drafters]
            expected[setting] = [
                # Where the next token is not read yet, there may be nothing to draft once it is.
                1 + (expected_tokens(chance, min(setting.length, length)) - 1) * (1 if is_read else chance)
                for chance, length in zip(chances, lengths, strict=True)
            ]
        return self._gain.choose(expected)

    def _drafter(self, row: Row) -> Drafter:
        """Return what is known of a row, all its tokens taken in but for those of a long prompt."""
        if row.drafter is None:
            row.drafter = Drafter(NgramIndex(chance=self._chance), self._model_chance)
        drafter = row.drafter
        drafter.index.follow(row.tokens, judged_from=len(row.message.prompt))
        self._chance += (drafter.index.chance - self._chance) * STREAM_WEIGHT
        if drafter.guessed and len(row.tokens) > drafter.guessed_from:
            drafter.judge(row.tokens)
            self._model_chance += (drafter.model_chance - self._model_chance) * STREAM_WEIGHT
        return drafter

    def _draft(self, row: Row, setting: Setting) -> list[int]:
        drafter, length = row.drafter, min(setting.length, _most_length(row))
        if drafter is None or not length:
            return []
        if self._model is None or not _is_modelled(drafter, setting):
            return drafter.index.propose(row.tokens, length)
        drafter.guessed_from = len(row.tokens)
        drafter.guessed = self._model.draft(drafter.cache, row.tokens, row.state, most_tokens=length)
        return drafter.guessed

    # What was measured

    def begin_step(self) -> None:
        """Note that a step begins."""
        self._began_s = self._clock()

    def end_step(self, passes: Sequence[Pass]) -> None:
        """
        Note that the step ended.

        Args:
            passes: What was read in it. Of several nobody knows which one took how long.
        """
        now_s = self._clock()
        step_s, idle_s = now_s - self._began_s, self._began_s - self._ended_s
        self._ended_s = now_s
        # What was drafted in this step is part of the next pass, not of the one that was read.
        step_s += self._drafted_s - self._drafting_s
        self._drafted_s, self._drafting_s = self._drafting_s, 0.0
        if len(passes) != 1 or passes[0].setting is None or len(passes[0].rows) > MOST_ROWS:
            return
        if idle_s < IDLE_SHARE * step_s:
            self._gain.observe(len(passes[0].rows), passes[0].setting, step_s)


def _most_length(row: Row) -> int:
    """Return how many tokens may be drafted for a row: the pass itself draws one more."""
    return row.message.max_tokens - row.told - 1 if can_draft(row.state) else 0


def _chance(drafter: Drafter, setting: Setting) -> float:
    if _is_modelled(drafter, setting):
        return drafter.model_chance
    return drafter.index.chance if drafter.index.is_hopeful else 0.0


def _is_modelled(drafter: Drafter, setting: Setting) -> bool:
    """Tell where a row's drafts come from: of the two that may be used, the one that is right more often."""
    if setting.source == "repeats":
        return False
    return not drafter.index.is_hopeful or drafter.index.chance < drafter.model_chance
