"""
Pins the edge of a really started gateway: TLS and its renewal, a Unix socket, keys, limits, CORS, a proxy.

One gateway has all of it switched on. Every connection begins with a PROXY header, so that each test asks
from an address of its own, and has that address's limits for itself.
"""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from bench.server import HOST
from tests.conftest import DEMO
from tests.edges import certificate, trusting
from tests.server import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Eventually = Callable[[str, Callable[[], bool], float], None]

MOST_S: Final = 30.0
ORIGIN: Final = "https://page.example"
PER_MINUTE: Final = 6
MESSAGES: Final = [{"role": "user", "content": "Tell me about water."}]
CHAT: Final = {"model": "demo", "messages": MESSAGES, "max_tokens": 4}
LONG: Final = {**CHAT, "max_tokens": 300, "stream": True, "ignore_eos": True}
CHAT_PATH: Final = "/v1/chat/completions"


class Proxied(Gateway):
    """A gateway behind a proxy: only its operators ask it without one."""

    def readiness(self) -> int:
        try:
            return self.get(self.admin_port, "/health/ready")[0]
        except OSError:
            return 0


class Edge:
    """A gateway with everything on, and those who ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.key = self.add("first")
        self.socket = folder / "api.sock"
        files = certificate(folder, self.authority)
        config = {
            **DEMO,
            "server": {
                **{name: str(path) for name, path in files.items()},
                "unix_path": str(self.socket),
                "cors": {"origins": [ORIGIN]},
                "proxy": {"mode": "proxy_protocol", "trusted": [HOST]},
            },
            "security": {
                "api_keys_file": str(folder / "keys"),
                "per_address": {"requests_per_minute": PER_MINUTE},
            },
        }
        self.gateway = Proxied(folder, config)

    def add(self, name: str) -> str:
        """Make a key as operators do; returns its secret."""
        command = [sys.executable, "-m", "wicketgate", "token", name, "--add", str(self.folder / "keys")]
        done = subprocess.run([*command, "--json"], capture_output=True, timeout=MOST_S, check=True)
        return json.loads(done.stdout)["key"]

    def connect(self, address: str, authority: trustme.CA | None = None) -> http.client.HTTPConnection:
        """Connect as the proxy does for a client at an address."""
        plain = socket.create_connection((HOST, self.gateway.port), timeout=MOST_S)
        plain.sendall(f"PROXY TCP4 {address} {HOST} 5555 443\r\n".encode())
        connection = http.client.HTTPConnection(HOST, self.gateway.port)
        connection.sock = trusting(authority or self.authority).wrap_socket(plain, server_hostname=HOST)
        return connection

    def begin(
        self, connection: http.client.HTTPConnection, path: str, body: object, key: str
    ) -> http.client.HTTPResponse:
        """Ask, and wait for the headers of the answer."""
        connection.request("POST", path, json.dumps(body), {"authorization": f"Bearer {key}"})
        return connection.getresponse()

    def ask(
        self, address: str, path: str = CHAT_PATH, body: object = None, *, key: str | None = None
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Ask once; returns status, headers and body."""
        with closing(self.connect(address)) as connection:
            response = self.begin(connection, path, body or CHAT, key or self.key)
            return response.status, dict(response.getheaders()), json.loads(response.read())


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    edge = Edge(tmp_path_factory.mktemp("edge"))
    with edge.gateway:
        yield edge


