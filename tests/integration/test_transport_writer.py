"""Pins the gathering of writes on real sockets: what goes out together, and what does not wait."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from transport.writer import MOST_BYTES, GatheringWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio


class Pipe:
    """A writer, and the other end of its socket."""

    def __init__(self, writer: GatheringWriter, far: socket.socket) -> None:
        self.writer = writer
        self.far = far

    async def receive(self) -> bytes:
        """Return what one read finds, once there is something."""
        return await asyncio.get_running_loop().sock_recv(self.far, 1 << 20)


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    far.setblocking(False)
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_unix_connection(lambda: protocol, sock=near)
    yield Pipe(GatheringWriter(transport, protocol, reader, loop), far)
    transport.abort()
    far.close()


async def test_writes_of_neighbouring_turns_go_out_together(pipe: Pipe) -> None:
    for part in (b"a", b"b", b"c"):
        pipe.writer.write(part)
        await asyncio.sleep(0)

    assert await pipe.receive() == b"abc"


async def test_writes_without_a_pause_are_sent_all_the_same(pipe: Pipe) -> None:
    arrived = asyncio.create_task(pipe.receive())
    written = 0

    while not arrived.done():
        pipe.writer.write(b".")
        written += 1
        await asyncio.sleep(0)

    assert 0 < len(await arrived) <= written < 1000


async def test_many_bytes_are_sent_at_once(pipe: Pipe) -> None:
    pipe.writer.write(b"x" * (MOST_BYTES + 1))

    assert pipe.far.recv(1 << 20)


async def test_closing_sends_what_waits(pipe: Pipe) -> None:
    pipe.writer.write(b"last words")
    pipe.writer.close()

    assert await pipe.receive() == b"last words"


async def test_the_end_comes_after_what_waits(pipe: Pipe) -> None:
    pipe.writer.write(b"last words")
    pipe.writer.write_eof()

    assert await pipe.receive() == b"last words"
    assert await pipe.receive() == b""


async def test_writing_to_a_connection_that_is_gone_harms_nobody(pipe: Pipe) -> None:
    pipe.writer.transport.abort()

    pipe.writer.write(b"nobody reads this")
    await asyncio.sleep(0.01)

    assert pipe.writer.transport.is_closing()
