"""When a host counts as frozen, when a dead one is started again, and with what care. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

STEPS_OF_PATIENCE: Final = 10
"""A host may be silent for as long as so many of its longest recent steps."""
FORGETTING: Final = 0.99
"""What one step leaves of the memory of a longer one: 1 % after 460 steps."""


SETTLED_S: Final = 1.0
"""A host that served for so long did not die of starting again, so that its successor need not wait."""
BUDGET_S: Final = 60.0
GPU_DEATHS: Final = 2
"""So many deaths by the GPU within GPU_DEATHS_S, and the next host starts in safe mode."""
GPU_DEATHS_S: Final = 600.0
CALM_S: Final = 3600.0
"""Without a death for so long, safe mode is left."""


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
        self._hasty = 0
        """Deaths in a row of hosts that had not settled."""

    def died(self, *, served_s: float | None, now_s: float) -> float | None:
        """
        Note a death.

        Args:
            served_s: How long the host had been ready; None for one that never was.
            now_s: Monotonic time.

        Returns:
            Seconds to wait before a new start, or None when enough is enough.
        """
        params = self._params
        self._failed_starts = self._failed_starts + 1 if served_s is None else 0
        self._hasty = self._hasty + 1 if served_s is None or served_s < SETTLED_S else 0
        self._deaths_s.append(now_s)
        while self._deaths_s[0] <= now_s - BUDGET_S:
            self._deaths_s.popleft()
        if len(self._deaths_s) > params.max_deaths_per_minute:
            return None
        if self._failed_starts >= params.max_failed_starts:
            return None
        if not self._hasty:
            return 0.0
        # Bounded before the power is taken: a float overflows at 2 ** 1024.
        return min(params.backoff_max_s, params.backoff_initial_s * 2.0 ** min(self._hasty - 1, 32))


class SafeMode:
    """Says whether the next host starts with less: nothing wired, one stream at a time, half the context."""

    def __init__(self) -> None:
        self._by_gpu_s: deque[float] = deque()
        self._last_death_s = 0.0
        self._entered = False

    def died(self, *, by_gpu: bool, now_s: float) -> None:
        """Note a death."""
        self._entered = self.is_on(now_s=now_s)
        self._last_death_s = now_s
        if not by_gpu:
            return
        self._by_gpu_s.append(now_s)
        while self._by_gpu_s[0] <= now_s - GPU_DEATHS_S:
            self._by_gpu_s.popleft()
        self._entered = self._entered or len(self._by_gpu_s) >= GPU_DEATHS

    def is_on(self, *, now_s: float) -> bool:
        """Tell whether a host that starts now is to be careful."""
        return self._entered and now_s - self._last_death_s < CALM_S

    @property
    def gpu_deaths(self) -> int:
        """How many deaths by the GPU lie within GPU_DEATHS_S before the last of them."""
        return len(self._by_gpu_s)


class FreezeWatch:
    """
    Tells a frozen host from a slow one.

    The host speaks from inside its step loop, once a step, and every half second while it has nothing to do.
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
