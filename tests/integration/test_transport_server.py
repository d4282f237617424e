"""Pins the listener: which protocol a connection may speak, the sockets, counts, drain and end."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import stat

import httpx
import pytest
import trustme

from transport.server import EdgeServer, ServerParams

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


async def echo(scope, receive, send):
    """Answer with the protocol and the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = f"{scope['http_version']} {size}".encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Slow:
    """Answers when it is told to; knows whether it was cancelled."""

    def __init__(self):
        self.arrived, self.go, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun ", "more_body": True})
        self.arrived.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        await send({"type": "http.response.body", "body": b"done", "more_body": False})


async def serve(app=echo, *, accepts_h2=lambda peer: True, **params):
    server = EdgeServer(app, params=ServerParams(**params), accepts_h2=accepts_h2)
    await server.start()
    return server


def h2_client(**options):
    return httpx.AsyncClient(http1=False, http2=True, **options)


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def tls(tmp_path, authority):
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    return {"tls_certificate": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem"}


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_both_protocols_are_spoken_in_clear_text():
    server = await serve()
    url = f"http://127.0.0.1:{server.port}/"

    async with httpx.AsyncClient() as old, h2_client() as new:
        assert (await old.post(url, content=b"x" * 300_000)).text == "1.1 300000"
        assert (await new.post(url, content=b"x" * 300_000)).text == "2 300000"
        assert (server.connections().h1, server.connections().h2) == (1, 1)
    await server.close()


async def test_tls_offers_h2_where_it_is_on(tls, trusting):
    server = await serve(**tls)

    async with httpx.AsyncClient(verify=trusting, http2=True) as client:
        answer = await client.post(f"https://127.0.0.1:{server.port}/", content=b"x" * 300_000)

        assert answer.text == "2 300000"
        assert server.connections().h2 == 1
    await server.close()


async def test_tls_does_not_offer_h2_where_it_is_off(tls, trusting):
    server = await serve(accepts_h2=lambda peer: False, **tls)

    async with httpx.AsyncClient(verify=trusting, http2=True) as client:
        answer = await client.get(f"https://127.0.0.1:{server.port}/")

        assert answer.text == "1.1 0"
        assert server.connections().h2 == 0
    await server.close()


async def test_prior_knowledge_where_h2_is_off_is_answered_505_with_what_to_do():
    server = await serve(accepts_h2=lambda peer: False)

    async with h2_client() as client:
        answer = await client.post(f"http://127.0.0.1:{server.port}/", content=b"x" * 100_000)

    assert answer.status_code == 505
    assert "use HTTP/1.1" in answer.text
    await server.close()


async def test_the_choice_is_made_for_each_connection_by_its_address():
    asked = []

    def every_second(peer):
        asked.append(peer)
        return len(asked) % 2 == 0

    server = await serve(accepts_h2=every_second)
    statuses = []
    for _ in range(4):
        async with h2_client() as client:
            statuses.append((await client.get(f"http://127.0.0.1:{server.port}/")).status_code)

    assert statuses == [505, 200, 505, 200]
    assert len({peer.removeprefix("127.0.0.1:") for peer in asked}) == 4
    await server.close()


async def test_a_unix_socket_is_for_its_owner_only_and_gone_at_the_end(tmp_path):
    path = tmp_path / "control.sock"
    peers = []
    server = await serve(unix_path=path, accepts_h2=lambda peer: peers.append(peer) or True)

    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        assert (await client.get("http://x/")).text == "1.1 0"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert peers == ["unix"]
    await server.close()
    assert not path.exists()


async def test_a_unix_socket_left_by_a_dead_process_is_replaced_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await serve(unix_path=path)

    with pytest.raises(OSError, match=r"cannot listen on unix:.*Address already in use"):
        await serve(unix_path=path)
    await server.close()


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty.pem").touch()

    with pytest.raises(OSError, match=r"cannot use the TLS certificate .*none\.pem .*: No such file"):
        await serve(tls_certificate=tmp_path / "none.pem", tls_key=tmp_path / "none.pem")
    with pytest.raises(OSError, match=r"cannot use the TLS certificate .*empty\.pem .*: .*PEM"):
        await serve(tls_certificate=tmp_path / "empty.pem", tls_key=tmp_path / "empty.pem")


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


async def test_more_streams_than_allowed_are_answered_503():
    app = Slow()
    server = await serve(app, max_streams=1)
    url = f"http://127.0.0.1:{server.port}/"

    async with h2_client() as client:
        asking = asyncio.create_task(client.get(url))
        await app.arrived.wait()
        assert (await client.get(url)).status_code == 503
        assert (server.streams().h2, server.streams().refused) == (1, 1)
        app.go.set()
        assert (await asking).status_code == 200
    await server.close()


@pytest.mark.parametrize("http2", [False, True])
async def test_drain_ends_idle_connections_and_waits_for_the_others(http2):
    app = Slow()
    server = await serve(app)
    url = f"http://127.0.0.1:{server.port}/"

    async with httpx.AsyncClient(http1=not http2, http2=http2) as client:
        asking = asyncio.create_task(client.get(url))
        await app.arrived.wait()
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", server.port)
        draining = asyncio.create_task(server.drain(5.0))
        assert await asyncio.wait_for(idle_reader.read(), 2) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        app.go.set()

        assert (await asking).text == "begun done"
    assert await draining
    idle_writer.close()
    await server.close()


async def test_what_is_not_done_at_the_end_of_the_drain_is_cancelled_by_close():
    app = Slow()
    server = await serve(app)

    async with httpx.AsyncClient() as client:
        asking = asyncio.create_task(client.get(f"http://127.0.0.1:{server.port}/"))
        await app.arrived.wait()
        assert not await server.drain(0.05)
        await server.close()
        with pytest.raises(httpx.TransportError):
            await asking

    assert app.cancelled.is_set()
    assert server.connections().h1 == 0


async def test_a_failed_handshake_harms_nobody(tls, trusting):
    server = await serve(**tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.read()
    writer.close()

    async with httpx.AsyncClient(verify=trusting) as client:
        assert (await client.get(f"https://127.0.0.1:{server.port}/")).status_code == 200
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


def test_half_of_a_tls_pair_is_refused(tmp_path):
    with pytest.raises(ValueError, match="together"):
        ServerParams(tls_key=tmp_path / "key.pem")


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
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(preface)

    async with asyncio.timeout(5):
        await reader.read(-1)  # what it says until it closes the connection

    assert await server.drain(0.0)
    writer.close()
    await server.close()
