"""Timers over cores: sleep to a core's deadline, advance it, apply its events. Nothing is decided here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EventT_co = TypeVar("EventT_co", covariant=True)


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
    while True:
        deadline_s = core.deadline_s
        left_s = None if deadline_s is None else max(0.0, deadline_s - clock())
        try:
            async with asyncio.timeout(left_s):
                await wake.wait()
        except TimeoutError:
            pass
        wake.clear()
        for event in core.advance(now_s=clock()):
            apply(event)


async def every(period_s: float, work: Callable[[], None]) -> None:
    """Call `work` once a period, until cancelled; a late call is not made up for."""
    while True:
        await asyncio.sleep(period_s)
        work()


class LoopLag:
    """Measures how late the event loop runs what is due: the worst of the last ten ticks."""

    TICK_S = 0.1

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lags = [0.0] * 10

    @property
    def worst_s(self) -> float:
        """Worst lag of the last second."""
        return max(self._lags)

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            due_s = self._clock() + self.TICK_S
            await asyncio.sleep(self.TICK_S)
            self._lags = [*self._lags[1:], max(0.0, self._clock() - due_s)]
