"""Pins that a host which is told to stop saves what it has computed, and that the next one finds it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.engines import running_engine, served
from wicketgate.engine.client import EngineClient, EngineParams
from wicketgate.engine.options import HostOptions
from wicketgate.inference import Sampling

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio
PROMPT = [(7 * number) % 900 + 10 for number in range(400)]
WAIT_S = 30.0


def options(demo_model: Path, folder: Path) -> HostOptions:
    return HostOptions(model=str(demo_model), kv_dir=str(folder), kv_disk_bytes=1 << 28)


async def test_a_conversation_goes_on_after_a_restart_without_computing_it_again(
    demo_model: Path, tmp_path: Path
) -> None:
    sampling = Sampling(max_tokens=20, seed=1, ignore_eos=True)
    async with running_engine(options(demo_model, tmp_path)) as client:
        answer, _ = await served(client, PROMPT, sampling)

    async with running_engine(options(demo_model, tmp_path)) as client:
        _, finished = await served(client, [*PROMPT, *answer, 11, 12], sampling)

    assert finished.cached_tokens >= len(PROMPT)


async def test_what_still_runs_when_the_host_is_told_to_stop_is_saved_too(
    demo_model: Path, tmp_path: Path
) -> None:
    async with running_engine(options(demo_model, tmp_path)) as client:
        stream = client.submit(PROMPT, Sampling(max_tokens=1500, seed=1, ignore_eos=True))
        async with asyncio.timeout(WAIT_S):
            emitted = 0
            while emitted < 40:
                emitted += len((await stream.next()).tokens)

    async with running_engine(options(demo_model, tmp_path)) as client:
        _, finished = await served(client, [*PROMPT, 11, 12], Sampling(max_tokens=2, seed=1))

    assert finished.cached_tokens == len(PROMPT)


async def test_a_prompt_is_assessed_again_by_the_next_host_when_the_first_dies() -> None:
    client = EngineClient(
        EngineParams(options=HostOptions(engine="simulated", plant={"prompt_token_ms": 1.0})),
        on_step=lambda _step: None,
        on_state=lambda _state, _reason: None,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        await client.wait_ready(WAIT_S)
        quick = await client.assess(PROMPT[:50], top=1)
        asked = group.create_task(client.assess(PROMPT, top=1))
        before = client.facts
        async with asyncio.timeout(WAIT_S):
            while not (client.load and client.load.waiting):
                await asyncio.sleep(0.01)
            assert client.pid is not None
            os.kill(client.pid, signal.SIGKILL)
            found = await asked
        await client.stop()

    assert client.restarts == 1
    assert before is not client.facts
    assert [each.token for each in found] == PROMPT[1:]
    assert found[:49] == quick
