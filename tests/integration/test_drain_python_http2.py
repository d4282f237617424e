"""
Pins that Python's clients of HTTP/2, which break at a GOAWAY, lose no token of a gateway that drains.

openai-python and anthropic-python stream through an httpx client with `http2=True`, which speaks through the
`h2` library.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.conftest import DEMO
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.anyio
STREAMS: Final = 4
TOKENS: Final = 200
MOST_S: Final = 30.0
MESSAGES: Final = [{"role": "user", "content": "Tell me about water."}]


class Reader:
    """Streams of both SDKs, each on one connection of HTTP/2."""

    def __init__(self, gateway: Gateway, openai_http: httpx2.AsyncClient, other: httpx2.AsyncClient) -> None:
        self._openai = AsyncOpenAI(
            base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, http_client=openai_http
        )
        self._anthropic = AsyncAnthropic(
            base_url=gateway.url, api_key="none", max_retries=0, http_client=other
        )
        self.begun = asyncio.Semaphore(0)
        """Released when a stream has brought text."""

    async def completion(self) -> str:
        stream = await self._openai.chat.completions.create(
            model="demo",
            messages=MESSAGES,
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        return await self._joined(c.choices[0].delta.content or "" async for c in stream)

    async def message(self) -> str:
        stream = await self._anthropic.messages.create(
            model="demo",
            messages=MESSAGES,
            max_tokens=TOKENS,
            stream=True,
            extra_body={"temperature": 0},
        )
        return await self._joined(
            event.delta.text async for event in stream if event.type == "content_block_delta"
        )

    async def _joined(self, pieces: AsyncIterator[str]) -> str:
        text = ""
        async for piece in pieces:
            if piece and not text:
                self.begun.release()
            text += piece
        return text


@asynccontextmanager
async def reading(gateway: Gateway) -> AsyncIterator[Reader]:
    options = {"http1": False, "http2": True, "timeout": MOST_S}
    async with httpx2.AsyncClient(**options) as one, httpx2.AsyncClient(**options) as other:
        yield Reader(gateway, one, other)


async def test_the_sdks_over_http_2_get_every_token_of_a_gateway_that_drains(tmp_path: Path):
    with Gateway(tmp_path, DEMO) as gateway:
        async with reading(gateway) as reader, asyncio.timeout(MOST_S):
            whole = [await reader.completion(), await reader.message()]
        async with reading(gateway) as reader, asyncio.timeout(MOST_S):
            streams = [reader.completion() for _ in range(STREAMS)] + [
                reader.message() for _ in range(STREAMS)
            ]
            reads = asyncio.gather(*streams)
            for _ in streams:
                await reader.begun.acquire()
            gateway.tell(signal.SIGTERM)
            texts = await reads
            code = await asyncio.to_thread(gateway.ended, MOST_S)

    (draining,) = gateway.events("draining")
    assert draining["in_flight"] > 1  # all, but for those that a busy machine let end before
    assert texts == [whole[0]] * STREAMS + [whole[1]] * STREAMS
    assert code == 0
