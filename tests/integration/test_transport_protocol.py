"""
Pins the asyncio shell of our HTTP/2 connection over real sockets: ASGI, the direct handle, pauses, the end.

Clients are httpx, the h2 library on a plain socket, and h2load.
"""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

from transport.asgi_stream import EXTENSION, RECEIVED
from transport.counters import CloseReason, Counters
from transport.protocol import ConnectionParams, H2Protocol
from transport.streams import StreamTable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


class Edge:
    """A listener of our protocol, and what became of its connections."""

    def __init__(self, app: Any, params: ConnectionParams, max_streams: int) -> None:
        self.counters = Counters()
        self.table = StreamTable(max_streams=max_streams)
        self.live: set[H2Protocol] = set()
        self.closed = asyncio.Event()
        self._app, self._params = app, params
        self.port = 0

    def protocol(self) -> H2Protocol:
        made = H2Protocol(
            self._app,
            params=self._params,
            streams=self.table,
            counters=self.counters,
            client=("127.0.0.1", 1),
            server=("127.0.0.1", 2),
            scheme="http",
            on_closed=self._ended,
        )
        self.live.add(made)
        return made

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _ended(self, protocol: H2Protocol) -> None:
        self.live.remove(protocol)
        self.closed.set()


@asynccontextmanager
async def serve(app: Any, *, max_streams: int = 100, **params: Any) -> AsyncIterator[Edge]:
    edge = Edge(app, ConnectionParams(**params), max_streams)
    server = await asyncio.get_running_loop().create_server(edge.protocol, "127.0.0.1", 0)
    edge.port = server.sockets[0].getsockname()[1]
    try:
        yield edge
    finally:
        server.close()
        for each in list(edge.live):
            each.abort()
        async with asyncio.timeout(5):
            while edge.live:
                await asyncio.sleep(0.001)


