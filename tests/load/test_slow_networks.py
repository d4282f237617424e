"""
Pins that a slow and lossy network costs time and nothing else: every stream arrives whole and in order.

Between client and gateway stands a proxy of ours. Each way takes half the round trip, and of a hundred
segments one comes later by a retransmission timeout; what was sent behind it waits for it, as TCP has it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

import httpx
import pytest

from bench.answers import Answer, read
from bench.load import PATH
from bench.prompts import completion
from bench.server import HOST
from tests.load.facts import TOKENS, Solo

if TYPE_CHECKING:
    from typing import Self

    from bench.server import Server

pytestmark = pytest.mark.anyio
SEGMENT_BYTES: Final = 1460
RETRANSMISSION_S: Final = 0.2
ONE_IN: Final = 100
MAX_ON_THE_WAY: Final = 1000
"""Segments of one direction; more are not taken from the sender."""
H2_STREAMS, H1_STREAMS = 18, 6
MOST_S: Final = 60.0


class SlowNetwork:
    """
    A proxy before one port of this machine.

    Args:
        port: Where it leads to.
        round_trip_s: Of a byte and its answer.
    """

    def __init__(self, port: int, *, round_trip_s: float) -> None:
        self._port = port
        self._one_way_s = round_trip_s / 2
        self._segments = 0
        self.held = 0
        """Segments that came late."""
        self._tasks: list[asyncio.Task[None]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, HOST, 0, limit=SEGMENT_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        ends = (writer.wait_closed() for writer in self._writers)
        await asyncio.gather(*self._tasks, *ends, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * self._one_way_s)  # the handshake
        back_reader, back_writer = await asyncio.open_connection(HOST, self._port, limit=SEGMENT_BYTES)
        self._writers += (writer, back_writer)
        for source, sink in ((reader, back_writer), (back_reader, writer)):
            self._tasks.append(asyncio.create_task(self._carry(source, sink)))

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        on_the_way: deque[tuple[float, bytes]] = deque()
        places, news = asyncio.Semaphore(MAX_ON_THE_WAY), asyncio.Semaphore(0)
        delivering = asyncio.create_task(self._deliver(on_the_way, places, news, sink))
        now_s = asyncio.get_running_loop().time
        due_s, data = 0.0, b"-"
        try:
            while data:
                await places.acquire()
                data = await source.read(SEGMENT_BYTES)
                due_s = max(due_s, now_s() + self._one_way_s + self._delay_s())
                on_the_way.append((due_s, data))
                news.release()
            await delivering
        finally:
            delivering.cancel()

    async def _deliver(
        self,
        on_the_way: deque[tuple[float, bytes]],
        places: asyncio.Semaphore,
        news: asyncio.Semaphore,
        sink: asyncio.StreamWriter,
    ) -> None:
        loop, data = asyncio.get_running_loop(), b"-"
        while data:
            await news.acquire()
            due_s, data = on_the_way.popleft()
            await asyncio.sleep(due_s - loop.time())
            sink.write(data)
            await sink.drain()
            places.release()
        sink.close()

    def _delay_s(self) -> float:
        self._segments += 1
        if self._segments % ONE_IN != ONE_IN // 2:
            return 0.0
        self.held += 1
        return RETRANSMISSION_S


async def stream(client: httpx.AsyncClient, port: int, solo: Solo) -> Answer:
    """Ask for what was answered before, and read it as it comes."""
    now_s = asyncio.get_running_loop().time
    body = completion(solo.prompt, max_tokens=TOKENS, ignore_eos=False)
    async with client.stream("POST", f"http://{HOST}:{port}{PATH}", content=body) as response:
        chunks = [(now_s(), chunk) async for chunk in response.aiter_bytes()]
    return read(response.status_code, response.headers, chunks)


@pytest.mark.parametrize("round_trip_s", [0.05, 0.2, 1.0])
async def test_no_stream_is_lost_and_every_text_is_whole(
    server: Server, solos: list[Solo], round_trip_s: float
):
    h2_solos, h1_solos = solos[:H2_STREAMS], solos[H2_STREAMS : H2_STREAMS + H1_STREAMS]
    connections = httpx.Limits(max_connections=1), httpx.Limits(max_connections=H1_STREAMS)
    async with (
        asyncio.timeout(MOST_S),
        SlowNetwork(server.port, round_trip_s=round_trip_s) as network,
        httpx.AsyncClient(http1=False, http2=True, limits=connections[0], timeout=MOST_S) as h2,
        httpx.AsyncClient(limits=connections[1], timeout=MOST_S) as h1,
    ):
        answers = await asyncio.gather(
            *(stream(h2, network.port, solo) for solo in h2_solos),
            *(stream(h1, network.port, solo) for solo in h1_solos),
        )

    assert [answer.error for answer in answers if answer.error] == []
    assert [answer.text for answer in answers] == [solo.text for solo in h2_solos + h1_solos]
    assert network.held > 0
    assert min(answer.first_s for answer in answers) > round_trip_s
