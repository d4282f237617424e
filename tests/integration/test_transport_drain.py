"""Pins the end of a server: who is told what and when, what may finish, and what is cut at the deadline."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.edges import LOOPS, FollowingClient, Slow, echo, eventually, h2_client, serve
from transport.server import EdgeServer, ServerParams

pytestmark = pytest.mark.anyio
LAST_ID = 2**31 - 1
EVENTS, STREAMS = 20, 75


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


class Events:
    """Streams that write an event at each step, all at once."""

    def __init__(self):
        self.begun = 0
        self.steps = [asyncio.Event() for _ in range(EVENTS)]

    async def __call__(self, scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.begun += 1
        for number, step in enumerate(self.steps):
            await step.wait()
            more = number < EVENTS - 1
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": more})


ALL_EVENTS = b"".join(b"data: %d\n\n" % number for number in range(EVENTS))


async def test_every_event_of_streams_in_flight_arrives_and_the_server_ends_with_the_last():
    app = Events()
    server = await serve(app)
    clients = [await FollowingClient.connect(server.port) for _ in range(2)]
    for number in range(STREAMS):
        clients[number % 2].get()
    await eventually(lambda: app.begun == STREAMS)
    loop = asyncio.get_running_loop()

    draining = asyncio.create_task(server.drain(10.0))
    for step in app.steps:
        await asyncio.sleep(0.01)
        step.set()
    last_s = loop.time()
    drained = await draining

    assert drained
    assert loop.time() - last_s < 0.5
    for client in clients:
        await asyncio.wait([client.reading], timeout=5)
        assert [bytes(body) for body in client.bodies.values()] == [ALL_EVENTS] * len(client.bodies)
        assert client.ended == set(client.bodies)
        assert [code for _, code in client.goaways] == [0, 0]
        assert [last for last, _ in client.goaways] == [LAST_ID, max(client.bodies)]
        await client.close()


async def test_idle_connections_are_told_at_once():
    server = await serve(echo)
    idle = await FollowingClient.connect(server.port)
    idle.get()
    silent_reader, silent_writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with httpx.AsyncClient() as old:
        await old.get(f"http://127.0.0.1:{server.port}/")
        await eventually(lambda: len(idle.ended) == 1 and server.connections().h1 == 2)
        begun_s = asyncio.get_running_loop().time()

        assert await server.drain(5.0)
        ended_s = asyncio.get_running_loop().time()
    assert await silent_reader.read() == b""
    await asyncio.wait([idle.reading], timeout=5)
    assert idle.told_s is not None
    assert idle.told_s - begun_s < 0.1
    assert ended_s - begun_s < 0.5
    assert idle.is_over
    silent_writer.close()
    await idle.close()


async def test_an_idle_connection_of_a_client_that_does_not_read_ends_at_once():
    server = await serve(echo)
    async with h2_client() as client:
        await client.get(f"http://127.0.0.1:{server.port}/")
        begun_s = asyncio.get_running_loop().time()

        assert await server.drain(5.0)

    assert asyncio.get_running_loop().time() - begun_s < 0.5


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_a_client_that_breaks_at_a_goaway_gets_every_byte(size: int):
    go, arrived = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        arrived.set()
        await go.wait()
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": False})

    server = await serve(app)
    async with h2_client() as client:
        asking = [asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/")) for _ in range(3)]
        await eventually(lambda: server.streams().opened == len(asking))
        await arrived.wait()
        draining = asyncio.create_task(server.drain(10.0))
        await asyncio.sleep(0.05)
        go.set()
        answers = await asyncio.gather(*asking)

    assert [len(answer.content) for answer in answers] == [size + len("begun")] * 3
    assert await draining


async def test_a_new_stream_is_refused_so_that_it_may_be_tried_elsewhere():
    app = Slow()
    server = await serve(app)
    client = await FollowingClient.connect(server.port)
    running = client.get()
    await app.arrived.wait()
    draining = asyncio.create_task(server.drain(5.0))
    await eventually(lambda: len(client.goaways) == 2)

    late = client.get()
    await eventually(lambda: late in client.resets)

    assert client.resets == {late: 0x7}  # REFUSED_STREAM
    app.go.set()
    assert await draining
    await asyncio.wait([client.reading], timeout=5)
    assert client.bodies[running] == b"begun done"
    await client.close()


async def test_a_busy_http_1_connection_ends_with_its_answer():
    app = Slow()
    server = await serve(app)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await app.arrived.wait()
        draining = asyncio.create_task(server.drain(5.0))
        await asyncio.sleep(0.02)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        app.go.set()

        assert (await asking).text == "begun done"
    assert await draining
    assert server.connections().h1 == 0


async def test_a_request_that_came_before_its_turn_is_answered_too():
    apps = [Slow(), Slow()]
    calls = iter(apps)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await next(calls)(scope, receive, send)

    server = await serve(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
    apps[0].go.set()
    await apps[1].arrived.wait()
    draining = asyncio.create_task(server.drain(5.0))
    await asyncio.sleep(0.02)
    apps[1].go.set()

    assert (await reader.read()).count(b"done") == 2
    assert await draining
    writer.close()


async def test_an_answer_that_begins_while_draining_says_that_the_connection_ends():
    go = asyncio.Event()
    arrived = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        arrived.set()
        await go.wait()
        await echo(scope, receive, send)

    server = await serve(app)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await arrived.wait()
        draining = asyncio.create_task(server.drain(5.0))
        await asyncio.sleep(0.01)
        go.set()

        assert (await asking).headers["connection"] == "close"
    assert await draining


async def test_an_answer_that_is_read_slowly_is_not_cut():
    body = b"x" * 8_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["extensions"]["wicketgate.stream"].end(body)

    server = await serve(app)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    await eventually(lambda: server.streams().opened == 1)
    draining = asyncio.create_task(server.drain(10.0))
    size = 0
    for _ in range(8):  # for longer than a client to which all is sent may take
        await asyncio.sleep(0.08)
        size += len(await reader.read(100_000))
    size += len(await reader.read())

    assert size > len(body)
    assert await draining
    writer.close()


async def test_at_the_deadline_what_is_left_may_say_its_last_words():
    stop = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        await stop.wait()
        await send({"type": "http.response.body", "body": b"the server is stopping", "more_body": False})

    server = await serve(app)
    client = await FollowingClient.connect(server.port)
    stream = client.get()
    await eventually(lambda: client.bodies[stream] == b"begun ")

    assert not await server.drain(0.05, on_deadline=stop.set)

    await asyncio.wait([client.reading], timeout=5)
    assert client.bodies[stream] == b"begun the server is stopping"
    assert stream in client.ended
    await server.close()
    await client.close()


@pytest.mark.parametrize("http2", [False, True])
async def test_what_is_not_done_at_the_deadline_is_cancelled_by_close(http2):
    app = Slow()
    server = await serve(app)
    url = f"http://127.0.0.1:{server.port}/"

    async with httpx.AsyncClient() as client:
        following = await FollowingClient.connect(server.port)
        asking = following.get() if http2 else asyncio.create_task(client.get(url))
        await app.arrived.wait()
        assert not await server.drain(0.05)
        await server.close()
        if not http2:
            with pytest.raises(httpx.TransportError):
                await asking
        await following.close()

    assert app.cancelled.is_set()
    assert server.connections().h1 == server.connections().h2 == 0


async def test_a_server_that_never_started_has_drained():
    server = EdgeServer(echo, params=ServerParams(), accepts_h2=lambda peer: True)

    assert await server.drain(1.0)
    assert server.connections().opened == 0
    await server.close()
