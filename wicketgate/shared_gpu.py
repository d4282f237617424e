"""Hands the turn to compute prompts from host to host, where several engine hosts share one GPU."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from wicketgate.engine.client import EngineState
from wicketgate.engine.gpu_turn import GpuTurns, TurnParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from wicketgate.engine.client import EngineClient
    from wicketgate.engine.wire import Step


class SharedGpu:
    """
    The shell of GpuTurns: facts of the hosts in, Tune messages out; hosts on the CPU are left alone.

    Args:
        clock: Monotonic seconds.
        chunk_target_s: What hosts aim at where they do not share.
    """

    def __init__(self, *, clock: Callable[[], float], chunk_target_s: Callable[[], float]) -> None:
        self._clock = clock
        self._chunk_target_s = chunk_target_s
        self._turns = GpuTurns(TurnParams())
        self._engines: dict[int, EngineClient] = {}
        self._bounds: dict[int, float] = {}
        self.changed = asyncio.Event()
        """Set when the deadline may have moved."""

    @property
    def deadline_s(self) -> float | None:
        """When the holder's time is over; None where nobody waits for it."""
        return self._turns.deadline_s

    def advance(self, *, now_s: float) -> tuple[()]:
        """Move the turn where it is due, and tell the hosts; the one that loses it first."""
        for change in self._turns.advance(now_s=now_s):
            if change.chunk_bound_s is None:
                self._bounds.pop(change.host, None)
            else:
                self._bounds[change.host] = change.chunk_bound_s
            engine = self._engines[change.host]
            engine.tune(prefill_turn=change.has_turn, chunk_target_s=self.chunk_target_s(engine))
        return ()

    def chunk_target_s(self, engine: EngineClient) -> float:
        """Return what a host is to aim at now."""
        return min(self._chunk_target_s(), self._bounds.get(id(engine), float("inf")))

    def moved(self, engine: EngineClient, state: EngineState) -> None:
        """Note that a host has come or gone."""
        host = id(engine)
        if state is EngineState.READY:
            if engine.facts is None or engine.facts.device.startswith("cpu"):
                return
            self._engines[host] = engine
            self._turns.joins(host, now_s=self._clock())
        elif self._engines.pop(host, None) is not None:
            self._turns.leaves(host)
            self._bounds.pop(host, None)
            # Its successor begins as hosts do, with the turn; it is told otherwise once it has joined.
            engine.tune(prefill_turn=True, chunk_target_s=self._chunk_target_s())
        self._settle()

    def asks(self, engine: EngineClient) -> None:
        """Note that a prompt is about to be sent to a host."""
        if id(engine) in self._engines:
            self._turns.asks(id(engine), now_s=self._clock())
            self._settle()

    def stepped(self, engine: EngineClient, step: Step) -> None:
        """Note a step of a host."""
        if id(engine) in self._engines:
            self._turns.stepped(
                id(engine),
                began_s=step.at_s - step.step_s,
                has_prompts=step.load.waiting > 0,
                rows=step.load.rows,
                now_s=self._clock(),
            )
            self._settle()

    def _settle(self) -> None:
        self.advance(now_s=self._clock())
        self.changed.set()
