"""The loop sleeps to a core's deadline, wakes when told, and applies what happened."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes import Clock
from wicketgate.loops import LoopLag, drive, every, next_tick_s

pytestmark = pytest.mark.anyio


class Alarm:
    """A core that rings once at its deadline."""

    def __init__(self, deadline_s: float | None) -> None:
        self.deadline_s = deadline_s

    def advance(self, *, now_s: float) -> list[float]:
        if self.deadline_s is None or now_s < self.deadline_s:
            return []
        self.deadline_s = None
        return [now_s]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_deadline_that_has_come_is_acted_on() -> None:
    clock, rung = Clock(), asyncio.Queue[float]()
    task = asyncio.create_task(drive(Alarm(clock() - 1), rung.put_nowait, clock=clock))

    assert await asyncio.wait_for(rung.get(), 5) == clock()

    task.cancel()


async def test_a_core_without_a_deadline_sleeps_until_woken() -> None:
    clock, rung, wake = Clock(), asyncio.Queue[float](), asyncio.Event()
    core = Alarm(None)
    task = asyncio.create_task(drive(core, rung.put_nowait, clock=clock, wake=wake))
    await settle()
    assert rung.empty()

    core.deadline_s = clock()
    wake.set()

    assert await asyncio.wait_for(rung.get(), 5) == clock()
    task.cancel()


async def test_work_is_repeated() -> None:
    calls, twice = [], asyncio.Event()

    def work() -> None:
        calls.append(1)
        if len(calls) == 2:
            twice.set()

    task = asyncio.create_task(every(0.001, work))

    await asyncio.wait_for(twice.wait(), 5)
    task.cancel()


async def test_work_that_fails_ends_its_timer_with_what_it_raised() -> None:
    def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await asyncio.wait_for(every(0.001, work), 5)


async def test_a_timer_that_is_cancelled_works_no_more() -> None:
    calls: list[int] = []
    task = asyncio.create_task(every(0.001, lambda: calls.append(1)))
    await settle()
    task.cancel()
    await asyncio.wait({task})
    before = len(calls)

    await asyncio.sleep(0.005)

    assert len(calls) == before


@pytest.mark.parametrize("now_s", [9.95, 9.999, 10.0, 10.04])
async def test_ticks_of_all_periods_fall_on_whole_numbers_of_them(now_s: float) -> None:
    assert next_tick_s(0.1, now_s=now_s) == pytest.approx(10.1 if now_s > 9.95 else 10.0)


async def test_a_timer_that_is_early_does_not_bring_its_tick_twice() -> None:
    assert next_tick_s(0.5, now_s=next_tick_s(0.5, now_s=7.1) - 0.001) == 8.0


async def test_a_loop_that_is_on_time_has_no_lag() -> None:
    clock = Clock()
    lag = LoopLag(clock=clock)
    lag.tick()

    clock.now_s = next_tick_s(lag.TICK_S, now_s=clock())
    lag.tick()

    assert lag.worst_s == 0.0


async def test_the_worst_of_the_last_ten_ticks_is_told() -> None:
    clock = Clock()
    lag = LoopLag(clock=clock)
    lag.tick()
    clock.now_s = next_tick_s(lag.TICK_S, now_s=clock()) + 0.03
    lag.tick()
    worst_s = [lag.worst_s]

    for _ in range(10):
        clock.now_s = next_tick_s(lag.TICK_S, now_s=clock())
        lag.tick()
    worst_s.append(lag.worst_s)

    assert worst_s == [pytest.approx(0.03), 0.0]
