"""Pins what the attacks have found in the edge, each by the least that shows it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from bench.attacks import attacker
from bench.attacks.attacker import frame, headers, settings
from bench.attacks.http1 import GET
from tests.edges import LOOPS, echo, eventually, serve
from tests.h2_peer import Peer
from transport.connection import Connection
from transport.counters import Counters
from transport.protocol import H2Protocol
from transport.server import Connections
from transport.streams import StreamTable
from transport.wire import ConnectionParams


def test_a_busy_client_whose_reads_end_within_headers_is_no_slow_one():
    """A deadline that only an empty buffer ended would close it, however much it has sent meanwhile."""
    peer = Peer(ConnectionParams(header_timeout_s=5))
    data = b"".join(headers(stream_id, attacker.block()) for stream_id in range(1, 400, 2))
    cut = len(data) // 20 + 3

    for number in range(20):
        peer.server.receive(data[number * cut : (number + 1) * cut], now_s=float(number))
        while peer.server.has_unread:
            peer.server.receive(b"", now_s=float(number))
        peer.server.advance(now_s=float(number))

    assert not peer.server.is_over


def test_frames_that_are_put_off_are_no_slow_ones():
    peer = Peer(ConnectionParams(header_timeout_s=5))
    data = b"".join(headers(stream_id, attacker.block()) for stream_id in range(1, 400, 2))
    peer.server.receive(data, now_s=0.0)

    assert peer.server.has_unread
    for now_s in (4.0, 8.0):
        peer.server.receive(b"", now_s=now_s)
        peer.server.advance(now_s=now_s)
    assert not peer.server.is_over


def test_a_connection_that_is_over_has_nothing_unread():
    """Else its shell would ask for it again and again, until the socket is closed."""
    connection = Connection(ConnectionParams(), now_s=0.0, counters=Counters())
    connection.receive(
        attacker.PREFACE + settings({}) + frame(attacker.PING, payload=bytes(8)) * 300, now_s=0.0
    )
    assert connection.has_unread
    connection.advance(now_s=1000.0)

    connection.receive(b"", now_s=1000.0)

    assert connection.is_over
    assert not connection.has_unread


def test_settings_that_move_many_windows_are_more_work_than_a_small_frame():
    def turns(streams: int) -> int:
        peer = Peer(ConnectionParams(max_streams=256))
        for _ in range(streams):
            peer.ask()
        peer.server.receive(settings({4: 1}) * 100, now_s=0.0)
        count = 1
        while peer.server.has_unread:
            peer.server.receive(b"", now_s=0.0)
            count += 1
        return count

    assert turns(256) > 2 * turns(1) > 4


def protocol(*, on_closed=lambda _: None, **params) -> H2Protocol:
    return H2Protocol(
        echo,
        params=ConnectionParams(**params),
        streams=StreamTable(max_streams=1),
        counters=Counters(),
        client=None,
        server=None,
        scheme="http",
        on_closed=on_closed,
    )


class Wire(asyncio.Transport):
    """A transport that goes nowhere, and knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = True

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def write(self, data):
        pass

    def pause_reading(self):
        self.is_read = False

    def resume_reading(self):
        self.is_read = True


@pytest.mark.anyio
async def test_a_client_whose_bytes_take_long_waits_as_long():
    """Else others, whose answers take some turns each, wait for one of its header blocks in every turn."""
    made, wire = protocol(), Wire()
    made.connection_made(wire)
    made.data_received(attacker.PREFACE + settings({}))
    assert wire.is_read

    made.data_received(headers(1, attacker.block(more=[("x-large", "l" * 60_000)])))

    for _ in range(3):
        await asyncio.sleep(0)
    assert not wire.is_read
    await eventually(lambda: wire.is_read)
    made.connection_lost(None)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_a_deadline_that_has_passed_when_it_is_set_is_kept(caplog):
    """uvloop's handle of such a call knows no time, and failed when it was asked for it."""
    closed = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(
        lambda: protocol(on_closed=lambda _: closed.set(), header_timeout_s=-1.0), "127.0.0.1", 0
    )
    # Sent before anybody is there: it is read in the turn in which the deadline is set.
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.sendall(attacker.PREFACE[:10])
        await asyncio.wait_for(closed.wait(), 5)

    assert caplog.records == []
    server.close()


@pytest.mark.anyio
@pytest.mark.parametrize("http2", [True, False])
async def test_an_application_that_does_not_notice_that_its_client_has_gone_is_ended(http2):
    """One that asks to be told only after its client has left is told no more, and would wait for ever."""
    asked = asyncio.Event()

    async def app(scope, receive, send):
        asked.set()
        await asyncio.Event().wait()

    server = await serve(app)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    as_http2 = attacker.PREFACE + settings({}) + headers(1, attacker.block())
    writer.write(as_http2 if http2 else GET)
    await asked.wait()
    writer.close()

    await eventually(lambda: server.connections() == Connections(h2=0, h1=0, opened=1))

    assert server.streams().h1 + server.streams().h2 == 0
    await server.close()
