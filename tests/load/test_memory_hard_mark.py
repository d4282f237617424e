"""Pins what the real engine does as its memory fills: it ends some streams, says why, and goes on."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from bench.prompts import MODEL, training_prompts
from tests.engines import running_engine, served
from wicketgate.engine.options import HostOptions
from wicketgate.inference import FinishReason, Sampling
from wicketgate.platform import process_memory_bytes

if TYPE_CHECKING:
    from wicketgate.engine.client import EngineClient

pytestmark = pytest.mark.anyio

STREAMS = 32
PROMPT_TOKENS = 600
ANSWER_TOKENS = 900
ROOM_BYTES = 36 << 20
"""From what the host takes at rest to the soft mark; the KV of all streams is several times as much."""
HARD = 2


def sampling(number: int, max_tokens: int) -> Sampling:
    return Sampling(max_tokens=max_tokens, seed=number, temperature=0.0, ignore_eos=True)


async def at_rest_bytes() -> int:
    """Return what a host takes that has served one request."""
    async with running_engine(HostOptions(model=str(MODEL))) as client:
        await served(client, training_prompts().take(50), sampling(0, 4))
        assert client.pid is not None
        size_bytes = process_memory_bytes(client.pid)
    assert size_bytes is not None
    return size_bytes


async def worst_pressure(client: EngineClient, until: asyncio.Event) -> int:
    worst = 0
    while not until.is_set():
        worst = max(worst, client.load.pressure if client.load else 0)
        await asyncio.sleep(0.005)
    return worst


async def test_at_the_hard_mark_streams_end_by_name_and_the_host_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    prompts, done = training_prompts(), asyncio.Event()
    limit_bytes = int((await at_rest_bytes() + ROOM_BYTES) / 0.85)
    async with running_engine(HostOptions(model=str(MODEL), memory_bytes=limit_bytes)) as client:
        watching = asyncio.create_task(worst_pressure(client, done))

        ends = await asyncio.gather(
            *(
                served(client, prompts.take(PROMPT_TOKENS), sampling(number, ANSWER_TOKENS))
                for number in range(STREAMS)
            )
        )

        done.set()
        worst = await watching
        after, end = await served(client, prompts.take(50), sampling(99, 20))
        restarts = client.restarts
    counts = Counter((end.reason, end.error.code if end.error else None) for _, end in ends)
    with capsys.disabled():
        sys.stdout.write(f"\n{dict(counts)}, worst pressure {worst}")
    assert worst == HARD
    assert set(counts) == {(FinishReason.LENGTH, None), (FinishReason.ERROR, "memory")}
    assert (end.reason, len(after), restarts) == (FinishReason.LENGTH, 20, 0)
