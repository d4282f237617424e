"""Pins the probe on a real engine host: one that idles answers it, one that is stopped is found out."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from wicketgate.engine.client import EngineClient, EngineParams
from wicketgate.engine.options import HostOptions
from wicketgate.pipeline.probe import ProbeParams
from wicketgate.pipeline.prober import Prober

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio
START_S = 30.0
PARAMS = ProbeParams(interval_s=0.2, timeout_s=0.5)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(START_S):
        while not holds():
            await asyncio.sleep(0.02)


async def test_an_idle_engine_answers_its_probe_and_one_that_stands_still_is_found_out():
    counted = []
    options = HostOptions(engine="simulated", vocabulary_size=1000, plant={"decode_ms": 2.0})
    client = EngineClient(
        # Longer than this test: it is not the supervisor who must find out.
        EngineParams(options=options, freeze_floor_s=START_S),
        on_step=lambda step: counted.append(prober.stepped(step)),
        on_state=lambda _state, _reason: None,
    )
    prober = Prober(client, lambda: PARAMS, clock=time.monotonic)

    async def poll() -> None:
        while True:
            prober.poll()
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        polling = group.create_task(poll())
        await client.wait_ready(START_S)
        try:
            await until(lambda: prober.pulse().token_age_s is not None)
            assert not prober.pulse().is_stuck
            assert sum(counted) == 0, "its tokens are nobody's"

            assert client.pid is not None
            os.kill(client.pid, signal.SIGSTOP)
            await until(lambda: prober.pulse().is_stuck)
            os.kill(client.pid, signal.SIGCONT)
            await until(lambda: not prober.pulse().is_stuck)
        finally:
            polling.cancel()
            await client.stop()
