"""Pins how a connection begins: what it speaks, who is behind a proxy, and what comes of the silent."""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
from ipaddress import ip_network

import httpx
import pytest
import trustme

from tests.edges import (
    EMPTY_SETTINGS,
    LOOPS,
    PREFACE,
    FollowingClient,
    certificate,
    echo,
    eventually,
    h2_client,
    serve,
    trusting,
)
from transport.forwarded import ForwardedKind
from transport.preface import HTTP_1_1_REQUIRED
from transport.proxy_protocol import SIGNATURE
from transport.server import ServerParams

pytestmark = pytest.mark.anyio
LOOPBACK = (ip_network("127.0.0.0/8"),)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n"
BINARY = (
    SIGNATURE
    + struct.pack(">BBH", 0x21, 0x11, 12)
    + socket.inet_aton("203.0.113.7")
    + socket.inet_aton("192.0.2.1")
    + struct.pack(">HH", 51_000, 443)
)


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


class Clients:
    """Answers as `echo` does, and knows who asked."""

    def __init__(self):
        self.seen = []

    async def __call__(self, scope, receive, send):
        self.seen.append((scope["client"], scope["scheme"], scope["http_version"]))
        await echo(scope, receive, send)


async def say(server, *pieces):
    """Send pieces one by one, and return all that is answered until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.002)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


# What is spoken


async def test_a_preface_in_single_bytes_is_http2():
    server = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for byte in PREFACE + EMPTY_SETTINGS:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.001)

    assert (await reader.readexactly(9))[3] == 4  # SETTINGS
    assert server.connections().h2 == 1
    writer.close()
    await server.close()


async def test_a_method_that_begins_like_the_preface_loses_no_byte():
    server = await serve()
    request = b"PROPFIND / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc"

    answer = await say(server, *(bytes([byte]) for byte in request))

    assert answer.endswith(b"1.1 3")
    await server.close()


async def test_http2_where_it_is_off_is_told_to_use_http_1_and_closed():
    server = await serve(accepts_h2=lambda peer: False)

    answer = await say(server, PREFACE + EMPTY_SETTINGS, EMPTY_SETTINGS)

    assert answer == HTTP_1_1_REQUIRED
    await eventually(lambda: server.connections().h1 == 0)
    assert server.counters().connections.told_http_1_1_required == 1
    await server.close()


async def test_a_client_told_so_that_stays_is_closed():
    server = await serve(accepts_h2=lambda peer: False)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(PREFACE + EMPTY_SETTINGS)
    await reader.read()

    await eventually(lambda: server.connections().h1 == 0)
    writer.close()
    await server.close()


async def test_an_upgrade_to_http2_is_passed_over():
    server = await serve()
    upgrade = b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    request = b"GET / HTTP/1.1\r\nhost: x\r\n" + upgrade + b"\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request * 2)

    for _ in range(2):
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert (await reader.readuntil(b"1.1 0")).endswith(b"1.1 0")
    writer.close()
    await server.close()


async def test_the_choice_is_made_for_each_connection_by_its_address():
    asked = []

    def every_second(peer):
        asked.append(peer)
        return len(asked) % 2 == 0

    server = await serve(accepts_h2=every_second)
    served = []
    for _ in range(4):
        client = await FollowingClient.connect(server.port)
        client.get()
        await eventually(lambda client=client: bool(client.ended or client.goaways))
        served.append(bool(client.ended))
        await client.close()

    assert served == [False, True, False, True]
    assert len({peer.removeprefix("127.0.0.1:") for peer in asked}) == 4
    await server.close()


@pytest.mark.parametrize("beginning", [b"", PREFACE[:20]])
async def test_one_that_does_not_say_what_it_speaks_is_closed(beginning):
    server = await serve(header_timeout_s=0.1)

    assert await say(server, beginning) == b""

    await eventually(lambda: server.connections().h1 == 0)
    assert server.counters().connections.silent == 1
    await server.close()


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    ("options", "version"),
    [(["--http2-prior-knowledge"], b"2 5"), (["--http1.1"], b"1.1 5"), (["--http2"], b"1.1 5")],
)
async def test_curl_speaks_what_it_is_told_to(options, version):
    server = await serve()
    command = ["curl", "-sS", "-m", "5", "-d", "hello", *options, f"http://127.0.0.1:{server.port}/"]

    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)

    assert done.stdout == version
    await server.close()


# Who is behind a proxy


@pytest.mark.parametrize("header", [LINE, BINARY], ids=["line", "binary"])
@pytest.mark.parametrize("in_pieces", [False, True])
async def test_a_trusted_proxy_says_who_the_client_is(header, in_pieces):
    app, asked = Clients(), []
    server = await serve(
        app, proxy_protocol=True, proxy_trusted=LOOPBACK, accepts_h2=lambda peer: asked.append(peer) or True
    )

    data = header + REQUEST
    answer = await say(server, *([bytes([byte]) for byte in data] if in_pieces else [data]))

    assert answer.endswith(b"1.1 0")
    assert app.seen == [(("203.0.113.7", 51_000), "http", "1.1")]
    assert asked == ["203.0.113.7:51000"]
    await server.close()


async def test_http2_may_follow_a_proxy_header():
    app = Clients()
    server = await serve(app, proxy_protocol=True, proxy_trusted=LOOPBACK)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(BINARY)
    client = FollowingClient(reader, writer)
    client.get()

    await eventually(lambda: bool(client.ended))

    assert app.seen == [(("203.0.113.7", 51_000), "http", "2")]
    await client.close()
    await server.close()


async def test_tls_may_follow_a_proxy_header(tmp_path):
    app, authority = Clients(), trustme.CA()
    server = await serve(app, proxy_protocol=True, proxy_trusted=LOOPBACK, **certificate(tmp_path, authority))

    def ask():
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain:
            plain.sendall(LINE)
            with trusting(authority).wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                secure.sendall(REQUEST)
                return secure.recv(1000)

    assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 200")
    assert app.seen == [(("203.0.113.7", 51_000), "https", "1.1")]
    await server.close()


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\0\0\0"])
async def test_a_proxy_that_asks_for_itself_is_the_client(header):
    app = Clients()
    server = await serve(app, proxy_protocol=True, proxy_trusted=LOOPBACK)

    await say(server, header + REQUEST)

    assert [client[0] for client, _, _ in app.seen] == ["127.0.0.1"]
    await server.close()


@pytest.mark.parametrize(
    "beginning", [REQUEST, b"PROXY rubbish\r\n", SIGNATURE + b"\xff\xff\xff\xff", LINE[:9]]
)
async def test_a_trusted_proxy_without_a_proper_header_is_closed(beginning):
    server = await serve(proxy_protocol=True, proxy_trusted=LOOPBACK, header_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(beginning)

    async with asyncio.timeout(5):
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass  # what it sent was not read to its end

    await eventually(lambda: server.counters().connections.failed_proxy_headers == 1)
    assert server.connections().h1 == 0
    writer.close()
    await server.close()


async def test_a_proxy_that_leaves_within_its_header_is_forgotten():
    server = await serve(proxy_protocol=True, proxy_trusted=LOOPBACK)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(LINE[:9])
    writer.close()

    await eventually(lambda: server.counters().connections.failed_proxy_headers == 1)
    assert server.connections().h1 == 0
    await server.close()


async def test_a_stranger_cannot_say_that_it_is_another():
    app = Clients()
    server = await serve(app, proxy_protocol=True, proxy_trusted=(ip_network("192.0.2.0/24"),))

    assert (await say(server, LINE + REQUEST)).startswith(b"HTTP/1.1 400")
    assert (await say(server, REQUEST)).endswith(b"1.1 0")
    assert [client[0] for client, _, _ in app.seen] == ["127.0.0.1"]
    await server.close()


async def test_forwarded_headers_of_a_trusted_proxy_say_who_the_client_is():
    app = Clients()
    server = await serve(app, forwarded=ForwardedKind.X_FORWARDED, proxy_trusted=LOOPBACK)
    headers = {"x-forwarded-for": "6.6.6.6, 203.0.113.7", "x-forwarded-proto": "https"}
    for client in (h2_client(), httpx.AsyncClient()):
        async with client:
            await client.get(f"http://127.0.0.1:{server.port}/", headers=headers)
            await client.get(f"http://127.0.0.1:{server.port}/")

    assert app.seen[0] == (("203.0.113.7", 0), "https", "2")
    assert app.seen[2] == (("203.0.113.7", 0), "https", "1.1")
    assert [(client[0], scheme) for client, scheme, _ in app.seen[1::2]] == [("127.0.0.1", "http")] * 2
    await server.close()


async def test_forwarded_headers_mean_nothing_by_default():
    app = Clients()
    server = await serve(app)
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{server.port}/", headers={"x-forwarded-for": "203.0.113.7"})

    assert app.seen[0][0][0] == "127.0.0.1"
    await server.close()


@pytest.mark.parametrize("params", [{"proxy_protocol": True}, {"forwarded": ForwardedKind.FORWARDED}])
def test_who_is_trusted_must_be_said(params):
    with pytest.raises(ValueError, match="proxy_trusted"):
        ServerParams(**params)
