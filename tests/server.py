"""A really started gateway, asked as clients, operators and Prometheus do."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import TYPE_CHECKING

from bench.server import HOST, Server

if TYPE_CHECKING:
    import signal


class Gateway(Server):
    """The bench's server, with the questions that tests put to it."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def ended(self, timeout_s: float) -> int:
        """Wait until it has ended by itself; returns its exit code."""
        return self._process.wait(timeout_s)

    def post(
        self, path: str, body: object, headers: dict[str, str] | None = None, *, admin: bool = False
    ) -> tuple[int, dict[str, str], bytes]:
        """Post bytes, or anything else as JSON; returns status, headers by lower-case name, and body."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        port = self.admin_port if admin else self.port
        with closing(http.client.HTTPConnection(HOST, port, timeout=60)) as connection:
            connection.request("POST", path, data, {"content-type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
