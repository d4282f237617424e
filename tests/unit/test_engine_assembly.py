"""Pins how a host is put together: its pins, its memory guard, and what a safe start means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from wicketgate.engine.assembly import Engine, MemoryWatch, build, prewarm
from wicketgate.engine.batch import MemoryUse
from wicketgate.engine.kv.cache import KvCache
from wicketgate.engine.memory import TooLittleMemoryError
from wicketgate.engine.options import HostOptions
from wicketgate.engine.simulated import open_simulated
from wicketgate.engine.wire import CacheQuery, Submit

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = HostOptions(engine="simulated", vocabulary_size=1000, pins=[[1] * 700, [2] * 40, [5000]])


class Time:
    """A clock that only its own sleep moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def opened(options: HostOptions = OPTIONS, *, limit_bytes: int | None = None) -> tuple[Engine, KvCache, Time]:
    time = Time()
    batch, ready = open_simulated(options, clock=time.clock, sleep=time.sleep)
    cache = KvCache(max_bytes=options.prefix_cache_bytes, clock=time.clock)
    return Engine(batch=batch, ready=ready, limit_bytes=limit_bytes), cache, time


def test_pinned_prefixes_are_computed_before_the_first_request_and_outlive_a_clear() -> None:
    engine, cache, time = opened()
    prewarm(engine, cache, OPTIONS)
    stepper = build(engine, cache, OPTIONS, clock=time.clock)
    report = stepper.report_cache(CacheQuery(id=1, clear="all"))
    stepper.submit(Submit(id=1, prompt=[1] * 700 + [3], max_tokens=1, seed=0))

    step = stepper.step()

    assert [(entry.tokens, entry.is_pinned) for entry in report.entries] == [(40, True), (700, True)]
    assert step.started[0].cached_tokens == 700
    assert step.evicted == []


def test_a_pin_whose_kv_does_not_come_from_disk_in_time_is_computed_and_let_go_of_there() -> None:
    class Late:
        hit = None
        cancelled = False

        def wait(self, timeout_s: float) -> bool:
            return False

        def cancel(self) -> None:
            self.cancelled = True

    class SlowDisk(KvCache):
        late = Late()

        def fetch(self, prompt: Sequence[int], *, salt: str, held_tokens: int, **_: object) -> Late:  # type: ignore[override]
            return self.late

    engine, _, time = opened()
    cache = SlowDisk(max_bytes=OPTIONS.prefix_cache_bytes, clock=time.clock)

    prewarm(engine, cache, OPTIONS)

    assert cache.late.cancelled
    assert cache.match([1] * 700 + [3], salt="") == 700


def test_without_a_cache_no_pin_is_computed() -> None:
    options = msgspec.structs.replace(OPTIONS, prefix_cache_bytes=0)
    engine, cache, time = opened(options)

    prewarm(engine, cache, options)

    assert time.now_s == 100.0


def test_what_the_warm_up_measured_sizes_the_first_chunk() -> None:
    options = msgspec.structs.replace(OPTIONS, plant={"prompt_token_ms": 2.0})
    engine, cache, time = opened(options)
    stepper = build(engine, cache, options, clock=time.clock)
    stepper.submit(Submit(id=1, prompt=[1] * 700, max_tokens=1, seed=0))

    assert stepper.step().step_s == pytest.approx(0.2, rel=0.05)


def test_a_host_in_safe_mode_runs_one_stream_at_a_time() -> None:
    options = msgspec.structs.replace(OPTIONS, safe_mode=True)
    engine, cache, time = opened(options)
    stepper = build(engine, cache, options, clock=time.clock)
    for key in (1, 2, 3):
        stepper.submit(Submit(id=key, prompt=[key] * 5, max_tokens=3, seed=0))

    rows = set()
    while stepper.busy:
        rows.add(stepper.step().load.rows)

    assert rows == {0, 1}


def test_a_model_that_leaves_no_room_is_not_served() -> None:
    options = msgspec.structs.replace(OPTIONS, plant={"weights_bytes": 1e6})
    engine, cache, time = opened(options, limit_bytes=1_100_000)

    with pytest.raises(TooLittleMemoryError):
        build(engine, cache, options, clock=time.clock)


def test_a_stream_that_the_device_could_never_hold_is_refused() -> None:
    engine, cache, time = opened(limit_bytes=10_000_000)
    stepper = build(engine, cache, OPTIONS, clock=time.clock)
    stepper.submit(Submit(id=1, prompt=[1] * 700, max_tokens=1, seed=0))

    assert stepper.step().done[0].reason == "memory"


def use(active_bytes: int) -> MemoryUse:
    return MemoryUse(active_bytes=active_bytes, pool_bytes=0, rows_bytes=0)


def test_only_what_a_process_takes_beyond_its_own_start_counts_as_leaked() -> None:
    footprint = [500_000_000]
    engine, _, _ = opened(limit_bytes=1_000_000)
    engine = Engine(
        batch=engine.batch, ready=engine.ready, limit_bytes=1_000_000, footprint=lambda: footprint[0]
    )
    watch = MemoryWatch(engine, limit_bytes=1_000_000)

    calm = watch(use(100_000), kept_bytes=0, now_s=10.0)
    footprint[0] += 900_000
    unseen = watch(use(100_000), kept_bytes=0, now_s=10.5)
    seen = watch(use(100_000), kept_bytes=50_000, now_s=11.0)

    assert (calm.admits, unseen.admits, seen.admits) == (True, True, False)


def test_the_pressure_of_the_system_is_asked_for_now_and_then_and_stops_admission() -> None:
    asked: list[int] = []

    def pressure() -> int:
        asked.append(1)
        return 2

    engine, _, _ = opened(limit_bytes=1_000_000)
    engine = Engine(
        batch=engine.batch,
        ready=engine.ready,
        limit_bytes=1_000_000,
        footprint=lambda: None,
        pressure=pressure,
    )
    watch = MemoryWatch(engine, limit_bytes=1_000_000)

    reliefs = [watch(use(1000), kept_bytes=0, now_s=now_s) for now_s in (1.0, 1.2, 1.9, 2.0)]

    assert [relief.admits for relief in reliefs] == [False] * 4
    assert len(asked) == 2
