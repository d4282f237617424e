"""
What to draft ahead, and whether it pays. Pure.

Theory of operation. A forward pass over a few more tokens of a row costs less than that many passes. So what
a stream will probably say is drafted and computed in one pass with the token that it has. The pass then tells
what the stream really says at each place, and what was drafted differently is taken back. The text is the
same, drafted or not.

Text repeats itself: `NgramIndex` finds where the last tokens were before, and drafts what followed there. It
judges its own forecast by each new token, drafted or not, so it knows a stream's chance before it is used.
What a pass of so many rows and drafts takes is measured. `Gain` compares expected tokens per second.
"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

NGRAM_TOKENS: Final = 3
"""So many tokens must have been there before; two are found by chance in any longer text."""
CHANCE_WEIGHT: Final = 1 / 8
"""What one more forecast counts in a stream's chance."""


class NgramIndex:
    """
    Where the last tokens of one stream were before. Constant time per token, bounded memory.

    The stream's tokens stay with their owner, who passes the same growing list to every call.
    """

    def __init__(self, *, chance: float = 0.5, max_entries: int = 32_768) -> None:
        self.chance = chance
        """How probably the next token of a draft is right."""
        self._half = max(1, max_entries // 2)
        self._recent: dict[tuple[int, int, int], int] = {}
        """Position after the last place of these tokens."""
        self._older: dict[tuple[int, int, int], int] = {}
        """Dropped as a whole when `_recent` is half of what is allowed."""
        self._seen = 0
        self._source: int | None = None
        """Position of the token that is forecast to come next."""

    @property
    def is_hopeful(self) -> bool:
        """Whether there is something to draft."""
        return self._source is not None

    def follow(self, tokens: Sequence[int], *, judged_from: int = 0, most_tokens: int = 2048) -> None:
        """
        Take in what is new in a stream.

        Args:
            tokens: All of it.
            judged_from: Forecasts of tokens before this position do not count: a prompt is not an answer.
            most_tokens: Most tokens taken in now, so that a long prompt does not take a step's time.
        """
        end = min(len(tokens), self._seen + most_tokens)
        for position in range(self._seen, end):
            self._take(tokens, position, is_judged=position >= judged_from)
        self._seen = end

    def _take(self, tokens: Sequence[int], position: int, *, is_judged: bool) -> None:
        if self._source is not None:
            is_hit = tokens[self._source] == tokens[position]
            if is_judged:
                self.chance += (is_hit - self.chance) * CHANCE_WEIGHT
            self._source = self._source + 1 if is_hit else None
        if position + 1 < NGRAM_TOKENS:
            return
        key = (tokens[position - 2], tokens[position - 1], tokens[position])
        if self._source is None:
            self._source = self._recent.get(key) or self._older.get(key)
        self._recent[key] = position + 1
        if len(self._recent) >= self._half:
            self._older, self._recent = self._recent, {}

    def propose(self, tokens: Sequence[int], most_tokens: int) -> list[int]:
        """Draft so many next tokens; none where the last ones were never there, or are not all taken in."""
        if self._source is None or self._seen < len(tokens):
            return []
        drafted: list[int] = []
        for position in range(self._source, self._source + most_tokens):
            # A source that runs into the draft itself is a loop, which goes on.
            beyond = position - len(tokens)
            drafted.append(tokens[position] if beyond < 0 else drafted[beyond])
        return drafted


def agreement(drafted: Sequence[int], drawn: Sequence[int]) -> int:
    """Count the leading drafted tokens that are what was drawn."""
    for count, (draft, token) in enumerate(zip(drafted, drawn, strict=False)):
        if draft != token:
            return count
    return min(len(drafted), len(drawn))


def expected_tokens(chance: float, length: int) -> float:
    """Return how many tokens a pass with so many drafts brings to a row, each right with that chance."""
    return sum(chance**count for count in range(length + 1))


@dataclass(frozen=True, slots=True)
class Setting:
    """What is drafted for a group."""

    source: Literal["repeats", "model"]
    """From the stream's own text, or by a draft model where that has nothing."""
    length: int
    """Tokens per row."""


OFF: Final = Setting("repeats", 0)

LEAST_GAIN: Final = 1.05
"""A setting is used where it brings so many times the tokens per second."""
LEAST_SHARE: Final = 0.9
"""And where no row gets less than this share of its own: one stream does not pay for another."""
UNKNOWN_SHARE: Final = 0.1
"""What a drafted token is taken to add to a pass before that was measured."""
SAMPLES: Final = 7
"""The median of the last ones counts: single passes are held up by anything."""
LEAST_SAMPLES: Final = 3
FIRST_SHARE: Final = 0.5
"""Of the fastest of fewer samples: first passes may be slow, but not ten times as slow as later ones."""
OFF_STEPS: Final = 256
"""After so many steps the pass without drafts is measured again: contexts grow. It takes three steps."""
RETRY_STEPS: Final = 2048
"""After so many steps a setting that lost may be tried again, where it would gain if it cost little."""


class Gain:
    """Which setting brings the most tokens per second, by what passes of so many rows took."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, Setting], _Cell] = {}
        self._step = 0

    def observe(self, rows: int, setting: Setting, step_s: float) -> None:
        """Note how long a step of so many rows took with this setting."""
        self._step += 1
        cell = self._cells.setdefault((rows, setting), _Cell())
        cell.times_s.append(step_s)
        cell.measured_step = self._step

    def choose(self, expected: Mapping[Setting, Sequence[float]]) -> Setting:
        """
        Return what to do next.

        Args:
            expected: For each setting that could be used, how many tokens a step brings to each row.
        """
        best, most = OFF, LEAST_GAIN
        for setting, tokens in expected.items():
            rows = len(tokens)
            off_times_s = self._times_s(rows, OFF, OFF_STEPS)
            if len(off_times_s) < LEAST_SAMPLES:
                return OFF
            off_s = statistics.median(off_times_s)
            ratio = self._pass_s(rows, setting, off_s=off_s) / off_s
            gain = sum(tokens) / rows / ratio
            if gain > most and min(tokens) / ratio >= LEAST_SHARE:
                best, most = setting, gain
        return best

    def _pass_s(self, rows: int, setting: Setting, *, off_s: float) -> float:
        """Return what a pass takes; while little is known, as little as is plausible, so that it is tried."""
        times_s = self._times_s(rows, setting, RETRY_STEPS)
        if not times_s:
            return off_s * (1 + UNKNOWN_SHARE * setting.length)
        typical_s = statistics.median(times_s)
        if len(times_s) < LEAST_SAMPLES:
            typical_s = min(times_s) * FIRST_SHARE
        # More tokens never take less time: what says so is noise.
        return max(off_s, typical_s)

    def _times_s(self, rows: int, setting: Setting, max_age_steps: int) -> Collection[float]:
        cell = self._cells.get((rows, setting))
        if cell is None:
            return ()
        if self._step - cell.measured_step >= max_age_steps:
            cell.times_s.clear()
        return cell.times_s


class _Cell:
    """What was measured of one setting with so many rows."""

    __slots__ = ("measured_step", "times_s")

    def __init__(self) -> None:
        self.times_s: deque[float] = deque(maxlen=SAMPLES)
        self.measured_step = 0
