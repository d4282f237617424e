"""Timers over cores: sleep to a core's deadline, advance it, apply its events. Nothing is decided here."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EventT_co = TypeVar("EventT_co", covariant=True)

EARLY_S: Final = 0.001
"""How early uvloop's timers may be; a core that is advanced before its deadline has to be woken again."""


class Core(Protocol[EventT_co]):
    """What the loop asks of a core."""

    @property
    def deadline_s(self) -> float | None:
        """When there is work, in monotonic seconds; None for never."""

    def advance(self, *, now_s: float) -> Iterable[EventT_co]:
        """Do the work that is due and say what happened."""


async def drive(
    core: Core[EventT_co],
    apply: Callable[[EventT_co], None],
    *,
    clock: Callable[[], float],
    wake: asyncio.Event | None = None,
) -> None:
    """
    Advance a core whenever its deadline comes, until cancelled.

    Args:
        core: Decides.
        apply: Turns each of its events into effects.
        clock: Monotonic seconds.
        wake: Set by whoever gave the core a fact that may have moved its deadline.
    """
    wake = wake or asyncio.Event()
    loop = asyncio.get_running_loop()
    while True:
        deadline_s = core.deadline_s
        timer = None
        if deadline_s is not None:
            # No timeout around the wait: it cancels the task and catches that, at thrice the cost.
            timer = loop.call_later(max(0.0, deadline_s - clock() + EARLY_S), wake.set)
        try:
            await wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        wake.clear()
        for event in core.advance(now_s=clock()):
            apply(event)


async def every(period_s: float, work: Callable[[], None]) -> None:
    """
    Call `work` at every whole number of periods, until cancelled; a late call is not made up for.

    So the ticks of all periods fall together, and the process is woken once for them. No task is: that, and
    the wait itself, cost more than most of this work.

    Raises:
        Exception: what `work` raised.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal timer
        try:
            work()
        except Exception as error:  # noqa: BLE001  (raised to whoever runs the timer)
            failed.set_exception(error)
        else:
            timer = loop.call_at(next_tick_s(period_s, now_s=loop.time()), tick)

    timer = loop.call_at(next_tick_s(period_s, now_s=loop.time()), tick)
    try:
        await failed
    finally:
        timer.cancel()


def next_tick_s(period_s: float, *, now_s: float) -> float:
    """Return the next whole number of periods; rounded, since a timer may be early."""
    return (round(now_s / period_s) + 1) * period_s


class LoopLag:
    """Measures how late the event loop runs what is due: the worst of the last ten ticks."""

    TICK_S = 0.1

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lags = deque([0.0], maxlen=10)
        self._due_s = inf

    @property
    def worst_s(self) -> float:
        """Worst lag of the last second."""
        return max(self._lags)

    async def run(self) -> None:
        """Tick until cancelled."""
        await every(self.TICK_S, self.tick)

    def tick(self) -> None:
        """Note how late this tick is."""
        now_s = self._clock()
        self._lags.append(max(0.0, now_s - self._due_s))
        self._due_s = next_tick_s(self.TICK_S, now_s=now_s)
