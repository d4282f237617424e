"""The loop sleeps to a core's deadline, wakes when told, and applies what happened."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes import Clock
from wicketgate.loops import LoopLag, drive, every

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

    task = asyncio.create_task(every(0.0, work))

    await asyncio.wait_for(twice.wait(), 5)
    task.cancel()


async def test_a_loop_that_is_on_time_has_no_lag() -> None:
    assert LoopLag(clock=Clock()).worst_s == 0.0
