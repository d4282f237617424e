"""Pins the listening sockets: several at once, files and their modes, and those opened by the system."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.edges import echo, serve
from transport.server import EdgeServer, ServerParams
from transport.sockets import adopt

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio


async def get_unix(path: Path) -> str:
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        return (await client.get("http://x/")).text


async def test_tcp_and_a_unix_socket_are_served_together(tmp_path):
    server = await serve(host="127.0.0.1", unix_path=tmp_path / "api.sock", unix_mode=0o660)

    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).text == "1.1 0"
    assert await get_unix(tmp_path / "api.sock") == "1.1 0"
    assert stat.S_IMODE((tmp_path / "api.sock").stat().st_mode) == 0o660
    assert server.addresses == (f"127.0.0.1:{server.port}", f"unix:{tmp_path / 'api.sock'}")
    await server.close()


async def test_a_unix_socket_is_for_its_owner_only_and_gone_at_the_end(tmp_path):
    path = tmp_path / "control.sock"
    seen = []

    async def app(scope, receive, send):
        seen.append((scope["client"], scope["server"]))
        await echo(scope, receive, send)

    peers = []
    server = await serve(app, unix_path=path, accepts_h2=lambda peer: peers.append(peer) or True)

    assert await get_unix(path) == "1.1 0"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (peers, seen) == (["unix"], [(None, (str(path), None))])
    await server.close()
    assert not path.exists()


async def test_a_unix_socket_left_by_a_dead_process_is_replaced_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = await serve(unix_path=path)

    with pytest.raises(OSError, match=r"cannot listen on unix:.*Address already in use"):
        await serve(unix_path=path)
    assert await get_unix(path) == "1.1 0"
    await server.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")

    with pytest.raises(OSError, match="Address already in use"):
        await serve(unix_path=tmp_path / "notes")

    assert (tmp_path / "notes").read_text() == "mine"


async def test_activated_sockets_are_served_and_their_file_stays(tmp_path):
    tcp, unix = socket.socket(), socket.socket(socket.AF_UNIX)
    tcp.bind(("127.0.0.1", 0))
    unix.bind(str(tmp_path / "api.sock"))
    for each in (tcp, unix):
        each.listen()
    server = await serve(sockets=(tcp, unix))

    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{server.port}/")).text == "1.1 0"
    assert await get_unix(tmp_path / "api.sock") == "1.1 0"
    await server.close()
    assert (tmp_path / "api.sock").exists()


async def test_what_does_not_listen_is_no_activated_socket():
    with socket.socket() as idle, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for each in (idle, datagrams):
            with pytest.raises(OSError, match="does not listen for streams"):
                adopt(each)


CHILD = """
import asyncio, os, sys
from tests.edges import echo
from transport.server import EdgeServer, ServerParams
from transport.sockets import activated_sockets

async def main():
    found = activated_sockets(os.environ, pid=os.getpid())
    params = ServerParams(sockets=tuple(each for _, each in found))
    server = EdgeServer(echo, params=params, accepts_h2=lambda peer: True)
    print(await server.start(), *(name for name, _ in found), os.get_inheritable(3), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(await server.drain(5.0))

asyncio.run(main())
"""
LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="api")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
"""


async def test_a_child_serves_the_sockets_that_systemd_would_hand_it(root):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LAUNCHER, str(listener.fileno()), CHILD),
            pass_fds=[listener.fileno()],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        async with asyncio.timeout(20):
            assert await child.stdout.readline() == f"127.0.0.1:{port} api False\n".encode()
            async with httpx.AsyncClient() as client:
                answer = await client.get(f"http://127.0.0.1:{port}/")
            rest, _ = await child.communicate(b"\n")

    assert answer.text == "1.1 0"
    assert rest == b"True\n"
    assert child.returncode == 0


async def test_without_an_address_it_is_this_machine_only():
    server = EdgeServer(echo, params=ServerParams(), accepts_h2=lambda peer: True)

    assert await server.start() == f"127.0.0.1:{server.port}"
    await server.close()
