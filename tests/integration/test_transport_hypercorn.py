"""
Pins the facts of hypercorn that transport/server.py stands on.

When one of these fails after an upgrade, read transport/server.py and wicketgate/api/exchange.py again.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import logging

import h2.config
import h2.connection
import h2.events
import pytest
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from transport.server import EdgeServer, ServerParams

pytestmark = pytest.mark.anyio


class H2Client:
    """A few lines over the h2 library: enough to say things that well-behaved clients do not."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.flush()

    def flush(self):
        self.writer.write(self.h2.data_to_send())

    def request(self, method="POST", *, end_stream=False):
        stream = self.h2.get_next_available_stream_id()
        headers = [(":method", method), (":path", "/"), (":scheme", "http"), (":authority", "x")]
        self.h2.send_headers(stream, headers, end_stream=end_stream)
        self.flush()
        return stream

    async def until(self, kind):
        while True:
            data = await asyncio.wait_for(self.reader.read(65536), 5)
            if not data:
                raise ConnectionError("closed")
            events = self.h2.receive_data(data)
            self.flush()
            for event in events:
                if isinstance(event, kind):
                    return event


def test_the_version_is_the_one_that_was_read():
    assert importlib.metadata.version("hypercorn").startswith("0.18.")


def test_a_connection_is_served_by_an_awaitable_made_of_seven_things():
    names = list(inspect.signature(TCPServer.__init__).parameters)

    assert names == ["self", "app", "loop", "config", "context", "state", "reader", "writer"]
    assert hasattr(TCPServer, "__await__")


def test_the_settings_that_are_set_exist():
    config = Config()

    assert config.keep_alive_max_requests == 1000
    assert config.keep_alive_timeout == 5
    assert config.h2_max_concurrent_streams == 100
    assert config.h2_max_header_list_size == 2**16
    assert config.h11_max_incomplete_size == 16 * 1024
    assert (config.accesslog, config.include_server_header) == (None, True)


def test_a_logger_is_taken_for_the_error_log():
    config = Config()
    config.errorlog = logging.getLogger("test")

    assert config.log.error_logger is config.errorlog
    assert config.log.access_logger is None


async def test_a_context_tells_connections_that_the_end_is_near():
    context = WorkerContext(None)

    await context.terminated.set()

    assert context.terminated.is_set()


async def start(app):
    server = EdgeServer(app, params=ServerParams(), accepts_h2=lambda peer: True)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    return server, H2Client(reader, writer)


async def test_prior_knowledge_switches_a_cleartext_connection_to_h2_and_the_scope_says_so():
    versions = []

    async def app(scope, receive, send):
        versions.append((scope["http_version"], scope["client"][0], scope["type"]))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    server, client = await start(app)
    client.request("GET", end_stream=True)
    await client.until(h2.events.StreamEnded)

    assert versions == [("2", "127.0.0.1", "http")]
    client.writer.close()
    await server.close()


async def test_a_reset_is_told_as_a_disconnect():
    heard = asyncio.Queue()

    async def app(scope, receive, send):
        while True:
            message = await receive()
            await heard.put(message["type"])
            if message["type"] == "http.disconnect":
                return

    server, client = await start(app)
    stream = client.request(end_stream=True)
    assert await asyncio.wait_for(heard.get(), 5) == "http.request"
    client.h2.reset_stream(stream)
    client.flush()

    assert await asyncio.wait_for(heard.get(), 5) == "http.disconnect"
    client.writer.close()
    await server.close()


async def test_the_regular_end_is_told_as_a_disconnect_before_the_last_send_has_returned():
    order = []

    async def app(scope, receive, send):
        async def listen():
            while (await receive())["type"] != "http.disconnect":
                pass
            order.append("disconnect")

        listening = asyncio.create_task(listen())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": False})
        await listening

    server, client = await start(app)
    client.request(end_stream=True)
    await client.until(h2.events.StreamEnded)
    await asyncio.sleep(0)

    assert order == ["disconnect"]
    client.writer.close()
    await server.close()


async def test_data_for_an_answered_stream_ends_the_whole_connection(caplog):
    """Why every answer of ours waits for the end of the request's body."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    server, client = await start(app)
    stream = client.request()
    await client.until(h2.events.StreamEnded)
    client.h2.send_data(stream, b"late")
    client.flush()

    with pytest.raises(ConnectionError):
        await client.until(h2.events.ConnectionTerminated)
    assert "connection_failed" in caplog.text
    client.writer.close()
    await server.close()