class Client:
    """The h2 library on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self._reader, self._writer = reader, writer
        self.events: list[Any] = []
        self.send()

    @classmethod
    async def connect(cls, edge: Edge, *, window: int = 65_535) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", edge.port), window)

    def send(self) -> None:
        self._writer.write(self.h2.data_to_send())

    def get(self, path: str = "/", *, ends: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a")]
        self.h2.send_headers(stream_id, pseudo, end_stream=ends)
        self.send()
        return stream_id

    async def until(self, kind: type, stream_id: int) -> Any:
        """Receive until such an event came; returns it."""
        async with asyncio.timeout(5):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and event.stream_id == stream_id:
                        return event
                data = await self._reader.read(65_536)
                assert data, "the server closed the connection"
                self.events += self.h2.receive_data(data)
                self.send()

    async def rest(self) -> bytes:
        """Receive until the server closes."""
        async with asyncio.timeout(5):
            return await self._reader.read(-1)

    def body(self, stream_id: int) -> bytes:
        return b"".join(
            e.data for e in self.events if isinstance(e, DataReceived) and e.stream_id == stream_id
        )

    def close(self) -> None:
        self._writer.close()


async def answer(send: Any, body: bytes = b"") -> None:
    await send(START)
    await send({"type": "http.response.body", "body": body})


async def test_an_application_gets_the_scope_and_the_body_of_a_request():
    seen: list[Any] = []

    async def app(scope, receive, send):
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        seen.append((scope, body))
        await answer(send, body[:3])

    async with serve(app) as edge, httpx.AsyncClient(http1=False, http2=True) as client:
        got = await client.post(f"{edge.url}/a%20b?q=1", content=b"x" * 200_000, headers={"X-A": "b"})

    scope, body = seen[0]
    assert (got.status_code, got.http_version, got.text, len(body)) == (200, "HTTP/2", "xxx", 200_000)
    assert "GMT" in got.headers["date"]
    extensions = scope.pop("extensions")
    headers = dict(scope.pop("headers"))
    assert scope.pop(RECEIVED) > 0
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "method": "POST",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"q=1",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    assert (headers[b"host"], headers[b"x-a"]) == (f"127.0.0.1:{edge.port}".encode(), b"b")
    assert list(extensions) == [EXTENSION]


async def test_what_all_streams_write_in_a_turn_is_one_write_to_the_socket():
    handles: list[Any] = []

    async def app(scope, receive, send):
        await send(START)
        handles.append(scope["extensions"][EXTENSION])
        await receive()
        await receive()

    async with serve(app) as edge:
        client = await Client.connect(edge)
        streams = [client.get() for _ in range(20)]
        for each in streams:
            await client.until(ResponseReceived, each)
        before = edge.counters.flushes
        for handle in handles:
            handle.write(b"a")
            handle.write(b"b")
        for handle in handles:
            handle.end(b"c")
        for each in streams:
            await client.until(StreamEnded, each)
        client.close()

        assert edge.counters.flushes == before + 1
        assert {client.body(each) for each in streams} == {b"abc"}
        assert edge.counters.data_frames == 20


async def test_a_sender_waits_while_its_stream_is_paused_and_nothing_is_lost():
    sent: list[int] = []

    async def app(scope, receive, send):
        await send(START)
        for number in range(30):
            await send({"type": "http.response.body", "body": bytes([number]) * 10_000, "more_body": True})
            sent.append(number)
        await send({"type": "http.response.body"})

    async with serve(app) as edge:
        client = await Client.connect(edge, window=1)
        stream = client.get()
        await client.until(DataReceived, stream)
        await asyncio.sleep(0.05)

        assert len(sent) < 10

        client.h2.increment_flow_control_window(1_000_000)
        client.h2.increment_flow_control_window(1_000_000, stream)
        client.send()
        await client.until(StreamEnded, stream)
        client.close()

    assert client.body(stream) == b"".join(bytes([number]) * 10_000 for number in range(30))


async def test_a_large_body_in_one_send_is_held_by_its_application_and_not_by_us():
    handles: list[Any] = []

    async def app(scope, receive, send):
        handles.append(scope["extensions"][EXTENSION])
        await answer(send, b"x" * 5_000_000)

    async with serve(app) as edge:
        client = await Client.connect(edge, window=0)
        stream = client.get()
        await client.until(ResponseReceived, stream)
        await asyncio.sleep(0.05)

        assert 64 * 1024 < handles[0].unsent_bytes <= 128 * 1024

        client.h2.increment_flow_control_window(6_000_000)
        client.h2.increment_flow_control_window(6_000_000, stream)
        client.send()
        await client.until(StreamEnded, stream)
        client.close()

    assert len(client.body(stream)) == 5_000_000


async def test_a_handle_says_when_it_is_paused_and_when_it_may_go_on():
    resumed = asyncio.Event()
    handles: list[Any] = []

    async def app(scope, receive, send):
        handle = scope["extensions"][EXTENSION]
        handles.append(handle)
        await send(START)
        handle.on_resume = resumed.set
        handle.write(b"x" * 64 * 1024)
        assert not handle.is_paused
        handle.write(b"y")
        assert handle.is_paused
        await resumed.wait()
        handle.end()

    async with serve(app) as edge:
        client = await Client.connect(edge, window=0)
        stream = client.get()
        await client.until(ResponseReceived, stream)

        assert handles[0].unsent_bytes == 64 * 1024 + 1

        client.h2.increment_flow_control_window(100_000)
        client.h2.increment_flow_control_window(100_000, stream)
        client.send()
        await client.until(StreamEnded, stream)
        client.close()


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_is_told_and_its_application_soon_cancelled(how):
    told: list[str] = []
    ended = asyncio.Event()

    async def app(scope, receive, send):
        scope["extensions"][EXTENSION].on_closed = lambda: told.append("closed")
        await send(START)
        assert (await receive())["type"] == "http.request"
        told.append((await receive())["type"])
        await send({"type": "http.response.body", "body": b"late", "more_body": True})
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            told.append("cancelled")
            raise
        finally:
            ended.set()

    async with serve(app) as edge:
        client = await Client.connect(edge)
        stream = client.get()
        await client.until(ResponseReceived, stream)
        if how == "reset":
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            client.send()
        else:
            client.close()
        async with asyncio.timeout(3):
            await ended.wait()
        client.close()

    assert told == ["closed", "http.disconnect", "cancelled"]
    assert edge.table.counts(now_s=0).h2 == 0


@pytest.mark.parametrize(
    ("starts", "status", "code"), [(False, "500", None), (True, "200", ErrorCodes.INTERNAL_ERROR)]
)
@pytest.mark.parametrize("fails", [True, False])
async def test_an_application_that_fails_or_forgets_the_end_ends_its_stream_only(
    starts, status, code, fails, caplog
):
    async def app(scope, receive, send):
        if scope["path"] == "/good":
            return await answer(send, b"good")
        if starts:
            await send(START)
            await asyncio.sleep(0)
        if fails:
            raise ValueError("the application's fault")
        return None

    caplog.set_level(logging.CRITICAL + 1)
    async with serve(app) as edge:
        client = await Client.connect(edge)
        bad, good = client.get(), client.get("/good")
        await client.until(StreamEnded, good)
        end = await client.until(StreamReset if starts else StreamEnded, bad)
        client.close()

    response = next(e for e in client.events if isinstance(e, ResponseReceived) and e.stream_id == bad)
    assert (dict(response.headers)[":status"], getattr(end, "error_code", None)) == (status, code)


async def test_a_handle_that_is_aborted_resets_its_stream():
    async def app(scope, receive, send):
        await send(START)
        scope["extensions"][EXTENSION].abort()
        assert (await receive())["type"] == "http.disconnect"

    async with serve(app) as edge:
        client = await Client.connect(edge)
        stream = client.get()
        reset = await client.until(StreamReset, stream)
        client.close()

    assert reset.error_code == ErrorCodes.CANCEL


async def test_messages_in_the_wrong_order_are_the_applications_error():
    caught: list[str] = []

    async def app(scope, receive, send):
        for message in ({"type": "http.response.body"}, START, START):
            try:
                await send(message)
            except RuntimeError as error:
                caught.append(str(error))
        await send({"type": "http.response.body"})

    async with serve(app) as edge:
        client = await Client.connect(edge)
        await client.until(StreamEnded, client.get())
        client.close()

    assert caught == ["http.response.body may not be sent now", "http.response.start may not be sent now"]


async def test_a_request_without_a_path_is_answered_400_and_one_too_many_503():
    release = asyncio.Event()

    async def app(scope, receive, send):
        await release.wait()
        await answer(send)

    async with serve(app, max_streams=1) as edge:
        client = await Client.connect(edge)
        first, second, strange = client.get(), client.get(), client.get("x")
        await client.until(StreamEnded, second)
        await client.until(StreamEnded, strange)
        release.set()
        await client.until(StreamEnded, first)
        client.close()

    statuses = {
        e.stream_id: dict(e.headers)[":status"] for e in client.events if isinstance(e, ResponseReceived)
    }
    assert statuses == {first: "200", second: "503", strange: "400"}


async def test_a_client_that_expects_to_be_asked_for_its_body_is():
    async def app(scope, receive, send):
        await answer(send, (await receive())["body"])

    async with serve(app) as edge, httpx.AsyncClient(http1=False, http2=True) as client:
        got = await client.post(edge.url, content=b"abc", headers={"expect": "100-continue"})

    assert got.content == b"abc"


async def test_a_drain_ends_idle_connections_at_once_and_busy_ones_with_their_last_stream():
    handles: list[Any] = []

    async def app(scope, receive, send):
        await send(START)
        handles.append(scope["extensions"][EXTENSION])
        await receive()
        await receive()

    async with serve(app) as edge:
        idle, busy = await Client.connect(edge), await Client.connect(edge)
        stream = busy.get()
        await busy.until(ResponseReceived, stream)
        for each in list(edge.live):
            each.drain()

        assert b"drained?" in await idle.rest()
        assert sum(each.open_streams for each in edge.live) == 1

        handles[0].write(b"all ")
        await asyncio.sleep(0)
        handles[0].end(b"of it")
        rest = await busy.rest()

        assert b"all " in rest
        assert b"of it" in rest
        assert edge.counters.goaways[CloseReason.DRAINED] == 2
        idle.close()
        busy.close()


async def test_a_connection_that_says_nothing_is_closed_in_time():
    async with serve(None, header_timeout_s=0.05) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
        async with asyncio.timeout(5):
            await reader.read(-1)
        writer.close()

    assert edge.counters.goaways[CloseReason.SLOW_PREFACE] == 1


async def test_a_client_that_reads_nothing_is_dropped_in_time():
    async def app(scope, receive, send):
        await answer(send, b"x" * 20_000_000)

    async with serve(app, stall_s=0.2) as edge:
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.port, limit=1)
        client = H2Connection(H2Configuration(client_side=True))
        client.initiate_connection()
        client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1})
        client.increment_flow_control_window(2**31 - 70_000)
        client.send_headers(
            1, [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")], end_stream=True
        )
        writer.write(client.data_to_send())
        async with asyncio.timeout(5):
            await edge.closed.wait()
        writer.close()
        del reader


async def test_a_client_that_reads_late_gets_everything():
    async def app(scope, receive, send):
        await answer(send, b"x" * 20_000_000)

    async with serve(app) as edge:
        client = await Client.connect(edge, window=2**31 - 1)
        client.h2.increment_flow_control_window(2**31 - 70_000)
        stream = client.get()
        await asyncio.sleep(0.1)
        await client.until(StreamEnded, stream)
        client.close()

    assert len(client.body(stream)) == 20_000_000


async def test_many_requests_at_once_are_read_in_turns_and_all_answered():
    async def app(scope, receive, send):
        await answer(send, b"x")

    async with serve(app) as edge:
        client = await Client.connect(edge)
        await asyncio.sleep(0.01)
        pseudo = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        for stream in range(1, 161, 2):
            client.h2.send_headers(stream, pseudo, end_stream=True)
        client.send()
        for stream in range(1, 161, 2):
            await client.until(StreamEnded, stream)
        client.close()

    assert edge.counters.streams_closed == 80


async def test_a_flood_is_answered_by_goaway_and_the_end():
    async with serve(None) as edge:
        client = await Client.connect(edge)
        for _ in range(5000):
            client.h2.ping(bytes(8))
        client.send()
        rest = await client.rest()
        client.close()

    assert rest.endswith(ErrorCodes.ENHANCE_YOUR_CALM.to_bytes(4, "big"))
    assert edge.counters.goaways[CloseReason.CONTROL_FLOOD] == 1


@pytest.mark.needs("h2load")
async def test_h2load_has_every_answer():
    async def app(scope, receive, send):
        await answer(send, b"x" * 1000)

    async with serve(app, max_streams=10_000) as edge:
        words = ["h2load", "-n", "400", "-c", "4", "-m", "50", edge.url]
        done = await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=60, check=True
        )

    assert re.search(r"400 succeeded, 0 failed, 0 errored", done.stdout)