def curl(*arguments: str) -> str:
    """Run curl, which begins with a PROXY header."""
    command = ["curl", "--silent", "--show-error", "--insecure", "--include", "--haproxy-protocol"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=MOST_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_proxys_header_nobody_is_served(edge: Edge, eventually: Eventually) -> None:
    failed = 'wicketgate_connections_failed_total{reason="proxy_header"}'
    before = edge.gateway.metrics()[failed]

    with closing(socket.create_connection((HOST, edge.gateway.port), timeout=MOST_S)) as direct:
        direct.sendall(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        try:
            said = direct.recv(100)
        except ConnectionResetError:
            said = b""

    assert said == b""
    eventually("it is counted", lambda: edge.gateway.metrics()[failed] == before + 1, 5)


def test_a_key_is_good_as_soon_as_its_line_is_in_the_file(edge: Edge, eventually: Eventually) -> None:
    refused = edge.ask("203.0.113.1", key="wg_unknown")

    second = edge.add("second")

    assert (refused[0], refused[2]["error"]["code"]) == (401, "invalid_api_key")
    eventually("it is loaded", lambda: bool(edge.gateway.events("api_keys_loaded")), 10)
    assert edge.ask("203.0.113.1", key=second)[0] == 200


def test_a_file_of_keys_that_is_refused_and_one_that_is_taken_are_counted(
    edge: Edge, eventually: Eventually
) -> None:
    keys = edge.folder / "keys"
    good = keys.read_text()

    def counted(result: str) -> float:
        return edge.gateway.metrics()[f'wicketgate_edge_reloads_total{{result="{result}",what="keys"}}']

    applied, refused = counted("applied"), counted("refused")
    keys.write_text("rubbish\n")
    eventually("it is refused", lambda: counted("refused") == refused + 1, 10)
    keys.write_text(good)

    eventually("it is taken", lambda: counted("applied") == applied + 1, 10)


@pytest.mark.parametrize(
    ("path", "address", "kind", "limit"),
    [
        (CHAT_PATH, "203.0.113.2", "requests", "x-ratelimit-limit-requests"),
        ("/v1/messages", "203.0.113.3", "rate_limit_error", "anthropic-ratelimit-requests-limit"),
    ],
)
def test_an_address_over_its_limit_is_told_when_to_come_again(
    edge: Edge, path: str, address: str, kind: str, limit: str
) -> None:
    answers = [edge.ask(address, path) for _ in range(PER_MINUTE + 1)]

    assert [status for status, _, _ in answers] == [200] * PER_MINUTE + [429]
    _, headers, body = answers[-1]
    assert body["error"]["type"] == kind
    assert headers[limit] == str(PER_MINUTE)
    assert 1 <= int(headers["retry-after"]) <= 59
    assert 0 < int(headers["retry-after-ms"]) <= 59_000
    assert edge.ask("203.0.113.4", path)[0] == 200, "another address has its own"


@pytest.mark.needs("curl")
def test_the_unix_socket_is_served_beside_the_port(edge: Edge) -> None:
    answer = curl(
        *("--unix-socket", str(edge.socket), "https://localhost/v1/models"),
        *("--header", f"authorization: Bearer {edge.key}"),
    )

    assert answer.startswith("HTTP/2 200")
    assert '"id":"demo"' in answer


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("origin", "is_let_in"), [(ORIGIN, True), ("https://other.example", False)])
def test_a_browser_is_told_whose_pages_may_ask(edge: Edge, origin: str, is_let_in: bool) -> None:
    answer = curl(
        *("--request", "OPTIONS", f"https://{HOST}:{edge.gateway.port}{CHAT_PATH}"),
        *("--header", f"origin: {origin}", "--header", "access-control-request-method: POST"),
        *("--header", "access-control-request-headers: authorization, x-stainless-lang"),
    )

    assert answer.startswith("HTTP/2 204")
    assert (f"access-control-allow-origin: {origin}" in answer) == is_let_in
    assert ("access-control-allow-headers: authorization, x-stainless-lang" in answer) == is_let_in


def test_a_renewed_certificate_is_for_new_connections_and_streams_go_on(
    edge: Edge, eventually: Eventually
) -> None:
    with closing(edge.connect("203.0.113.5")) as connection:
        response = edge.begin(connection, CHAT_PATH, LONG, edge.key)
        first = response.readline()

        renewed = trustme.CA()
        certificate(edge.folder, renewed)
        eventually("it is loaded", lambda: bool(edge.gateway.events("certificate_loaded")), 10)
        edge.authority = renewed
        beside = edge.ask("203.0.113.6")[0]
        rest = response.read()

    assert first.startswith(b"data: ")
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert beside == 200
