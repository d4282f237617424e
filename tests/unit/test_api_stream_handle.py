"""Pins the handle over plain ASGI sends: nothing waits, what is behind goes together, marks pause it."""

from __future__ import annotations

import asyncio

import pytest

from wicketgate.api.stream_handle import PAUSE_BYTES, AsgiHandle

pytestmark = pytest.mark.anyio


class Socket:
    """An ASGI server whose sends return when the test lets them."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, bool]] = []
        self.open = asyncio.Event()

    async def send(self, message) -> None:
        self.sent.append((message["body"], message["more_body"]))
        await self.open.wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_is_written_while_a_send_is_under_way_goes_out_in_the_next_one_with_the_end() -> None:
    socket = Socket()
    handle = AsgiHandle(socket.send)
    running = asyncio.create_task(handle.run())
    handle.write(b"a")
    await turns()
    handle.write(b"b")
    handle.end(b"c")
    unsent = handle.unsent_bytes

    socket.open.set()
    await running

    assert socket.sent == [(b"a", True), (b"bc", False)]
    assert (unsent, handle.unsent_bytes) == (3, 0)


async def test_far_behind_it_pauses_and_it_tells_when_the_client_has_read() -> None:
    socket = Socket()
    handle = AsgiHandle(socket.send)
    resumed: list[bool] = []
    handle.on_resume = lambda: resumed.append(handle.is_paused)
    running = asyncio.create_task(handle.run())
    handle.write(bytes(PAUSE_BYTES))
    before = handle.is_paused
    handle.write(b"x")
    await turns()
    paused = (handle.is_paused, list(resumed))

    socket.open.set()
    await turns()
    running.cancel()

    assert not before
    assert paused == (True, [])
    assert resumed == [False]


async def test_a_stream_that_is_given_up_ends_without_an_end() -> None:
    socket = Socket()
    handle = AsgiHandle(socket.send)
    running = asyncio.create_task(handle.run())
    handle.write(b"a")
    handle.abort()

    await running

    assert socket.sent == []


async def test_nobody_need_be_told_of_a_client_that_reads_again() -> None:
    socket = Socket()
    socket.open.set()
    handle = AsgiHandle(socket.send)
    handle.write(bytes(PAUSE_BYTES + 1))
    handle.end()

    await handle.run()

    assert not handle.is_paused
