"""
Counts and digests over a sliding span.

A span is a ring of slots of time. A fact goes into the slot of its own time, so a late one is counted
where it belongs while that slot is still in the ring, and is dropped after. The ring moves on with the
latest time it has been told; a clock that steps back is a late fact. A window of 60 slots of 1 s
covers between 59 and 60 s: the last slot is the one that is filling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qos.bounds import require_bounds
from qos.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowParams:
    """How long a window is, and in how fine steps it slides."""

    span_s: float = 60.0
    """What it covers."""
    slot_s: float = 1.0
    """The step in which it slides."""

    def __post_init__(self) -> None:
        require_bounds(self, slot_s=(0.01, 3600), span_s=(self.slot_s, 1000 * self.slot_s))

    @property
    def slots(self) -> int:
        """Slots in the ring."""
        return round(self.span_s / self.slot_s)


class _Ring:
    """Which slot an instant belongs to; slots that are reused are cleared first."""

    __slots__ = ("_clear", "_newest", "_slot_s", "_started_s", "size")

    def __init__(self, params: WindowParams, *, clear: Callable[[int], None], now_s: float) -> None:
        self.size = params.slots
        self._slot_s = params.slot_s
        self._clear = clear
        self._started_s = now_s
        self._newest = int(now_s // params.slot_s)

    def seek(self, now_s: float) -> int | None:
        """Return the position of an instant's slot, or None when it has left the ring."""
        index = int(now_s // self._slot_s)
        if index > self._newest:
            for reused in range(max(self._newest + 1, index - self.size + 1), index + 1):
                self._clear(reused % self.size)
            self._newest = index
        elif index <= self._newest - self.size:
            return None
        return index % self.size

    def last(self, span_s: float | None, *, now_s: float) -> list[int]:
        """Return the positions of the slots of the last span_s (None: all), newest first."""
        self.seek(now_s)
        slots = self.size if span_s is None else min(self.size, max(1, round(span_s / self._slot_s)))
        return [index % self.size for index in range(self._newest, self._newest - slots, -1)]

    def covered_s(self, now_s: float) -> float:
        """Return how much time the ring covers, at least one slot; less than its span when it is young."""
        self.seek(now_s)
        oldest_s = (self._newest - self.size + 1) * self._slot_s
        return max(now_s - max(oldest_s, self._started_s), self._slot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Good and bad events of a span."""

    good: int = 0
    """Events that were good."""
    bad: int = 0
    """Events that were bad."""
    facts: int = 0
    """Reports that brought them: one decode step brings as many events as it has streams."""

    @property
    def total(self) -> int:
        """All events."""
        return self.good + self.bad


class Counts:
    """Good and bad events, exact: the whole window is read in O(1)."""

    def __init__(self, params: WindowParams, *, now_s: float) -> None:
        self._ring = _Ring(params, clear=self._clear, now_s=now_s)
        self._slots = [[0, 0, 0] for _ in range(params.slots)]
        self._sums = [0, 0, 0]

    def add(self, *, good: int = 0, bad: int = 0, now_s: float) -> None:
        """Count the events of one fact."""
        position = self._ring.seek(now_s)
        if position is None:
            return
        slot, sums = self._slots[position], self._sums
        slot[0] += good
        slot[1] += bad
        slot[2] += 1
        sums[0] += good
        sums[1] += bad
        sums[2] += 1

    def read(self, *, now_s: float, span_s: float | None = None) -> Tally:
        """Return the events of the last span_s, of the whole window by default."""
        if span_s is None:
            self._ring.seek(now_s)
            good, bad, facts = self._sums
        else:
            recent = [self._slots[position] for position in self._ring.last(span_s, now_s=now_s)]
            good, bad, facts = map(sum, zip(*recent, strict=True))
        return Tally(good=good, bad=bad, facts=facts)

    def covered_s(self, *, now_s: float) -> float:
        """Return how much time the window covers, for rates."""
        return self._ring.covered_s(now_s)

    def _clear(self, position: int) -> None:
        for each, count in enumerate(self._slots[position]):
            self._sums[each] -= count
        self._slots[position] = [0, 0, 0]


class Window:
    """Weighted samples: their count, and any quantile of their distribution."""

    def __init__(self, params: WindowParams, *, now_s: float) -> None:
        self._ring = _Ring(params, clear=self._clear, now_s=now_s)
        self._slots: list[Digest | None] = [None] * params.slots
        self._merged: Digest | None = None

    def add(self, value: float, weight: float = 1.0, *, now_s: float) -> None:
        """
        Add one sample.

        Raises:
            InvalidSampleError: NaN, infinite or negative value, or weight not above 0.
        """
        position = self._ring.seek(now_s)
        if position is None:
            return
        digest = self._slots[position]
        if digest is None:
            digest = self._slots[position] = Digest()
        digest.add(value, weight)
        self._merged = None

    def count(self, *, now_s: float, span_s: float | None = None) -> float:
        """Return the sum of the weights of the last span_s, of the whole window by default."""
        recent = (self._slots[position] for position in self._ring.last(span_s, now_s=now_s))
        return sum(digest.count for digest in recent if digest is not None)

    def quantile(self, q: float, *, now_s: float) -> float:
        """
        Estimate the q-quantile of the window, q from 0 to 1.

        Raises:
            EmptyDigestError: the window is empty.
        """
        self._ring.seek(now_s)
        if self._merged is None:
            self._merged = Digest().merge(*(digest for digest in self._slots if digest is not None))
        return self._merged.quantile(q)

    def _clear(self, position: int) -> None:
        if self._slots[position] is not None:
            self._slots[position] = None
            self._merged = None
