"""Pins the server: both protocols on its sockets, its limits, its counts and its end."""

from __future__ import annotations

import asyncio
import errno

import httpx
import pytest

from tests.edges import (
    EMPTY_SETTINGS,
    LOOPS,
    PREFACE,
    FollowingClient,
    Slow,
    echo,
    eventually,
    h2_client,
    serve,
)
from transport.server import EdgeServer, ServerParams

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


async def test_both_protocols_are_spoken_in_clear_text():
    server = await serve()
    url = f"http://127.0.0.1:{server.port}/"

    async with httpx.AsyncClient() as old, h2_client() as new:
        assert (await old.post(url, content=b"x" * 300_000)).text == "1.1 300000"
        assert (await new.post(url, content=b"x" * 300_000)).text == "2 300000"
        assert (server.connections().h1, server.connections().h2) == (1, 1)
    await server.close()


async def test_a_port_in_use_is_named():
    server = await serve()

    with pytest.raises(
        OSError, match=f"cannot listen on 127.0.0.1:{server.port}: Address already in use"
    ) as raised:
        await serve(port=server.port)
    assert raised.value.errno == errno.EADDRINUSE
    await server.close()


async def test_the_address_bound_is_returned():
    server = EdgeServer(echo, params=ServerParams(host="localhost"), accepts_h2=lambda peer: True)

    assert await server.start() == f"localhost:{server.port}"
    await server.close()


async def test_three_hundred_connections_at_once_are_all_served():
    server = await serve()
    request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"

    async def ask():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        return answer

    answers = await asyncio.gather(*(ask() for _ in range(300)))

    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert server.connections().opened == 300
    await server.close()


async def test_more_connections_than_allowed_are_closed():
    app = Slow()
    server = await serve(app, max_connections=1)
    url = f"http://127.0.0.1:{server.port}/"

    async with httpx.AsyncClient() as first, httpx.AsyncClient() as second:
        asking = asyncio.create_task(first.get(url))
        await app.arrived.wait()
        with pytest.raises(httpx.TransportError):
            await second.get(url)
        app.go.set()
        assert (await asking).text == "begun done"
    await server.close()


@pytest.mark.parametrize("http2", [False, True])
async def test_more_streams_than_allowed_are_answered_503(http2):
    app = Slow()
    server = await serve(app, max_streams=1)
    url = f"http://127.0.0.1:{server.port}/"

    async with httpx.AsyncClient(http1=not http2, http2=http2) as client:
        asking = asyncio.create_task(client.get(url))
        await app.arrived.wait()
        assert (await client.get(url)).status_code == 503
        assert (server.streams().h2 + server.streams().h1, server.streams().refused) == (1, 1)
        app.go.set()
        assert (await asking).status_code == 200
    await server.close()


async def test_a_websocket_is_refused():
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(
        b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )

    assert (await reader.readline()).startswith(b"HTTP/1.1 403")
    writer.close()
    await server.close()


async def test_more_than_a_thousand_requests_leave_a_long_stream_alone():
    """By default hypercorn would close the connection at the thousandth."""
    slow = Slow()

    async def app(scope, receive, send):
        await (slow if scope["path"] == "/slow" else echo)(scope, receive, send)

    server = await serve(app)
    url = f"http://127.0.0.1:{server.port}"
    async with h2_client() as client:
        asking = asyncio.create_task(client.get(url + "/slow"))
        await slow.arrived.wait()
        for _ in range(11):
            await asyncio.gather(*(client.get(url) for _ in range(95)))
        slow.go.set()

        assert (await asking).text == "begun done"
        assert server.connections().opened == 1
    await server.close()


async def test_a_connection_that_its_client_closed_is_let_go_at_once():
    server = await serve(keep_alive_s=60)
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{server.port}/")
        while_open = server.connections()

    async with asyncio.timeout(5):
        while server.connections().h1:
            await asyncio.sleep(0.01)

    assert while_open.h1 == 1
    await server.close()


async def test_an_http2_connection_that_asks_nothing_is_closed_and_holds_no_drain():
    server = await serve(keep_alive_s=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(PREFACE + EMPTY_SETTINGS)

    async with asyncio.timeout(5):
        await reader.read(-1)  # what it says until it closes the connection

    assert await server.drain(0.0)
    writer.close()
    await server.close()


async def test_clients_of_http2_that_vanish_leave_nothing_behind():
    app = Slow()
    server = await serve(app)
    before = len(asyncio.all_tasks())
    for number in range(60):
        client = await FollowingClient.connect(server.port)
        for _ in range(number % 3):
            client.get()
        if number % 2:
            await asyncio.sleep(0)
        client.writer.transport.abort()
        await asyncio.wait([client.reading])

    await eventually(lambda: server.connections().h2 + server.connections().h1 == 0)

    assert server.streams().h2 == 0
    assert len(asyncio.all_tasks()) == before
    await server.close()
