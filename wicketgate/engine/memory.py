"""
What an engine host may allocate, and what it does as its memory fills. Pure.

Theory of operation. Two things keep a host inside its limit. `Budget` looks ahead: a stream is let in only
where weights, KV with its padding and the work of a prefill chunk still fit. `MemoryGuard` looks at what is:
whatever the budget did not foresee is met by a ladder, each rung only when the one before is not enough:
drain the pool of freed buffers, stop admission, evict kept prefixes, end streams, end the host.

What the guard may wait for is always something that can fall: while it admits nobody there are prefixes to
evict or streams to end. With neither left it admits again, or, above the soft mark, asks for a restart after
a deadline. A guard without such a way out rejected for hours (Rapid-MLX#1058).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wicketgate.engine.batch import MemoryUse

GRAIN_TOKENS: Final = 256
"""mlx-lm's caches grow in steps of so many tokens."""
DEVICE_SHARE: Final = 0.85
"""Of a Mac's memory, where its owner raised what the GPU may wire: at 0.90 24 GB panic (Rapid-MLX#324)."""
HOST_SHARE: Final = 0.7
"""Of the memory of a machine whose device recommends nothing."""
LEAST_POOL_BYTES: Final = 64 << 20
POOL_SHARE: Final = 8
"""
Freed buffers that mlx may hold on to: an eighth of the weights, and at least 64 MiB.

Without a bound they pile up to its memory limit. At 1 GiB the demo's host grew from 200 to 424 MB between its
100th and its 300th request, at 64 MiB it stays at 216 MB for 12,000 at the same speed (Linux CPU).
"""


