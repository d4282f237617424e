"""When a host counts as frozen, and whether a dead one is started again. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

STEPS_OF_PATIENCE: Final = 10
"""A host may be silent for as long as so many of its longest recent steps."""
FORGETTING: Final = 0.99
"""What one step leaves of the memory of a longer one: 1 % after 460 steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartParams:
    """How patiently dead hosts are replaced."""

    backoff_initial_s: float = 0.2
    backoff_max_s: float = 10.0
    max_deaths_per_minute: int = 20
    max_failed_starts: int = 3
    """Hosts in a row that may die before they were ready."""


class Restarts:
    """Counts deaths and says how long to wait before the next host."""

    def __init__(self, params: RestartParams) -> None:
        self._params = params
        self._deaths_s: deque[float] = deque()
        self._failed_starts = 0

    def became_ready(self) -> None:
        """Note that a host has loaded its model."""
        self._failed_starts = 0

    def died(self, *, was_ready: bool, now_s: float) -> float | None:
        """Note a death; returns the seconds to wait before a new start, or None when enough is enough."""
        params = self._params
        self._failed_starts += not was_ready
        self._deaths_s.append(now_s)
        while self._deaths_s[0] <= now_s - 60.0:
            self._deaths_s.popleft()
        deaths = len(self._deaths_s)
        if deaths > params.max_deaths_per_minute or self._failed_starts >= params.max_failed_starts:
            return None
        # Bounded before the power is taken: a float overflows at 2 ** 1024.
        return min(params.backoff_max_s, params.backoff_initial_s * 2.0 ** min(deaths - 1, 32))


class FreezeWatch:
    """
    Tells a frozen host from a slow one.

    Silence is summed over the watcher's ticks and no tick counts for more than two, so a watcher that was
    held up itself, or a machine that slept, does not take its own absence for the host's.
    """

    def __init__(self, *, floor_s: float, full_chunk_s: float, tick_s: float) -> None:
        self._floor_s = floor_s
        self._full_chunk_s = full_chunk_s
        self._tick_s = tick_s
        self._longest_s = full_chunk_s
        self._heard = True
        self.silence_s = 0.0

    @property
    def limit_s(self) -> float:
        """How long a silence is accepted now."""
        return max(self._floor_s, STEPS_OF_PATIENCE * self._longest_s)

    def heard(self) -> None:
        """Note that something arrived."""
        self._heard = True

    def stepped(self, step_s: float) -> None:
        """Note how long a step took; the largest chunk at warm-up is the least that is remembered."""
        self._longest_s = max(step_s, self._longest_s * FORGETTING, self._full_chunk_s)

    def tick(self, elapsed_s: float) -> bool:
        """Advance by the time since the last tick; returns whether the host is frozen."""
        self.silence_s = 0.0 if self._heard else self.silence_s + min(elapsed_s, 2 * self._tick_s)
        self._heard = False
        return self.silence_s > self.limit_s
