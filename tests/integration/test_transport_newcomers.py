"""Pins what a stranger may hold: places of those that have not said what they speak, and connections."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_network

import httpx
import pytest
import trustme

from tests.edges import (
    EMPTY_SETTINGS,
    LOOPS,
    PREFACE,
    Slow,
    certificate,
    eventually,
    h2_client,
    serve,
    trusting,
)
from transport.forwarded import ForwardedKind
from transport.newcomers import NewcomerParams

pytestmark = pytest.mark.anyio
LOOPBACK = (ip_network("127.0.0.0/8"),)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


@contextlib.asynccontextmanager
async def clients(server, count, beginning=b""):
    """Connect so many, one after the other, and let each say how it begins."""
    opened = []
    for _ in range(count):
        opened.append(await asyncio.open_connection("127.0.0.1", server.port))
        opened[-1][1].write(beginning)
    yield [reader for reader, _ in opened]
    for _, writer in opened:
        writer.close()


async def is_closed(reader) -> bool:
    async with asyncio.timeout(5):
        try:
            while await reader.read(1000):
                pass
        except ConnectionResetError:
            pass
    return True


def places(most_per_address=1, **params):
    return NewcomerParams(**{"most_per_address": most_per_address, "stay_s": 0.2, **params})


async def ask(server, **options):
    async with httpx.AsyncClient(**options) as client:
        scheme = "https" if "verify" in options else "http"
        return (await client.get(f"{scheme}://127.0.0.1:{server.port}/")).text


@pytest.mark.parametrize("beginning", [b"", PREFACE[:20]])
async def test_a_silent_connection_gives_way_to_one_that_speaks(beginning):
    server = await serve(newcomers=places())
    async with clients(server, 1, beginning) as (silent,):
        await eventually(lambda: server.connections().opened == 1)

        assert await ask(server) == "1.1 0"

        assert await is_closed(silent)
    counted = server.counters().connections
    assert (counted.put_out, counted.silent, counted.slow_headers) == (1, 0, 0)
    await server.close()


@pytest.mark.parametrize("hello", [b"", bytes.fromhex("16030100c8010000c40303")])
async def test_a_handshake_that_stands_still_gives_way(tmp_path, hello):
    authority = trustme.CA()
    server = await serve(newcomers=places(), **certificate(tmp_path, authority))
    async with clients(server, 1, hello) as (silent,):
        await eventually(lambda: server.connections().opened == 1)

        assert await ask(server, verify=trusting(authority)) == "1.1 0"

        assert await is_closed(silent)
    counted = server.counters().connections
    assert (counted.put_out, counted.failed_handshakes) == (1, 0)
    await server.close()


async def test_a_client_may_open_all_its_connections_before_it_asks(tmp_path):
    authority = trustme.CA()
    server = await serve(newcomers=places(stay_s=0.0), **certificate(tmp_path, authority))
    trust = trusting(authority)

    opened = [await asyncio.open_connection("127.0.0.1", server.port, ssl=trust) for _ in range(3)]

    for reader, writer in opened:
        writer.write(REQUEST)
        assert (await reader.readuntil(b"1.1 0")).startswith(b"HTTP/1.1 200")
        writer.close()
    await server.close()


@pytest.mark.parametrize("beginning", [REQUEST[:1], PREFACE + EMPTY_SETTINGS])
async def test_one_that_has_begun_to_speak_holds_no_place(beginning):
    server = await serve(newcomers=places(stay_s=0.0))
    async with clients(server, 3, beginning):
        await eventually(lambda: server.counters().connections.opened_h1 + server.connections().h2 >= 3)

        assert await ask(server) == "1.1 0"

    assert server.counters().connections.put_out == 0
    await server.close()


async def test_many_at_once_behind_one_address_are_all_served(tmp_path):
    authority = trustme.CA()
    server = await serve(newcomers=places(4, stay_s=30.0), **certificate(tmp_path, authority))
    trust = trusting(authority)

    answers = await asyncio.gather(*(ask(server, verify=trust) for _ in range(40)))

    assert answers == ["1.1 0"] * 40
    assert server.counters().connections.put_out == 0
    await server.close()


async def test_one_that_leaves_while_it_waits_is_forgotten():
    server = await serve(newcomers=places())
    async with clients(server, 3):
        await eventually(lambda: server.connections().opened == 3)

    await eventually(lambda: server.connections().h1 == 0)
    assert await ask(server) == "1.1 0"
    await server.close()


async def test_a_drain_ends_those_that_wait():
    server = await serve(newcomers=places(stay_s=60.0))
    async with clients(server, 3) as readers:
        await eventually(lambda: server.connections().opened == 3)

        assert await server.drain(1.0)

        assert all([await is_closed(reader) for reader in readers])


# Connections in all


async def test_one_connection_too_many_of_an_address_is_closed_and_another_has_its_place():
    app = Slow()
    server = await serve(app, newcomers=NewcomerParams(connections_per_address=2))
    url = f"http://127.0.0.1:{server.port}/"
    async with h2_client() as first, httpx.AsyncClient() as second, httpx.AsyncClient() as third:
        asking = [asyncio.create_task(client.get(url)) for client in (first, second)]
        await eventually(lambda: server.streams().h1 == server.streams().h2 == 1)
        with pytest.raises(httpx.TransportError):
            await third.get(url)
        assert server.counters().connections.refused_of_address == 1
        app.go.set()
        await asyncio.gather(*asking)
        await second.aclose()
        await eventually(lambda: server.connections().h1 == 0)

        assert (await third.get(url)).text == "begun done"
    await server.close()


async def test_what_clients_hold_behind_a_proxy_that_tells_of_them_is_bounded_for_each():
    server = await serve(
        newcomers=NewcomerParams(connections_per_address=1), proxy_protocol=True, proxy_trusted=LOOPBACK
    )

    async def connect(client):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"PROXY TCP4 %s 192.0.2.1 51000 443\r\n" % client + REQUEST)
        return reader, writer

    first, second, third = [
        await connect(client) for client in (b"203.0.113.7", b"203.0.113.8", b"203.0.113.7")
    ]

    for reader in (first[0], second[0]):
        assert (await reader.readuntil(b"1.1 0")).startswith(b"HTTP/1.1 200")
    assert await is_closed(third[0])
    for _, writer in (first, second, third):
        writer.close()
    await server.close()


@pytest.mark.parametrize("behind", [{"forwarded": ForwardedKind.X_FORWARDED}, {"proxy_protocol": True}])
async def test_a_proxys_own_connections_are_not_bounded(behind):
    server = await serve(newcomers=places(connections_per_address=1), proxy_trusted=LOOPBACK, **behind)
    local = b"PROXY UNKNOWN\r\n" if "proxy_protocol" in behind else b""
    async with clients(server, 3, local):
        await eventually(lambda: server.connections().h1 == 3)
        async with clients(server, 1, local + REQUEST) as (reader,):
            assert (await reader.readuntil(b"1.1 0")).startswith(b"HTTP/1.1 200")

    assert server.counters().connections.put_out == 0
    await server.close()


async def test_the_unix_socket_is_not_bounded(tmp_path):
    server = await serve(unix_path=tmp_path / "s", newcomers=places(connections_per_address=1))
    opened = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(3)]
    for _, writer in opened:
        writer.write(REQUEST)

    for reader, _ in opened:
        assert (await reader.readuntil(b"1.1 0")).startswith(b"HTTP/1.1 200")
    for _, writer in opened:
        writer.close()
    await server.close()