class TooLittleMemoryError(ValueError):
    """
    The weights alone are over the soft mark, so that no restart could ever bring use below it.

    Args:
        weights_bytes: What is in use with the model loaded and nothing else.
        limit_bytes: What may be in use.
        soft_ratio: Share of the limit above which nobody is admitted.
    """

    def __init__(self, *, weights_bytes: int, limit_bytes: int, soft_ratio: float) -> None:
        room_bytes = int(limit_bytes * soft_ratio)
        super().__init__(
            f"the model takes {in_units(weights_bytes)}; {soft_ratio:.0%} of the memory limit of"
            f" {in_units(limit_bytes)} is {in_units(room_bytes)}. Take a smaller or more quantised model,"
            " or raise engine.memory.max_bytes"
        )
        self.weights_bytes = weights_bytes
        self.limit_bytes = limit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParams:
    """Where the rungs of the ladder are."""

    limit_bytes: int
    """What weights, KV and work may use together."""
    resume_ratio: float = 0.80
    """Below it admission resumes."""
    soft_ratio: float = 0.85
    """Above it admission stops and kept prefixes go."""
    hard_ratio: float = 0.95
    """Above it streams are ended, the lowest class first."""
    escalate_s: float = 30.0
    """So long above the soft mark with nothing left to free, and the host asks for its restart."""
    drain_pause_s: float = 1.0
    """Least time between two drains below the hard mark: a drained pool has to be filled again."""
    settle_s: float = 0.5
    """How long the system takes to count what was freed (0.1 to 0.3 s on macOS 27)."""

    def __post_init__(self) -> None:
        """Refuse marks that are out of order."""
        if self.limit_bytes <= 0:
            raise ValueError(f"limit_bytes must be above 0, got {self.limit_bytes}")
        if not 0 < self.resume_ratio < self.soft_ratio < self.hard_ratio <= 1:
            raise ValueError(
                "resume_ratio, soft_ratio and hard_ratio must rise between 0 and 1, got"
                f" {self.resume_ratio}, {self.soft_ratio}, {self.hard_ratio}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Relief:
    """What to do now, in the order of the fields."""

    level: int
    """0 normal, 1 admission is stopped, 2 above the hard mark."""
    drain_pool: bool = False
    """Give freed buffers back to the system; those of what is evicted or ended now go with a later look."""
    admits: bool = True
    """Whether new streams may be opened; else they wait, unless they take the place of another."""
    evict_bytes: int = 0
    """Of kept prefixes, so many; at most what is kept."""
    shed_bytes: int = 0
    """End streams, the lowest class first, until so much of their KV is free."""
    restart: bool = False
    """Nothing is left to free and memory is still full: leave the process, which frees what leaked."""


class MemoryGuard:
    """
    Watches what is allocated, step by step.

    Args:
        params: The limit and its marks.
        baseline_bytes: In use with the model loaded and nothing else.

    Raises:
        TooLittleMemoryError: the baseline is above the soft mark.
    """

    def __init__(self, params: MemoryParams, *, baseline_bytes: int) -> None:
        if baseline_bytes > params.limit_bytes * params.soft_ratio:
            raise TooLittleMemoryError(
                weights_bytes=baseline_bytes, limit_bytes=params.limit_bytes, soft_ratio=params.soft_ratio
            )
        self._params = params
        self._resume_bytes = int(params.limit_bytes * params.resume_ratio)
        self._soft_bytes = int(params.limit_bytes * params.soft_ratio)
        self._hard_bytes = int(params.limit_bytes * params.hard_ratio)
        self._stopped = False
        self._outside_bytes = 0
        self._freed_s = float("-inf")
        self._drained_s = float("-inf")
        self._stuck_since_s: float | None = None
        self._critical_since_s: float | None = None

    def observe(
        self,
        use: MemoryUse,
        *,
        kept_bytes: int,
        now_s: float,
        footprint_bytes: int | None = None,
        pressure: int = 0,
    ) -> Relief:
        """
        Judge one look at memory.

        Args:
            use: What the device has allocated.
            kept_bytes: Kept prefixes that could be evicted; part of `use.active_bytes`.
            now_s: The time.
            footprint_bytes: What the system counts for this process, read together with `use`; None where it
                was not read now. What exceeds the device's own figures is held by the driver or leaked.
            pressure: Of the whole system: 0 normal, 1 warning, 2 critical. It may come from other programs.
        """
        if footprint_bytes is not None and now_s - self._freed_s >= self._params.settle_s:
            self._outside_bytes = max(0, footprint_bytes - use.active_bytes - use.pool_bytes)
        # What would stay if the pool were drained; only this can be a reason to evict (omlx#3338).
        held_bytes = use.active_bytes + self._outside_bytes
        is_helpless = not kept_bytes and not use.rows_bytes
        self._stopped = held_bytes > (self._resume_bytes if self._stopped else self._soft_bytes)
        if is_helpless and held_bytes <= self._soft_bytes:
            self._stopped = False
        is_critical = self._waits_for_the_system(pressure, now_s=now_s)
        above_hard = held_bytes > self._hard_bytes
        evict_bytes = min(kept_bytes, held_bytes - self._resume_bytes) if self._stopped else 0
        relief = Relief(
            level=2 if above_hard else int(self._stopped or is_critical),
            drain_pool=self._drains(use, held_bytes, pressure=pressure, now_s=now_s),
            admits=not self._stopped and not is_critical,
            evict_bytes=kept_bytes if pressure >= 2 else evict_bytes,
            shed_bytes=self._shed_bytes(use, held_bytes - evict_bytes) if above_hard else 0,
            restart=self._is_stuck(is_stuck_now=is_helpless and self._stopped, now_s=now_s),
        )
        if relief.drain_pool or relief.evict_bytes or relief.shed_bytes:
            self._freed_s = now_s
        return relief

    def _drains(self, use: MemoryUse, held_bytes: int, *, pressure: int, now_s: float) -> bool:
        in_all = held_bytes + use.pool_bytes
        if not use.pool_bytes or (in_all <= self._soft_bytes and not pressure):
            return False
        if in_all <= self._hard_bytes and now_s - self._drained_s < self._params.drain_pause_s:
            return False
        self._drained_s = now_s
        return True

    def _shed_bytes(self, use: MemoryUse, left_bytes: int) -> int:
        """Return what streams must give where eviction leaves so much: to the soft mark, at most all."""
        if left_bytes <= self._hard_bytes:
            return 0
        return min(use.rows_bytes, left_bytes - self._soft_bytes)

    def _waits_for_the_system(self, pressure: int, *, now_s: float) -> bool:
        """Say whether to admit nobody because the system is short of memory: for a while, never for good."""
        if pressure < 2:
            self._critical_since_s = None
            return False
        if self._critical_since_s is None:
            self._critical_since_s = now_s
        return now_s - self._critical_since_s < self._params.escalate_s

    def _is_stuck(self, *, is_stuck_now: bool, now_s: float) -> bool:
        if not is_stuck_now:
            self._stuck_since_s = None
            return False
        if self._stuck_since_s is None:
            self._stuck_since_s = now_s
        return now_s - self._stuck_since_s >= self._params.escalate_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What streams may take together, before they take it."""

    limit_bytes: int
    weights_bytes: int
    kv_bytes_per_token: int
    row_bytes: int = 0
    """Of each row whatever its length: sliding windows and recurrent states."""
    chunk_tokens: int = 512
    """Largest prefill chunk."""
    transient_token_bytes: int = 0
    """What computing a chunk takes besides KV, per token of it."""
    transient_pair_bytes: float = 0.0
    """And per token of it and token before it, where attention is not fused: measured at warm-up."""
    margin_ratio: float = 0.10
    """For what no formula knows."""

    def needed_bytes(self, groups: Sequence[tuple[int, int]]) -> int:
        """
        Return what these rows take with the weights and one chunk's work.

        Args:
            groups: (rows, tokens of the longest) of each group that is decoded together: every row of a group
                is padded to its longest.
        """
        kv_bytes = sum(
            rows * (self.row_bytes + grains(longest) * self.kv_bytes_per_token) for rows, longest in groups
        )
        context_tokens = max((longest for _, longest in groups), default=0)
        chunk_bytes = self.chunk_tokens * (
            self.transient_token_bytes + self.transient_pair_bytes * context_tokens
        )
        return int((self.weights_bytes + kv_bytes + chunk_bytes) * (1 + self.margin_ratio))

    @property
    def kv_limit_bytes(self) -> int:
        """How much KV there may be at most, beside the weights and a chunk's work."""
        chunk_bytes = self.chunk_tokens * self.transient_token_bytes
        return max(0, int(self.limit_bytes / (1 + self.margin_ratio)) - self.weights_bytes - chunk_bytes)

    def fits(self, groups: Sequence[tuple[int, int]]) -> bool:
        """Say whether these rows could run together."""
        return self.needed_bytes(groups) <= self.limit_bytes

    def admits(self, rows: int, longest_tokens: int, new_tokens: int) -> bool:
        """
        Say whether one more row fits, decoded together with all others.

        Args:
            rows: Rows that run.
            longest_tokens: Of the longest of them.
            new_tokens: Of the new one, with as much of its answer as is promised.
        """
        return self.fits([(rows + 1, max(longest_tokens, new_tokens))])


def grains(tokens: int) -> int:
    """Round tokens up to what a cache that holds them has room for."""
    return -(-tokens // GRAIN_TOKENS) * GRAIN_TOKENS


# What a device allows


def recommended_bytes(device: Mapping[str, object]) -> int | None:
    """
    Return what a device recommends to use, from `mx.device_info()`; None where it does not tell.

    It is read and never computed: 0.67 of memory on small Macs, 0.75 to 0.84 on larger ones, and its owner
    may have changed it.
    """
    value = device.get("max_recommended_working_set_size")
    return value if isinstance(value, int) and value > 0 else None


def default_limit(device: Mapping[str, object], total_bytes: int | None) -> int | None:
    """
    Return what weights, KV and work may use together where nobody said; None where nothing is known.

    Args:
        device: What `mx.device_info()` says.
        total_bytes: Memory of the machine, or of the container that this runs in.
    """
    recommended = recommended_bytes(device)
    if recommended is None:
        return None if total_bytes is None else int(total_bytes * HOST_SHARE)
    return recommended if total_bytes is None else min(recommended, int(total_bytes * DEVICE_SHARE))


def cache_limit(weights_bytes: int) -> int:
    """Return how many bytes of freed buffers may be kept for reuse."""
    return max(LEAST_POOL_BYTES, weights_bytes // POOL_SHARE)


def in_units(size_bytes: int) -> str:
    """Write a size as people do."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} bytes"
