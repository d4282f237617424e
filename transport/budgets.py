"""
What one HTTP/2 client may make us do for nothing (pure): budgets over a sliding span.

Each frame that costs us and brings nobody an answer is counted. The limits are far above what clients do and
far below what hurts a neighbour: 400 frames of some 10 us are 4 ms. A client that cancels every answer it
gets must not reach them, so the reset of a stream that has received an answer counts a tenth; nor must one
that opens its windows after each frame, so two window updates are free for each DATA frame sent to it. A
DATA frame cut short by the client's own tiny window frees none: else a client that opens its window by one
byte at a time would pay for itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ANSWERED_RESET_WEIGHT: Final = 0.1
REFUSED_WEIGHT: Final = 0.1
"""A burst of requests that crosses our SETTINGS on its way is no attack."""
LARGE_HEADERS_WEIGHT: Final = 20.0
"""To decode 60 KB of Huffman code takes 20 ms, as long as two thousand small frames."""
TINY_DATA_WEIGHT: Final = 0.1
UPDATES_PER_FRAME: Final = 2
"""A client may open the stream's and the connection's window after each DATA frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetParams:
    """How much is free within a span of time."""

    span_s: float = 10.0
    resets: int = 200
    """Streams that the client resets; or twice as many as ended well in the span, where that is more."""
    provoked: int = 200
    """Streams that we reset or refuse through the client's fault."""
    controls: int = 400
    """Frames that ask for work and carry nothing."""


class SlidingSum:
    """
    A sum over about the last `span_s` seconds, kept as two numbers: what came in this span, and in the last.

    The earlier counts by the part of it that is still in the window, as if it had been spread evenly.
    """

    __slots__ = ("_before", "_now", "_span_s", "_started_s")

    def __init__(self, *, span_s: float, now_s: float) -> None:
        self._span_s = span_s
        self._started_s = now_s
        self._before = 0.0
        self._now = 0.0

    def add(self, amount: float, *, now_s: float) -> float:
        """Add an amount; returns the sum with it."""
        passed = (now_s - self._started_s) / self._span_s
        if passed >= 1.0:
            self._before = self._now if passed < 2.0 else 0.0
            self._now = 0.0
            self._started_s += int(passed) * self._span_s
            passed -= int(passed)
        self._now += amount
        return self._now + self._before * (1.0 - passed)


class Budgets:
    """
    The budgets of one connection; each verb says whether the client is still within them.

    Args:
        params: The limits.
        now_s: When the connection began.
    """

    def __init__(self, params: BudgetParams, *, now_s: float) -> None:
        self._params = params
        self._resets = SlidingSum(span_s=params.span_s, now_s=now_s)
        self._provoked = SlidingSum(span_s=params.span_s, now_s=now_s)
        self._controls = SlidingSum(span_s=params.span_s, now_s=now_s)
        self._updates = SlidingSum(span_s=params.span_s, now_s=now_s)
        self._frames = SlidingSum(span_s=params.span_s, now_s=now_s)
        self._ended_well = SlidingSum(span_s=params.span_s, now_s=now_s)

    def ended_well(self, *, now_s: float) -> None:
        """Note a stream whose answer was sent to its end."""
        self._ended_well.add(1, now_s=now_s)

    def sent(self, frames: int, *, now_s: float) -> None:
        """Note DATA frames that a client may acknowledge by window updates."""
        self._frames.add(frames, now_s=now_s)

    def reset(self, *, was_answered: bool, now_s: float) -> bool:
        """Note a stream reset by the client."""
        spent = self._resets.add(ANSWERED_RESET_WEIGHT if was_answered else 1, now_s=now_s)
        return spent <= max(self._params.resets, 2 * self._ended_well.add(0, now_s=now_s))

    def provoked(self, weight: float = 1.0, *, now_s: float) -> bool:
        """Note a stream that we reset or refused through the client's fault."""
        return self._provoked.add(weight, now_s=now_s) <= self._params.provoked

    def control(self, weight: float = 1.0, *, now_s: float) -> bool:
        """Note a frame that asks for work and carries nothing."""
        return self._controls.add(weight, now_s=now_s) <= self._params.controls

    def window_update(self, *, now_s: float) -> bool:
        """Note a window update: free as long as frames were sent to acknowledge."""
        free = UPDATES_PER_FRAME * self._frames.add(0, now_s=now_s)
        return self._updates.add(1, now_s=now_s) <= free or self.control(now_s=now_s)
