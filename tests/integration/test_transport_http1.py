"""Pins HTTP/1.1 connections: their deadlines, slow and vanishing clients, and answers written directly."""

from __future__ import annotations

import asyncio
import gc
import weakref

import httpx
import pytest

from tests.edges import LOOPS, Slow, answer, echo, eventually, serve

pytestmark = pytest.mark.anyio
EXTENSION = "wicketgate.stream"
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


class Direct:
    """Starts an answer and leaves its handle to the test."""

    def __init__(self):
        self.stream, self.started, self.over = None, asyncio.Event(), asyncio.Event()
        self.returned = False

    async def __call__(self, scope, receive, send):
        self.stream = scope["extensions"][EXTENSION]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        self.started.set()
        await self.over.wait()
        self.stream.end()
        self.returned = True


async def connect(server, data=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    return reader, writer


async def read_all(reader):
    async with asyncio.timeout(5):
        return await reader.read()


# Deadlines


async def test_two_hundred_clients_that_never_finish_their_headers_are_all_closed():
    server = await serve(header_timeout_s=0.3)
    clients = [await connect(server, b"GET / HTTP/1.1\r\nhost: x\r\n") for _ in range(200)]

    async def drip(writer):
        while not writer.is_closing():
            writer.write(b"a: b\r\n")
            await asyncio.sleep(0.1)

    dripping = [asyncio.create_task(drip(writer)) for _, writer in clients[:20]]

    await eventually(lambda: server.connections().h1 == 0)

    assert server.counters().connections.slow_headers == 200
    for task in dripping:
        task.cancel()
    for _, writer in clients:
        writer.close()
    await server.close()


async def test_the_headers_of_a_later_request_have_their_own_deadline():
    server = await serve(header_timeout_s=0.2, keep_alive_s=60)
    reader, writer = await connect(server, GET)
    await reader.readuntil(b"1.1 0")
    await asyncio.sleep(0.3)
    writer.write(GET)
    await reader.readuntil(b"1.1 0")
    writer.write(GET[:10])

    assert await read_all(reader) == b""

    assert server.counters().connections.slow_headers == 1
    writer.close()
    await server.close()


async def test_an_answer_may_take_longer_than_any_deadline_of_headers():
    app = Slow()
    server = await serve(app, header_timeout_s=0.05, keep_alive_s=0.05)
    reader, writer = await connect(server, GET)
    await app.arrived.wait()
    await asyncio.sleep(0.2)
    app.go.set()

    assert b"done" in await read_all(reader)
    writer.close()
    await server.close()


async def test_an_idle_connection_is_closed_after_its_time():
    server = await serve(keep_alive_s=0.1)
    reader, writer = await connect(server, GET)

    assert (await read_all(reader)).endswith(b"1.1 0")

    writer.close()
    await server.close()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 40_000, b"431"),
        (b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 2_000 + b"\r\n", b"431"),
        (b"rubbish\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n", b"400"),
    ],
)
async def test_a_request_that_breaks_the_rules_is_answered_and_the_connection_closed(request_, status):
    server = await serve()
    reader, writer = await connect(server, request_)

    assert (await read_all(reader)).startswith(b"HTTP/1.1 " + status)

    writer.close()
    await eventually(lambda: server.connections().h1 == 0)
    await server.close()


