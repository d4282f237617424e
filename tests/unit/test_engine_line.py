"""Pins what the gateway's end of the socket does with what a host sends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from wicketgate.engine.frames import Splitter
from wicketgate.engine.line import HostLine
from wicketgate.engine.supervision import FreezeWatch
from wicketgate.engine.wire import Cancel, Fatal, decode_to_host, encode

if TYPE_CHECKING:
    from wicketgate.engine.wire import FromHost

pytestmark = pytest.mark.anyio


class Pipe(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: object) -> None:
        assert isinstance(data, bytes)
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def connected(received: list[FromHost]) -> tuple[HostLine, Pipe]:
    line, pipe = HostLine(lambda _line, message: received.append(message)), Pipe()
    line.connection_made(pipe)
    return line, pipe


async def test_messages_are_handed_on_in_order_however_they_are_cut() -> None:
    received: list[FromHost] = []
    line, _ = connected(received)
    data = encode(Fatal("one")) + encode(Fatal("two"))

    line.data_received(data[:7])
    line.data_received(data[7:])

    assert received == [Fatal("one"), Fatal("two")]


async def test_any_byte_breaks_the_silence() -> None:
    line, _ = connected([])
    line.watch = FreezeWatch(floor_s=1.0, full_chunk_s=0.0, tick_s=0.25)
    line.watch.tick(0.25)
    line.watch.tick(0.25)

    line.data_received(encode(Fatal("one"))[:3])
    line.watch.tick(0.25)

    assert line.watch.silence_s == 0.0


async def test_a_host_that_sends_no_message_is_dropped_with_the_reason() -> None:
    received: list[FromHost] = []
    line, pipe = connected(received)

    line.data_received(encode(Cancel(1)))

    assert pipe.aborted
    assert received == []
    assert line.fatal.startswith("the host sent what is no message")


async def test_nothing_is_sent_before_the_line_is_up_or_after_it_was_dropped() -> None:
    early = HostLine(lambda _line, _message: None)
    early.send(Cancel(1))
    early.close()
    line, pipe = connected([])
    line.send(Cancel(2))
    line.close()
    line.send(Cancel(3))

    assert [decode_to_host(body) for body in Splitter().feed(pipe.written)] == [Cancel(2)]


async def test_the_end_is_noted() -> None:
    line, _ = connected([])

    line.connection_lost(None)

    assert line.lost.is_set()
