"""A really started engine host without HTTP, and what tests ask it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from wicketgate.engine.client import EngineClient, EngineParams
from wicketgate.inference import TokenChunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wicketgate.engine.options import HostOptions
    from wicketgate.inference import Finished, Sampling

START_S = 60.0
PAUSE_S = 0.25
"""A longer wait for a token is noted."""


@asynccontextmanager
async def running_engine(options: HostOptions) -> AsyncIterator[EngineClient]:
    """Run one engine host."""
    client = EngineClient(
        EngineParams(options=options), on_step=lambda _step: None, on_state=lambda _state, _reason: None
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        try:
            await client.wait_ready(START_S)
            yield client
        finally:
            await client.stop()


async def served(
    client: EngineClient,
    prompt: list[int],
    sampling: Sampling,
    *,
    pauses: list[tuple[float, float]] | None = None,
    session: str = "",
) -> tuple[list[int], Finished]:
    """Run one request; returns its tokens and its end, and notes long waits between two tokens."""
    stream = client.submit(prompt, sampling, session=session)
    tokens: list[int] = []
    last_s = None
    while isinstance(part := await stream.next(), TokenChunk):
        now_s = time.monotonic()
        if pauses is not None and last_s is not None and now_s - last_s > PAUSE_S:
            pauses.append((last_s, now_s))
        last_s = now_s
        tokens += part.tokens
    return tokens, part