async def test_a_client_that_still_sends_hears_its_answer():
    """To close while bytes are unread would reset the connection, and the answer with it."""

    async def app(scope, receive, send):
        await answer(send, b"too large")

    server = await serve(app)
    reader, writer = await connect(server, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n")
    writer.write(b"x" * 3_000_000)

    assert (await read_all(reader)).endswith(b"too large")

    writer.close()
    await eventually(lambda: server.connections().h1 == 0)
    await server.close()


async def test_a_request_begun_before_its_turn_has_the_deadline_of_headers():
    app = Slow()
    server = await serve(app, header_timeout_s=0.1, keep_alive_s=60)
    reader, writer = await connect(server, GET + GET[:10])
    await app.arrived.wait()
    app.go.set()

    assert (await read_all(reader)).endswith(b"0\r\n\r\n")

    assert server.counters().connections.slow_headers == 1
    writer.close()
    await server.close()


# Clients that vanish


async def test_clients_that_vanish_leave_nothing_behind():
    app = Direct()
    server = await serve(app)
    before = len(asyncio.all_tasks())
    half = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc"
    pieces = (b"", GET[:9], GET, GET + GET, half)
    for number in range(100):
        _, writer = await connect(server, pieces[number % len(pieces)])
        if number % 2:
            await asyncio.sleep(0)
        writer.transport.abort()
    app.over.set()

    await eventually(lambda: server.connections().h1 == 0)

    assert server.streams().h1 == 0
    await eventually(lambda: len(asyncio.all_tasks()) == before)
    await server.close()


async def test_an_application_hears_that_its_client_has_gone():
    heard = asyncio.Queue()

    async def app(scope, receive, send):
        for _ in range(4):
            heard.put_nowait((await receive())["type"])

    server = await serve(app)
    _, writer = await connect(server, GET)
    assert await heard.get() == "http.request"
    writer.close()

    async with asyncio.timeout(5):
        assert [await heard.get() for _ in range(3)] == ["http.disconnect"] * 3
    await server.close()


async def test_one_that_pipelines_a_request_and_vanishes_is_forgotten():
    app = Direct()
    server = await serve(app)
    _, writer = await connect(server, GET + GET)
    await app.started.wait()
    writer.close()
    closed = asyncio.Event()
    app.stream.on_closed = closed.set

    await asyncio.wait_for(closed.wait(), 5)
    app.over.set()

    assert app.stream.is_gone
    await eventually(lambda: server.connections().h1 == 0)
    await server.close()


async def test_a_body_that_nobody_reads_is_held_up():
    app = Direct()
    server = await serve(app)
    _, writer = await connect(server, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 90000000\r\n\r\n")
    await app.started.wait()
    sent = 0
    while sent < 60_000_000 and writer.transport.get_write_buffer_size() == 0:
        writer.write(b"x" * 1_000_000)
        sent += 1_000_000
        await asyncio.sleep(0.01)

    assert sent < 60_000_000
    writer.transport.abort()
    app.over.set()
    await eventually(lambda: server.connections().h1 == 0)
    await server.close()


async def test_a_fault_of_one_request_is_answered_500_and_logged(caplog):
    async def app(scope, receive, send):
        raise ValueError("a fault")

    server = await serve(app)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 500

    assert "request_failed" in caplog.text
    await server.close()


# Answers written directly


async def test_an_answer_may_be_written_past_the_messages():
    app = Direct()
    server = await serve(app)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await app.started.wait()
        app.stream.write(b"one ")
        app.stream.write(b"")
        app.stream.write(b"two ")
        app.stream.end(b"three")
        app.stream.write(b"nobody hears this")

        app.over.set()
        assert (await asking).text == "one two three"
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).status_code == 200
        assert server.connections().opened == 1
    await server.close()


async def test_the_end_is_heard_before_the_application_has_returned():
    app = Direct()
    server = await serve(app)
    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await app.started.wait()
        app.stream.end(b"all")

        assert (await asking).text == "all"
        assert not app.returned
        app.over.set()
    await server.close()


async def test_the_answer_of_a_head_has_no_body():
    app = Direct()
    app.over.set()
    server = await serve(app)
    reader, writer = await connect(
        server, GET.replace(b"GET", b"HEAD").replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    )
    await app.started.wait()
    app.stream.end(b"body")

    head, end, body = (await read_all(reader)).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200")
    assert (end, body) == (b"\r\n\r\n", b"")
    writer.close()
    await server.close()


async def test_a_slow_reader_pauses_the_stream_and_resumes_it():
    app, resumed = Direct(), asyncio.Event()
    server = await serve(app)
    reader, writer = await connect(server, GET)
    await app.started.wait()
    app.stream.on_resume = resumed.set
    written = 0
    while not app.stream.is_paused:
        app.stream.write(b"x" * 10_000)
        written += 10_000
        await asyncio.sleep(0)
    assert app.stream.unsent_bytes > 64 * 1024

    size = 0
    while not resumed.is_set():
        size += len(await reader.read(1 << 20))

    assert not app.stream.is_paused
    assert app.stream.unsent_bytes <= 16 * 1024
    app.stream.end()
    app.over.set()
    writer.close()
    await server.close()


async def test_a_client_that_takes_nothing_is_let_go():
    app, closed = Direct(), asyncio.Event()
    server = await serve(app, stall_s=0.2)
    _, writer = await connect(server, GET)
    writer.transport.pause_reading()
    await app.started.wait()
    app.stream.on_closed = closed.set
    app.stream.write(b"x" * 20_000_000)

    await asyncio.wait_for(closed.wait(), 5)

    app.over.set()
    await eventually(lambda: server.connections().h1 == 0)
    writer.close()
    await server.close()


async def test_an_aborted_answer_ends_its_connection():
    app = Direct()
    server = await serve(app)
    reader, writer = await connect(server, GET)
    await app.started.wait()
    app.stream.write(b"begun")
    app.stream.abort()
    app.over.set()

    with pytest.raises((ConnectionError, AssertionError)):
        assert (await read_all(reader)).endswith(b"0\r\n\r\n")
    await eventually(lambda: server.connections().h1 == 0)
    writer.close()
    await server.close()


async def test_messages_wait_for_a_slow_reader():
    sent = []

    async def app(scope, receive, send):
        await send(START)
        for number in range(100):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            sent.append(number)

    server = await serve(app)
    reader, writer = await connect(server, GET)
    await asyncio.sleep(0.1)
    while_waiting = len(sent)
    size = len(await read_all(reader))

    assert while_waiting < 100
    assert size > 10_000_000
    writer.close()
    await server.close()


async def test_requests_in_a_row_share_a_connection():
    server = await serve(echo)
    reader, writer = await connect(server, GET * 3)
    for _ in range(3):
        await reader.readuntil(b"1.1 0")

    assert server.connections().opened == 1
    writer.close()
    await server.close()


async def test_a_lost_connection_does_not_wait_for_the_garbage_collector():
    app = Direct()
    server = await serve(app)
    _, writer = await connect(server, GET)
    await app.started.wait()
    # Whoever is told to abort is the connection.
    connection = weakref.ref(app.stream._abort.__self__)
    gc.disable()
    try:
        writer.transport.abort()
        await eventually(lambda: server.streams().h1 == 1 and app.stream.is_gone)
        app.over.set()
        await eventually(lambda: app.returned)
        app.stream = None

        await eventually(lambda: connection() is None)
    finally:
        gc.enable()
    await server.close()
