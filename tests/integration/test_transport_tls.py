"""Pins TLS: what ALPN offers, certificates that cannot be used, and their replacement while streams run."""

from __future__ import annotations

import asyncio
import ssl

import httpx
import pytest
import trustme

from tests.edges import LOOPS, Slow, certificate, echo, eventually, h2_client, serve, trusting
from transport.server import EdgeServer, ServerParams

pytestmark = pytest.mark.anyio


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def tls(tmp_path, authority):
    return certificate(tmp_path, authority)


async def serial_of(server, authority):
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trusting(authority))
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return serial


@pytest.mark.parametrize(("accepts", "version"), [(True, "2"), (False, "1.1")])
async def test_http2_is_offered_where_it_is_on(tls, authority, accepts, version):
    server = await serve(accepts_h2=lambda peer: accepts, **tls)

    async with httpx.AsyncClient(verify=trusting(authority), http2=True) as client:
        answer = await client.post(f"https://127.0.0.1:{server.port}/", content=b"x" * 300_000)

        assert answer.text == f"{version} 300000"
        assert server.connections().h2 == accepts
    await server.close()


async def test_the_scheme_of_the_scope_is_https(tls, authority):
    schemes = []

    async def app(scope, receive, send):
        schemes.append(scope["scheme"])
        await echo(scope, receive, send)

    server = await serve(app, **tls)
    for client in (h2_client(verify=trusting(authority)), httpx.AsyncClient(verify=trusting(authority))):
        async with client:
            await client.get(f"https://127.0.0.1:{server.port}/")

    assert schemes == ["https", "https"]
    await server.close()


async def test_a_failed_handshake_harms_nobody_and_is_counted(tls, authority):
    server = await serve(**tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await reader.read()
    writer.close()

    async with httpx.AsyncClient(verify=trusting(authority)) as client:
        assert (await client.get(f"https://127.0.0.1:{server.port}/")).status_code == 200
    assert server.counters().connections.failed_handshakes == 1
    await server.close()


async def test_a_handshake_that_never_ends_is_given_up(tls):
    server = await serve(handshake_timeout_s=0.1, **tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async with asyncio.timeout(5):
        assert await reader.read() == b""

    await eventually(lambda: server.connections().h1 == 0)
    writer.close()
    await server.close()


async def test_a_drain_ends_handshakes(tls):
    server = await serve(**tls)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await eventually(lambda: server.connections().h1 == 1)

    assert await server.drain(1.0)

    assert await reader.read() == b""
    writer.close()


async def test_a_new_certificate_is_for_new_connections_and_disturbs_no_stream(tmp_path, authority, tls):
    app = Slow()
    server = await serve(app, **tls)
    first = await serial_of(server, authority)
    async with h2_client(verify=trusting(authority)) as client:
        asking = asyncio.create_task(client.get(f"https://127.0.0.1:{server.port}/"))
        await app.arrived.wait()
        assert not server.tls_changed()
        certificate(tmp_path, authority)
        assert server.tls_changed()
        server.reload_tls()

        assert not server.tls_changed()
        assert await serial_of(server, authority) != first
        app.go.set()
        assert (await asking).text == "begun done"
    await server.close()


async def test_a_bad_pair_changes_nothing_and_is_reported_once(tmp_path, authority, tls):
    server = await serve(**tls)
    first = await serial_of(server, authority)
    trustme.CA().issue_cert("127.0.0.1").private_key_pem.write_to_path(str(tmp_path / "key.pem"))

    with pytest.raises(
        OSError, match=r"cannot use the TLS certificate .*cert\.pem with the key .*key\.pem: "
    ):
        server.reload_tls()

    assert not server.tls_changed()
    assert await serial_of(server, authority) == first
    (tmp_path / "key.pem").unlink()
    assert server.tls_changed()
    with pytest.raises(OSError, match=r"key\.pem: No such file"):
        server.reload_tls()
    assert await serial_of(server, authority) == first
    await server.close()


async def test_without_tls_there_is_nothing_to_reload():
    server = await serve()

    server.reload_tls()

    assert not server.tls_changed()
    await server.close()


async def test_a_certificate_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "empty.pem").touch()

    with pytest.raises(OSError, match=r"cannot use the TLS certificate .*none\.pem .*: No such file"):
        await serve(tls_certificate=tmp_path / "none.pem", tls_key=tmp_path / "none.pem")
    with pytest.raises(OSError, match=r"cannot use the TLS certificate .*empty\.pem .*: .*PEM"):
        await serve(tls_certificate=tmp_path / "empty.pem", tls_key=tmp_path / "empty.pem")


async def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path, tls):
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(tls["tls_key"].read_bytes(), None)
    locked = key.private_bytes(
        pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.BestAvailableEncryption(b"secret")
    )
    tls["tls_key"].write_bytes(locked)

    with pytest.raises(OSError, match="cannot use the TLS certificate"):
        await serve(**tls)


async def test_old_tls_is_refused(tls, authority):
    server = await serve(**tls)
    context = trusting(authority)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    assert writer.get_extra_info("cipher")[0].startswith("ECDHE-")
    writer.close()
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
    await server.close()


def test_half_of_a_tls_pair_is_refused(tmp_path):
    with pytest.raises(ValueError, match="together"):
        ServerParams(tls_key=tmp_path / "key.pem")


async def test_one_that_cannot_start_listens_nowhere(tmp_path):
    server = EdgeServer(
        echo, params=ServerParams(host="127.0.0.1", unix_path=tmp_path / "no" / "x"), accepts_h2=bool
    )

    with pytest.raises(OSError, match="cannot listen on unix:"):
        await server.start()

    await server.close()
