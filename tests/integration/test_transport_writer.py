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

    def __init__(self, transport: asyncio.Transport, far: socket.socket) -> None:
        self.transport = transport
        self.writer = GatheringWriter(transport)
        self.far = far

    async def receive(self) -> bytes:
        """Return what one read finds, once there is something."""
        return await asyncio.get_running_loop().sock_recv(self.far, 1 << 20)


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    near, far = socket.socketpair()
    far.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=near)
    yield Pipe(transport, far)
    transport.abort()
    far.close()


async def test_writes_of_one_turn_go_out_together(pipe: Pipe) -> None:
    for part in (b"a", b"b", b"c"):
        pipe.writer.write(part)

    assert pipe.writer.unsent_bytes == 3
    assert await pipe.receive() == b"abc"
    assert pipe.writer.unsent_bytes == 0


async def test_a_write_waits_for_no_other_turn(pipe: Pipe) -> None:
    pipe.writer.write(b"a")
    await asyncio.sleep(0)
    pipe.writer.write(b"b")

    assert pipe.far.recv(10) == b"a"
    assert await pipe.receive() == b"b"


async def test_many_bytes_are_sent_at_once(pipe: Pipe) -> None:
    pipe.writer.write(b"x" * (MOST_BYTES + 1))

    assert pipe.far.recv(1 << 20)


async def test_a_flush_sends_what_waits(pipe: Pipe) -> None:
    pipe.writer.write(b"last words")
    pipe.writer.flush()

    assert pipe.far.recv(100) == b"last words"


async def test_what_the_reader_does_not_take_is_counted(pipe: Pipe) -> None:
    pipe.writer.write(b"x" * 4_000_000)

    assert pipe.writer.unsent_bytes > 1_000_000


async def test_writing_to_a_connection_that_is_gone_harms_nobody(pipe: Pipe) -> None:
    pipe.transport.abort()

    pipe.writer.write(b"nobody reads this")
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert pipe.far.recv(100) == b""
