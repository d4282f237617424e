"""
Pins that a plain probe is answered as its bytes are read, alike on both protocols, and that all else is not.

Each listener runs the clients' real application, once with what it answers at once and once without.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from h2.errors import ErrorCodes

from tests.api_fakes import READY, make_backend
from tests.edges import LOOPS, FollowingClient, eventually, h2_client
from transport.connection_counters import ConnectionCounters
from transport.http1 import Http1Connection
from transport.http1_settings import Http1Settings
from transport.server import EdgeServer, ServerParams
from transport.streams import StreamTable
from wicketgate.api.app import create_app, create_instants
from wicketgate.api.cors import Cors
from wicketgate.api.health import Probes

pytestmark = pytest.mark.anyio

HOSTS = ("x",)
"""A name of the listener, besides localhost."""
DRAINING = replace(READY, is_draining=True)
PROBE = [(":method", "GET"), (":path", "/health"), (":scheme", "http"), (":authority", "localhost")]
GET = b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n"
MISDIRECTED = GET.replace(b"localhost", b"evil.example")


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


class Gate:
    """A listener; knows what its application was asked, and how long each probe took."""

    def __init__(self, *, health=READY, cors=None, is_instant=True, **params):
        self.took_s, self.asked, self.closed = [], [], []
        backend = make_backend()
        edge = replace(backend.edge, new_id=lambda: "req_1", cors=lambda: cors, probed=self.took_s.append)
        probes = Probes(edge, lambda: health)
        self._app = create_app(replace(backend, edge=edge), probes=probes, hosts=lambda: HOSTS)
        self._instants = create_instants(probes, hosts=lambda: HOSTS) if is_instant else None
        self.server = EdgeServer(
            self._serve,
            params=ServerParams(**params),
            accepts_h2=lambda _: True,
            instants=self._instants,
        )

    async def _serve(self, scope, receive, send):
        self.asked.append(scope["path"])
        await self._app(scope, receive, send)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.port}"

    def connection(self):
        """Return a connection that no listener has accepted."""
        return Http1Connection(
            self._serve,
            settings=Http1Settings(keep_alive_s=9, header_timeout_s=9, stall_s=9, max_header_bytes=9999),
            streams=StreamTable(max_streams=9),
            counters=ConnectionCounters(),
            client=None,
            server=None,
            scheme="http",
            on_closed=self.closed.append,
            instants=self._instants,
        )

    async def connect(self):
        return await asyncio.open_connection("127.0.0.1", self.server.port)

    async def hear(self, *pieces, until=b"}", times=1):
        """Send bytes, with a pause between the pieces; return what comes until so many answers have."""
        reader, writer = await self.connect()
        heard = b""
        async with asyncio.timeout(5):
            writer.write(pieces[0])
            for piece in pieces[1:]:
                await asyncio.sleep(0.02)
                writer.write(piece)
            while heard.count(until) < times and (data := await reader.read(65_536)):
                heard += data
        writer.close()
        return re.sub(rb"date: [^\r]+", b"date: now", heard)


@asynccontextmanager
async def gate(**options):
    made = Gate(**options)
    await made.server.start()
    try:
        yield made
    finally:
        await made.server.close()


@pytest.mark.parametrize("health", [READY, DRAINING], ids=["ready", "draining"])
@pytest.mark.parametrize("cors", [None, Cors(origins=("https://a.example",), max_age_s=1)], ids=["", "cors"])
@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "/health/startup?a=b"])
async def test_on_http_1_1_the_answer_is_that_of_the_application_byte_for_byte(health, cors, path):
    requests = [
        f"{method} {path} HTTP/{version}\r\nhost: localhost\r\n{more}\r\n".encode()
        for method in ("GET", "HEAD")
        for version, more in (("1.1", ""), ("1.1", "connection: close\r\n"), ("1.0", ""))
    ]
    async with (
        gate(health=health, cors=cors) as at_once,
        gate(health=health, cors=cors, is_instant=False) as ordinary,
    ):
        for request in requests:
            until = b"}" if request.startswith(b"GET") else b"\r\n\r\n"

            assert await at_once.hear(request, until=until) == await ordinary.hear(request, until=until)
        assert (len(at_once.asked), len(ordinary.asked)) == (0, 6)
        assert (len(at_once.took_s), len(ordinary.took_s)) == (6, 6)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_on_http_2_the_answer_is_that_of_the_application(method):
    async with (
        gate(health=DRAINING) as at_once,
        gate(health=DRAINING, is_instant=False) as ordinary,
        h2_client() as client,
    ):
        answers = [await client.request(method, f"{each.url}/health/ready") for each in (at_once, ordinary)]

        told = [
            (each.status_code, [header for header in each.headers.raw if header[0] != b"date"], each.content)
            for each in answers
        ]
        assert told[0] == told[1]
        assert told[0][0] == 503
        assert "GMT" in answers[0].headers["date"]
        assert (at_once.asked, ordinary.asked) == ([], ["/health/ready"])
        assert len(at_once.took_s) == 1


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        ({"origin": "https://a.example"}, "access-control-allow-origin"),
        ({"x-request-id": "mine"}, "x-client-request-id"),
        ({"host": "evil.example"}, "x-request-id"),
        ({"expect": "100-continue"}, "x-request-id"),
    ],
    ids=["origin", "id", "host", "expect"],
)
@pytest.mark.parametrize("is_h2", [False, True], ids=["h1", "h2"])
async def test_an_unusual_probe_is_left_to_the_application(header, seen, is_h2):
    cors = Cors(origins=("https://a.example",), max_age_s=1)
    async with gate(cors=cors) as edge, httpx.AsyncClient(http1=not is_h2, http2=is_h2) as client:
        got = await client.get(f"{edge.url}/health", headers=header)

        assert got.status_code == (421 if "host" in header else 200)
        assert seen in got.headers
        assert edge.asked == ["/health"]


@pytest.mark.parametrize(
    ("pieces", "answers"),
    [
        ([GET[:20], GET[20:]], 1),
        ([GET + GET], 2),
        ([GET + MISDIRECTED], 2),
        ([GET[:-2] + b"content-length: 4\r\n\r\n\r\n\r\n"], 1),
        ([b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(GET), GET], 1),
    ],
    ids=["split", "two", "two hosts", "with a body", "as a body"],
)
async def test_a_request_that_does_not_come_alone_and_whole_is_left_to_the_application(pieces, answers):
    async with gate() as at_once, gate(is_instant=False) as ordinary:
        heard = await at_once.hear(*pieces, times=answers, until=b"HTTP/1.1 ")

        assert heard[:60] == (await ordinary.hear(*pieces, times=answers, until=b"HTTP/1.1 "))[:60]
        await eventually(lambda: len(at_once.asked) == answers)
        assert ordinary.asked == at_once.asked


async def test_a_request_whose_end_is_in_doubt_is_refused_as_ever():
    async with gate() as edge:
        heard = await edge.hear(
            GET[:-2] + b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", until=b"not both"
        )

        assert heard.startswith(b"HTTP/1.1 400")
        assert edge.took_s == []


async def test_probes_in_a_row_share_a_connection_with_other_requests():
    models = GET.replace(b"/health/ready", b"/v1/models")
    async with gate() as edge:
        heard = await edge.hear(GET, models, GET, until=b"HTTP/1.1 200", times=3)

        assert heard.count(b"HTTP/1.1 200") == 3
        assert (edge.asked, len(edge.took_s)) == (["/v1/models"], 2)
        counts = edge.server.streams()
        assert (counts.opened, counts.h1) == (3, 0)


async def test_a_connection_lives_on_after_a_probe_for_as_long_as_after_any_answer():
    async with gate(keep_alive_s=0.2, header_timeout_s=0.1) as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        await reader.readuntil(b"}")
        await asyncio.sleep(0.15)
        writer.write(GET)
        await reader.readuntil(b"}")

        async with asyncio.timeout(2):
            assert await reader.read() == b""
        assert len(edge.took_s) == 2
        assert edge.server.counters().connections.slow_headers == 0
        writer.close()


async def test_without_room_for_a_request_a_probe_is_refused_like_any():
    hanging = b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n"
    async with gate(max_streams=1) as edge:
        reader, writer = await edge.connect()
        writer.write(hanging)
        await eventually(lambda: edge.server.streams().h1 == 1)

        assert (await edge.hear(GET, until=b"later\n")).startswith(b"HTTP/1.1 503 ")
        async with h2_client() as client:
            assert (await client.get(f"{edge.url}/health")).status_code == 503
        assert edge.server.streams().refused == 2
        assert edge.took_s == []
        writer.close()
        del reader


async def test_many_probes_at_once_on_one_connection_are_read_in_turns_and_all_answered():
    async with gate() as edge:
        client = await FollowingClient.connect(edge.server.port)
        for _ in range(100):
            client.get("/health")
        await eventually(lambda: len(client.ended) == 100)

        assert len(client.bodies) == 100
        assert all(b'"ok"' in body for body in client.bodies.values())
        counters = edge.server.counters().h2
        assert (counters.streams_opened, counters.streams_closed) == (100, 100)
        counts = edge.server.streams()
        assert (counts.opened, counts.h2, edge.asked) == (100, 0, [])
        await client.close()


async def test_probes_that_are_reset_as_they_are_sent_meet_the_budget_of_any_request():
    async with gate() as edge:
        client = await FollowingClient.connect(edge.server.port)
        for stream in range(1, 1001, 2):
            client.h2.send_headers(stream, PROBE, end_stream=True)
            client.h2.reset_stream(stream)
        client.flush()
        await eventually(lambda: client.is_over)

        assert client.goaways[0][1] == ErrorCodes.ENHANCE_YOUR_CALM
        await client.close()


async def test_a_client_that_takes_no_answers_is_not_answered_at_once():
    async with gate() as edge:
        accepted, client = socket.socketpair()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connection = edge.connection()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        for _ in range(1000):
            connection.data_received(GET)

        assert 0 < len(edge.took_s) < 1000
        assert connection.open_streams
        connection.abort()
        await eventually(lambda: connection in edge.closed)
        client.close()


async def test_a_drain_closes_a_connection_that_was_only_probed():
    async with gate() as edge:
        reader, writer = await edge.connect()
        writer.write(GET)
        await reader.readuntil(b"}")
        client = await FollowingClient.connect(edge.server.port)
        stream = client.get("/health")
        await eventually(lambda: stream in client.ended)

        assert await edge.server.drain(1.0)
        await eventually(lambda: client.is_over)
        assert await reader.read() == b""
        assert client.goaways
        writer.close()
        await client.close()
