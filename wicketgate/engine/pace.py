"""
How fast this machine computes prompts and decodes, learned from what steps took. Pure.

Theory of operation. The seconds per prompt token are a line, `base + slope x context`: attention looks at
every earlier token. The line is fitted to the chunks seen, each weighing as many tokens as it had and older
ones less. A level on top of it follows what moves faster than a fit: heat, or a neighbour on the same device.
One strange measurement is cut to a factor of two; the third in a row is believed and the past forgotten, so
that neither an outlier nor a wrong beginning lasts.
"""

from __future__ import annotations

import math
from typing import Final

FORGETTING: Final = 0.97
"""What one chunk leaves of the weight of those before it: half after 23."""
GAIN: Final = 0.3
"""How far one measurement moves the level, or the time of a decode step."""
STRANGE_FACTOR: Final = 2.0
"""A measurement that is farther off than this is strange."""
STRANGE_IN_ROW: Final = 3
LEAST_SPREAD_TOKENS: Final = 128
"""Contexts that differ by less tell nothing about the slope."""
LEAST_BASE_RATIO: Final = 0.25
"""Of the mean cost of a token: what it costs at least without context, whatever the fit says."""
GUESSED_TOKEN_S: Final = 0.002
"""Before anything was measured: slow for a GPU, so that the first chunks are small."""
SPREADS: Final = 2.0
"""How many mean deviations a chunk is kept below a bound, so that few are above it."""
USUAL_SPREAD_RATIO: Final = 0.1
"""Taken for the mean deviation until it was seen (Linux CPU)."""
SPREAD_GAIN: Final = 0.1
LEAST_HEADROOM_RATIO: Final = 0.7
MOST_HEADROOM_RATIO: Final = 0.95
LEAST_S: Final = 1e-9
"""Keeps what a clock of coarse ticks calls 0 from being divided by."""


class _Line:
    """Weighted least squares with forgetting, one point at a time (West 1979); never falling."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._mean_x = 0.0
        self._mean_y = 0.0
        self._spread = 0.0
        self._lean = 0.0
        self._slope = 0.0

    def add(self, x: float, y: float, *, weight: float) -> None:
        self._weight = self._weight * FORGETTING + weight
        from_mean_x = x - self._mean_x
        self._mean_x += from_mean_x * weight / self._weight
        self._mean_y += (y - self._mean_y) * weight / self._weight
        self._spread = self._spread * FORGETTING + weight * from_mean_x * (x - self._mean_x)
        self._lean = self._lean * FORGETTING + weight * from_mean_x * (y - self._mean_y)
        if self._spread > self._weight * LEAST_SPREAD_TOKENS**2:
            self._slope = max(0.0, self._lean / self._spread)

    def at_zero_and_slope(self) -> tuple[float, float]:
        at_zero = self._mean_y - self._slope * self._mean_x
        least = LEAST_BASE_RATIO * self._mean_y
        if at_zero >= least:
            return at_zero, self._slope
        return least, (self._mean_y - least) / self._mean_x


class _Surprise:
    """Tells a measurement that is off from a change that lasts."""

    def __init__(self) -> None:
        self._strange = 0

    def judge(self, ratio: float) -> float | None:
        """Return measured / expected, cut where it is strange; None where it has to be believed."""
        if 1 / STRANGE_FACTOR <= ratio <= STRANGE_FACTOR:
            self._strange = 0
            return ratio
        self._strange += 1
        if self._strange >= STRANGE_IN_ROW:
            self._strange = 0
            return None
        return min(STRANGE_FACTOR, max(1 / STRANGE_FACTOR, ratio))


class Pace:
    """
    Learns from measured chunks and decode steps, and says how long the next ones will take.

    Args:
        full_chunk_tokens: Size of the chunk that was computed at warm-up; 0 where there was none.
        full_chunk_s: How long it took.
    """

    def __init__(self, *, full_chunk_tokens: int = 0, full_chunk_s: float = 0.0) -> None:
        self.decode_s = 0.0
        """How long one decode step of all rows takes; 0 before the first."""
        self._line: _Line | None = None
        self._base_s = GUESSED_TOKEN_S
        self._slope_s = 0.0
        self._level = 1.0
        self._spread_ratio = USUAL_SPREAD_RATIO
        self._chunk_surprise = _Surprise()
        self._decode_surprise = _Surprise()
        if full_chunk_tokens > 0 and full_chunk_s > 0:
            self.observe_chunk(full_chunk_tokens, context_tokens=0, elapsed_s=full_chunk_s)

    @property
    def is_measured(self) -> bool:
        """Whether a chunk was seen."""
        return self._line is not None

    @property
    def headroom_ratio(self) -> float:
        """Of a bound in time: what to plan a chunk for, so that it rarely takes longer than the bound."""
        wanted = 1.0 - SPREADS * self._spread_ratio
        return min(MOST_HEADROOM_RATIO, max(LEAST_HEADROOM_RATIO, wanted))

    def observe_chunk(self, tokens: int, *, context_tokens: int, elapsed_s: float) -> None:
        """
        Learn from one chunk.

        Args:
            tokens: How many were computed, at least 1.
            context_tokens: How many of the prompt were computed before.
            elapsed_s: How long it took.
        """
        middle_tokens = context_tokens + tokens / 2
        token_s = max(LEAST_S, elapsed_s / tokens)
        if self._line is not None:
            expected_s = self._level * (self._base_s + self._slope_s * middle_tokens)
            ratio = self._chunk_surprise.judge(token_s / expected_s)
            if ratio is None:
                self._line = None
                self._level = 1.0
            else:
                token_s = ratio * expected_s
                self._level *= 1.0 + GAIN * (ratio - 1.0)
                self._spread_ratio += SPREAD_GAIN * (abs(ratio - 1.0) - self._spread_ratio)
        if self._line is None:
            self._line = _Line()
        self._line.add(middle_tokens, token_s, weight=float(tokens))
        self._base_s, self._slope_s = self._line.at_zero_and_slope()

    def observe_decode(self, elapsed_s: float) -> None:
        """Learn from one decode step."""
        elapsed_s = max(LEAST_S, elapsed_s)
        ratio = self._decode_surprise.judge(elapsed_s / self.decode_s) if self.decode_s else None
        if ratio is None:
            self.decode_s = elapsed_s
        else:
            self.decode_s *= 1.0 + GAIN * (ratio - 1.0)

    def chunk_s(self, tokens: float, *, context_tokens: float) -> float:
        """Return how long so many tokens after so many others will take."""
        return self._level * tokens * (self._base_s + self._slope_s * (context_tokens + tokens / 2))

    def tokens_within(self, time_s: float, *, context_tokens: float) -> int:
        """Return how many tokens after so many others can be computed in this time."""
        if time_s <= 0:
            return 0
        # The positive root of chunk_s(tokens) = time_s, in the form that allows a slope of 0.
        first_s = self._level * (self._base_s + self._slope_s * context_tokens)
        return int(2 * time_s / (first_s + math.sqrt(first_s**2 + 2 * self._level * self._slope_s * time_s)))
