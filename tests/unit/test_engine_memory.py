"""Pins what a host may allocate, the order in which it frees memory, and that it never waits for nothing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from wicketgate.engine.batch import MemoryUse
from wicketgate.engine.memory import (
    Budget,
    MemoryGuard,
    MemoryParams,
    Relief,
    TooLittleMemoryError,
    cache_limit,
    default_limit,
    grains,
    in_units,
    recommended_bytes,
)

MB = 1_000_000
GB = 1000 * MB
LIMIT = 10 * GB
"""Resume 8.0, soft 8.5, hard 9.5 GB."""
WEIGHTS = 4 * GB


def guard(*, limit_bytes: int = LIMIT, baseline_bytes: int = WEIGHTS) -> MemoryGuard:
    return MemoryGuard(MemoryParams(limit_bytes=limit_bytes), baseline_bytes=baseline_bytes)


def use(*, active: float, pool: float = 0.0, rows: float = 0.0) -> MemoryUse:
    return MemoryUse(active_bytes=int(active * GB), pool_bytes=int(pool * GB), rows_bytes=int(rows * GB))


@dataclass
class Host:
    """A host that does what the guard says, at once."""

    rows_bytes: int = 0
    kept_bytes: int = 0
    pool_bytes: int = 0
    leaked_bytes: int = 0
    guard: MemoryGuard = field(default_factory=guard)
    seen: list[Relief] = field(default_factory=list)

    @property
    def active_bytes(self) -> int:
        return WEIGHTS + self.rows_bytes + self.kept_bytes + self.leaked_bytes

    def look(self, now_s: float, *, pressure: int = 0) -> Relief:
        memory = MemoryUse(
            active_bytes=self.active_bytes, pool_bytes=self.pool_bytes, rows_bytes=self.rows_bytes
        )
        relief = self.guard.observe(memory, kept_bytes=self.kept_bytes, now_s=now_s, pressure=pressure)
        if relief.drain_pool:
            self.pool_bytes = 0
        self.kept_bytes -= relief.evict_bytes
        self.rows_bytes -= relief.shed_bytes
        self.seen.append(relief)
        return relief


def test_below_the_soft_mark_nothing_is_done() -> None:
    relief = guard().observe(use(active=8.0, pool=0.4, rows=2.0), kept_bytes=GB, now_s=0.0)

    assert relief == Relief(level=0)


def test_a_full_pool_is_drained_and_nothing_is_evicted() -> None:
    relief = guard().observe(use(active=7.0, pool=2.0, rows=1.0), kept_bytes=GB, now_s=0.0)

    assert relief == Relief(level=0, drain_pool=True)


def test_a_pool_that_fills_again_is_drained_once_a_second() -> None:
    watch = guard()

    drains = [
        watch.observe(use(active=7.0, pool=2.0), kept_bytes=0, now_s=step / 10).drain_pool
        for step in range(21)
    ]

    assert [step for step, drained in enumerate(drains) if drained] == [0, 10, 20]


def test_above_the_hard_mark_the_pool_is_drained_at_every_look() -> None:
    watch = guard()

    drains = [
        watch.observe(use(active=7.0, pool=2.9), kept_bytes=0, now_s=step / 10).drain_pool
        for step in range(3)
    ]

    assert drains == [True, True, True]


def test_above_the_soft_mark_admission_stops_and_kept_prefixes_go_down_to_the_mark_of_resumption() -> None:
    relief = guard().observe(use(active=8.6, rows=1.0), kept_bytes=2 * GB, now_s=0.0)

    assert relief == Relief(level=1, admits=False, evict_bytes=600 * MB)


def test_no_more_is_evicted_than_is_kept() -> None:
    relief = guard().observe(use(active=8.6, rows=1.0), kept_bytes=100 * MB, now_s=0.0)

    assert relief.evict_bytes == 100 * MB


def test_admission_resumes_only_well_below_the_mark_that_stopped_it() -> None:
    watch = guard()

    admits = [
        watch.observe(use(active=active, rows=1.0), kept_bytes=0, now_s=0.0).admits
        for active in (8.4, 8.6, 8.4, 8.1, 8.0, 8.4)
    ]

    assert admits == [True, False, False, False, True, True]


def test_above_the_hard_mark_streams_give_what_eviction_cannot() -> None:
    relief = guard().observe(use(active=9.8, rows=3.0), kept_bytes=200 * MB, now_s=0.0)

    # 9.8 less the 0.2 that is kept is 9.6, which is 1.1 above the soft mark.
    assert relief == Relief(level=2, admits=False, evict_bytes=200 * MB, shed_bytes=1100 * MB)


def test_no_stream_is_ended_where_eviction_is_enough() -> None:
    relief = guard().observe(use(active=9.8, rows=3.0), kept_bytes=2 * GB, now_s=0.0)

    assert relief == Relief(level=2, admits=False, evict_bytes=1800 * MB)


def test_a_host_with_nothing_to_free_admits_again_below_the_soft_mark() -> None:
    watch = guard()
    watch.observe(use(active=8.6, rows=0.3), kept_bytes=0, now_s=0.0)

    relief = watch.observe(use(active=8.3), kept_bytes=0, now_s=0.1)

    assert relief == Relief(level=0)


def test_a_host_that_leaked_asks_for_its_restart_once_nothing_is_left_to_free() -> None:
    watch = guard()

    asked = [watch.observe(use(active=8.6), kept_bytes=0, now_s=now).restart for now in (0.0, 29.9, 30.0)]

    assert asked == [False, False, True]


def test_a_stream_that_runs_meanwhile_sets_the_deadline_back() -> None:
    watch = guard()
    watch.observe(use(active=8.6), kept_bytes=0, now_s=0.0)
    watch.observe(use(active=8.6, rows=0.1), kept_bytes=0, now_s=20.0)

    assert not watch.observe(use(active=8.6), kept_bytes=0, now_s=40.0).restart
    assert watch.observe(use(active=8.6), kept_bytes=0, now_s=70.0).restart


def test_a_model_that_fills_the_limit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(TooLittleMemoryError, match=r"takes 8\.0 GiB; 85% .* of 9\.3 GiB is 7\.9 GiB"):
        guard(baseline_bytes=8600 * MB)


def test_what_the_system_counts_beyond_the_devices_figures_is_held_too() -> None:
    relief = guard().observe(use(active=8.0, rows=1.0), kept_bytes=0, now_s=0.0, footprint_bytes=8700 * MB)

    assert relief == Relief(level=1, admits=False)


def test_a_footprint_read_right_after_something_was_freed_is_not_believed() -> None:
    watch = guard()
    watch.observe(use(active=8.0, pool=1.4, rows=1.0), kept_bytes=0, now_s=0.0, footprint_bytes=9400 * MB)

    early = watch.observe(use(active=8.0, rows=1.0), kept_bytes=0, now_s=0.2, footprint_bytes=9400 * MB)
    late = watch.observe(use(active=8.0, rows=1.0), kept_bytes=0, now_s=0.6, footprint_bytes=9400 * MB)

    assert early.level == 0
    assert late.level == 1


def test_a_footprint_below_the_devices_figures_takes_nothing_off_them() -> None:
    relief = guard().observe(use(active=8.6, rows=1.0), kept_bytes=0, now_s=0.0, footprint_bytes=GB)

    assert relief.level == 1


def test_a_warning_of_the_system_drains_the_pool_and_stops_nobody() -> None:
    relief = guard().observe(use(active=5.0, pool=0.5, rows=1.0), kept_bytes=GB, now_s=0.0, pressure=1)

    assert relief == Relief(level=0, drain_pool=True)


def test_a_system_that_is_critical_gets_all_that_is_kept_and_no_new_streams() -> None:
    relief = guard().observe(use(active=5.0, pool=0.5, rows=1.0), kept_bytes=GB, now_s=0.0, pressure=2)

    assert relief == Relief(level=1, drain_pool=True, admits=False, evict_bytes=GB)


def test_a_system_stuck_at_critical_stops_nobody_for_good() -> None:
    host = Host(rows_bytes=GB, kept_bytes=GB)

    admits = {now: host.look(float(now), pressure=2).admits for now in range(0, 3600, 5)}

    assert [now for now, admitted in admits.items() if not admitted] == [0, 5, 10, 15, 20, 25]
    assert not any(relief.restart or relief.shed_bytes for relief in host.seen)


def test_a_system_that_was_well_meanwhile_is_waited_for_again() -> None:
    watch = guard()
    for now_s, pressure in ((0.0, 2), (40.0, 2), (41.0, 0)):
        watch.observe(use(active=5.0), kept_bytes=0, now_s=now_s, pressure=pressure)

    assert not watch.observe(use(active=5.0), kept_bytes=0, now_s=42.0, pressure=2).admits


def test_a_leak_of_500_mb_a_second_stops_admission_at_the_next_poll_and_barely_passes_the_hard_mark() -> None:
    host = Host(rows_bytes=2 * GB, kept_bytes=GB, pool_bytes=500 * MB)
    poll_s, leak_bytes = 0.1, 50 * MB
    polls_above_soft, highest = 0, 0

    for poll in range(200):
        host.leaked_bytes += leak_bytes if host.rows_bytes else 0
        highest = max(highest, host.active_bytes + host.pool_bytes)
        is_above_soft = host.active_bytes > 8500 * MB
        relief = host.look(poll * poll_s)
        polls_above_soft += is_above_soft
        assert not (is_above_soft and relief.admits)

    assert polls_above_soft > 0
    assert 9500 * MB < highest <= 9500 * MB + leak_bytes
    first = {
        name: next(at for at, relief in enumerate(host.seen) if getattr(relief, name))
        for name in ("drain_pool", "evict_bytes", "shed_bytes")
    }
    assert first["drain_pool"] <= first["evict_bytes"] < first["shed_bytes"]


def test_after_such_a_leak_the_host_is_restarted_by_the_deadline() -> None:
    host = Host(leaked_bytes=5 * GB)

    restarts = [now for now in range(100) if host.look(float(now)).restart]

    assert restarts[0] == 30


def test_a_sawtooth_of_use_is_relieved_each_time_and_never_ends_a_stream() -> None:
    host = Host()

    for step in range(500):
        host.rows_bytes = int((0.5 + 4.5 * (step % 50) / 50) * GB) if step % 50 else 0
        host.look(step / 10)

    levels = [relief.level for relief in host.seen]
    assert levels.count(1) == 10 * 5
    assert not any(relief.shed_bytes or relief.restart for relief in host.seen)


@pytest.mark.parametrize("seed", range(20))
def test_no_history_of_use_leaves_admission_stopped_with_nothing_to_wait_for(seed: int) -> None:
    draw = random.Random(seed)
    host = Host()
    now_s = 0.0

    for _ in range(200):
        host.rows_bytes = draw.choice((0, draw.randrange(6 * GB)))
        host.kept_bytes = draw.choice((0, draw.randrange(3 * GB)))
        host.leaked_bytes += draw.choice((0, 0, 0, draw.randrange(GB)))
        now_s += draw.random()
        relief = host.look(now_s, pressure=draw.choice((0, 0, 0, 1, 2)))
        if relief.restart:
            host = Host()
    # All that runs ends: whatever came before, the host admits again or leaves.
    for _ in range(400):
        host.rows_bytes = 0
        now_s += 0.1
        relief = host.look(now_s, pressure=2)

    assert relief.admits or relief.restart


@pytest.mark.parametrize(
    ("resume", "soft", "hard"), [(0.9, 0.85, 0.95), (0.8, 0.96, 0.95), (0.0, 0.85, 0.95), (0.8, 0.85, 1.1)]
)
def test_marks_out_of_order_are_refused(resume: float, soft: float, hard: float) -> None:
    with pytest.raises(ValueError, match="must rise"):
        MemoryParams(limit_bytes=LIMIT, resume_ratio=resume, soft_ratio=soft, hard_ratio=hard)


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="limit_bytes must be above 0, got 0"):
        MemoryParams(limit_bytes=0)


# The budget


def test_the_budget_counts_each_row_at_the_length_of_the_longest_of_its_group() -> None:
    budget = Budget(
        limit_bytes=10 * GB,
        weights_bytes=1000,
        kv_bytes_per_token=10,
        row_bytes=7,
        chunk_tokens=100,
        transient_token_bytes=3,
        transient_pair_bytes=0.5,
    )

    needed = budget.needed_bytes([(3, 300), (2, 10)])

    # 3 rows of 512 tokens and 2 of 256, 7 each; a chunk of 100 over 300 tokens; 10 % more.
    assert needed == int(1.1 * (1000 + 3 * (7 + 5120) + 2 * (7 + 2560) + 100 * (3 + 0.5 * 300)))


def test_an_empty_host_needs_its_weights_and_a_chunks_work() -> None:
    budget = Budget(limit_bytes=1200, weights_bytes=1000, kv_bytes_per_token=10, chunk_tokens=1)

    assert budget.needed_bytes([]) == 1100
    assert budget.fits([])
    assert not budget.fits([(1, 10)])


def test_what_weights_and_a_chunks_work_leave_is_for_kv() -> None:
    budget = Budget(
        limit_bytes=2500,
        weights_bytes=1000,
        kv_bytes_per_token=1,
        chunk_tokens=100,
        transient_token_bytes=3,
        margin_ratio=0.25,
    )

    assert budget.kv_limit_bytes == 2000 - 1000 - 300


def test_where_the_weights_leave_nothing_there_is_no_room_for_kv() -> None:
    budget = Budget(limit_bytes=1000, weights_bytes=1000, kv_bytes_per_token=1)

    assert budget.kv_limit_bytes == 0


def test_one_long_row_makes_room_for_fewer_short_ones() -> None:
    budget = Budget(limit_bytes=110_000 * 256, weights_bytes=0, kv_bytes_per_token=1000)

    assert budget.admits(99, 256, 256)
    assert not budget.admits(100, 256, 256)
    assert not budget.admits(99, 256, 257)


@pytest.mark.parametrize("seed", range(4))
def test_10000_random_admissions_never_exceed_the_budget(seed: int) -> None:
    draw = random.Random(seed)
    budget = Budget(
        limit_bytes=16 * GB,
        weights_bytes=5 * GB,
        kv_bytes_per_token=131_072,
        row_bytes=MB,
        transient_token_bytes=200_000,
        transient_pair_bytes=64.0,
    )
    running: list[int] = []
    admitted = 0

    for _ in range(10_000):
        tokens = int(draw.lognormvariate(6.5, 1.5)) + 1
        if budget.admits(len(running), max(running, default=0), tokens):
            running.append(tokens)
            admitted += 1
        while running and draw.random() < 0.45:
            running.pop(draw.randrange(len(running)))
        longest = max(running, default=0)
        kv = len(running) * (MB + 131_072 * longest)
        assert 5 * GB + kv + 512 * (200_000 + 64 * longest) <= 16 * GB

    assert 1000 < admitted < 10_000


@pytest.mark.parametrize(("tokens", "room"), [(0, 0), (1, 256), (256, 256), (257, 512)])
def test_caches_grow_in_steps(tokens: int, room: int) -> None:
    assert grains(tokens) == room


# What a device allows


def test_what_a_device_recommends_is_read() -> None:
    assert recommended_bytes({"max_recommended_working_set_size": 21 * GB}) == 21 * GB


@pytest.mark.parametrize("device", [{}, {"max_recommended_working_set_size": "much"}, {"memory_size": 1}])
def test_a_device_that_recommends_nothing_is_unknown_and_not_zero(device: dict[str, object]) -> None:
    assert recommended_bytes(device) is None


def test_the_limit_is_what_the_device_recommends() -> None:
    assert default_limit({"max_recommended_working_set_size": 21 * GB}, 32 * GB) == 21 * GB
    assert default_limit({"max_recommended_working_set_size": 21 * GB}, None) == 21 * GB


def test_a_recommendation_that_its_owner_raised_leaves_the_system_some_memory() -> None:
    assert default_limit({"max_recommended_working_set_size": 31 * GB}, 32 * GB) == int(0.85 * 32 * GB)


def test_without_a_recommendation_the_limit_is_a_share_of_memory() -> None:
    assert default_limit({}, 10 * GB) == 7 * GB
    assert default_limit({}, None) is None


@pytest.mark.parametrize(("weights_bytes", "pool_bytes"), [(6 * MB, 64 << 20), (8 << 30, 1 << 30)])
def test_the_pool_is_bounded_by_the_weights(weights_bytes: int, pool_bytes: int) -> None:
    assert cache_limit(weights_bytes) == pool_bytes


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(1000, "1000 bytes"), (3 << 19, "1.5 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_are_written_as_people_do(size_bytes: int, text: str) -> None:
    assert in_units(size_bytes) == text
