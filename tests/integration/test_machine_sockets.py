"""
Pins the line between gateway and host where the system gives sockets 8 KiB: nothing stalls, nothing is lost.

macOS gives Unix sockets 8 KiB each way; SO_SNDBUF of 4,096 imitates it on Linux, which then takes 8,064 bytes
at a time.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from wicketgate.engine.frames import Splitter
from wicketgate.engine.host import Line
from wicketgate.engine.line import HostLine
from wicketgate.engine.wire import Fatal, Submit, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FRAME_BYTES = 16 << 20
LIMIT_S = 60.0


def poll_loop() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(selectors.PollSelector())


def uvloop_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "the system's": asyncio.new_event_loop,
    "poll": poll_loop,
    "uvloop": uvloop_loop,
}


class HostThread:
    """A host's end of a line on a thread, which sends one message and collects what it gets."""

    def __init__(self, sock: socket.socket, answer: Fatal) -> None:
        self.line = Line(sock)
        shrink(sock)
        self.answer = answer
        self.received: list[Any] = []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self) -> None:
        self.line.send(self.answer)
        while self.line.open:
            self.received += self.line.receive(0.1)


def shrink(sock: socket.socket) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 4096)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_frames_of_16_mib_cross_both_ways_at_once_through_buffers_of_8_kib(
    loop: Callable[[], asyncio.AbstractEventLoop], pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    answer = Fatal("x" * FRAME_BYTES)
    question = Submit(id=7, prompt=[2**31] * (FRAME_BYTES // 5), max_tokens=1, seed=0)
    host = HostThread(theirs, answer)
    received: list[Any] = []

    async def talk() -> None:
        line = HostLine(lambda _, message: received.append(message))
        shrink(ours)
        await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
        host.thread.start()
        line.send(question)
        async with asyncio.timeout(LIMIT_S):
            while not received or not host.received:
                await asyncio.sleep(0.001)
        line.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(talk())
    host.thread.join(LIMIT_S)

    assert received == [answer]
    assert host.received == [question]
    assert not host.line.open


def test_a_frame_arrives_whole_however_it_is_cut() -> None:
    splitter = Splitter()
    data = encode(Fatal("a" * 100_000)) + encode(Fatal("b"))

    bodies = [body for at in range(0, len(data), 8064) for body in splitter.feed(data[at : at + 8064])]

    assert b"".join(len(body).to_bytes(4, "little") + body for body in bodies) == data


def raw_s(data: bytes) -> float:
    """Return how long plain sockets with such buffers take for as many bytes, from one thread to another."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        shrink(ours)
        shrink(theirs)
        sender = threading.Thread(target=theirs.sendall, args=(data,), daemon=True)
        left, began_s = len(data), time.monotonic()
        sender.start()
        while left:
            left -= len(ours.recv(256 * 1024))
        sender.join(LIMIT_S)
        return time.monotonic() - began_s


def line_s(message: Fatal) -> float:
    """Return how long a line with such buffers takes for a message, from a host's thread to an event loop."""
    took_s = 0.0

    async def read() -> None:
        nonlocal took_s
        done = asyncio.Event()
        line = HostLine(lambda *_: done.set())
        shrink(ours)
        await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
        began_s = time.monotonic()
        host.thread.start()
        async with asyncio.timeout(LIMIT_S):
            await done.wait()
        took_s = time.monotonic() - began_s
        line.close()

    ours, theirs = socket.socketpair()
    with ours, theirs:
        host = HostThread(theirs, message)
        asyncio.run(read())
        host.thread.join(LIMIT_S)
    return took_s


def test_a_line_costs_a_bounded_multiple_of_what_plain_sockets_do() -> None:
    message = Fatal("x" * FRAME_BYTES)
    data = encode(message)

    ratios = sorted(line_s(message) / raw_s(data) for _ in range(3))

    assert ratios[1] < 15
