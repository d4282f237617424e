"""
Pins that the whole server runs on what macOS gives: no /proc, epoll or pidfd, 256 files, a backlog of 128.

The processes see a Linux from which these were taken: `poll` as the event loop's selector, threads that wait
for children, an audit hook that refuses /proc.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from bench.server import HOST
from tests.conftest import DEMO
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAKEN = """
import os, select, selectors, socket, sys

selectors.DefaultSelector = selectors.PollSelector
sys.modules["uvloop"] = None
for module, names in (
    (os, ("eventfd", "pidfd_open", "memfd_create", "sched_getaffinity")),
    (select, ("epoll",)),
    (selectors, ("EpollSelector",)),
    (socket, ("SOCK_SEQPACKET",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)


def refuse_proc(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith("/proc"):
        raise PermissionError(1, "there is no /proc here", str(arguments[0]))


sys.addaudithook(refuse_proc)
with open(os.path.join(os.path.dirname(__file__), "seen"), "a") as seen:
    print(os.getpid(), file=seen)
"""
CONNECTIONS = 300
LIMIT_S = 30.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that takes these from every Python process at its start, which it notes in `seen`."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(TAKEN)
    return folder


@pytest.fixture(scope="module")
def like_a_mac(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Start a gateway with the demo's model on such a system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            config = DEMO | {"server": {"backlog": 128}}
            gateway = Gateway(tmp_path_factory.mktemp("u" * 40), config)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with gateway:
        yield gateway


def ask(gateway: Gateway) -> str:
    body = {"model": "demo", "prompt": "The interpreter", "max_tokens": 8, "temperature": 0, "seed": 1}
    status, _, answer = gateway.post("/v1/completions", body)
    assert status == 200, answer
    text: str = json.loads(answer)["choices"][0]["text"]
    return text


def test_gateway_and_host_run_without_what_was_taken(site: Path, like_a_mac: Gateway) -> None:
    seen = (site / "seen").read_text().split()

    assert {str(like_a_mac.pid), str(like_a_mac.host_pid)} <= set(seen)


@pytest.mark.parametrize(
    "use", ["open('/proc/self/statm')", "import select; select.epoll()", "import uvloop", "os.pidfd_open(1)"]
)
def test_what_was_taken_is_gone(site: Path, use: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(site)}

    done = subprocess.run([sys.executable, "-c", f"import os; {use}"], env=environment, capture_output=True)

    assert done.returncode == 1


def test_it_answers_as_it_does_elsewhere(like_a_mac: Gateway, server: Gateway) -> None:
    assert ask(like_a_mac) == ask(server)


def test_300_clients_that_connect_at_once_are_all_answered(like_a_mac: Gateway) -> None:
    connections = [socket.create_connection((HOST, like_a_mac.port), LIMIT_S) for _ in range(CONNECTIONS)]

    for connection in connections:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    answers = [connection.recv(12) for connection in connections]
    for connection in connections:
        connection.close()

    assert answers == [b"HTTP/1.1 200"] * CONNECTIONS


def test_a_host_that_is_killed_is_replaced_without_pidfd(like_a_mac: Gateway) -> None:
    before = ask(like_a_mac)
    killed = like_a_mac.host_pid
    assert killed is not None

    os.kill(killed, signal.SIGKILL)
    for _ in range(int(LIMIT_S / 0.05)):
        if like_a_mac.host_pid not in (killed, None):
            break
        threading.Event().wait(0.05)
    like_a_mac.wait_ready()

    assert ask(like_a_mac) == before


def test_its_control_socket_can_be_bound_although_its_folder_has_a_long_name(like_a_mac: Gateway) -> None:
    ran = like_a_mac.command("status")

    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["state"] == "ready"
