"""Accepts connections, learns who is there and what is spoken, and hands each to its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

from transport.arrival import Arrival, read_proxy_header
from transport.forwarded import is_trusted
from transport.http1 import Http1Connection
from transport.http1_settings import Http1Settings
from transport.protocol import H2Protocol
from transport.proxy_protocol import ProxyHeaderError
from transport.sockets import host_port
from transport.wire import ConnectionParams

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from transport.connection_counters import ConnectionCounters
    from transport.counters import Counters
    from transport.server import ServerParams
    from transport.streams import StreamTable
    from transport.tls import Certificate

_log = logging.getLogger(__name__)

ACCEPT_PAUSE_S: Final = 0.1
"""How long nothing is accepted after the system refused to (out of descriptors or memory)."""
MAX_HEADER_BYTES: Final = 32 * 1024

Address = tuple[str, int]


class _Live(Protocol):
    """A connection, whatever it speaks."""

    @property
    def open_streams(self) -> int: ...
    def drain(self) -> None: ...
    def abort(self) -> None: ...


class _Accepted:
    """A socket that nobody else closes yet."""

    def __init__(self, accepted: socket.socket, client: Address | None) -> None:
        self.socket = accepted
        self.client = client
        self.is_taken = False


class Reception:
    """
    All connections of a server.

    Args:
        app: Called for each request.
        params: Of the server.
        certificate: None for clear text.
        streams: Counts and bounds the requests.
        counters: Of connections.
        h2_counters: Of all HTTP/2 connections.
        accepts_h2: May the connection from this peer speak HTTP/2?
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        params: ServerParams,
        certificate: Certificate | None,
        streams: StreamTable,
        counters: ConnectionCounters,
        h2_counters: Counters,
        accepts_h2: Callable[[str], bool],
    ) -> None:
        self._app = app
        self._params = params
        self._certificate = certificate
        self._streams = streams
        self._counters = counters
        self._h2_counters = h2_counters
        self._accepts_h2 = accepts_h2
        self._h1_settings = Http1Settings(
            keep_alive_s=params.keep_alive_s,
            header_timeout_s=params.header_timeout_s,
            stall_s=params.stall_s,
            max_header_bytes=MAX_HEADER_BYTES,
        )
        self._h2_params = ConnectionParams(
            max_streams=params.max_streams_per_connection,
            keep_alive_s=params.keep_alive_s,
            header_timeout_s=params.header_timeout_s,
            stall_s=params.stall_s,
            max_header_bytes=MAX_HEADER_BYTES,
        )
        self._greeting: dict[asyncio.Task[None], _Accepted] = {}
        self._live: set[_Live] = set()
        self._scheme = "http" if certificate is None else "https"
        self.opened = 0
        """Accepted since the start, without those refused at once."""
        self._gone = asyncio.Event()
        """Set whenever a connection has gone."""

    @property
    def live(self) -> int:
        """How many connections there are."""
        return len(self._live) + len(self._greeting)

    @property
    def live_h2(self) -> int:
        """How many of them speak HTTP/2."""
        return sum(isinstance(connection, H2Protocol) for connection in self._live)

    @property
    def open_streams(self) -> int:
        """How many requests are not answered to their end."""
        return sum(connection.open_streams for connection in self._live)

    async def accept_from(self, listener: socket.socket) -> None:
        """Accept connections for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError as error:
                _log.warning("accept_failed", extra={"error": str(error)})
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if self.live >= self._params.max_connections:
                self._counters.refused += 1
                accepted.close()
                continue
            self.opened += 1
            client = None if accepted.family == socket.AF_UNIX else (address[0], address[1])
            guest = _Accepted(accepted, client)
            task = asyncio.create_task(self._greet(guest))
            self._greeting[task] = guest
            task.add_done_callback(self._greeted)

    def drain(self) -> None:
        """Tell every connection that nothing new is taken; those without a request end soon."""
        self._h1_settings.drain()
        for task in self._greeting:
            task.cancel()
        for connection in list(self._live):
            connection.drain()

    def abort(self) -> None:
        """End every connection now."""
        for task in self._greeting:
            task.cancel()
        for connection in list(self._live):
            connection.abort()

    async def wait_empty(self, timeout_s: float) -> None:
        """Wait until no connection is left, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.live:
                    self._gone.clear()
                    await self._gone.wait()

    async def _greet(self, guest: _Accepted) -> None:
        try:
            if self._params.proxy_protocol and is_trusted(_host(guest.client), self._params.proxy_trusted):
                await self._ask_proxy(guest)
            await self._connect(guest)
        except (OSError, ProxyHeaderError):
            # The handshake failed, or the client went away in it (TimeoutError and SSLError are OSErrors).
            if guest.is_taken:
                self._counters.failed_handshakes += 1
            else:
                self._counters.failed_proxy_headers += 1
        except Exception:  # noqa: BLE001  (the top of a task)
            _log.exception("connection_failed")

    async def _ask_proxy(self, guest: _Accepted) -> None:
        async with asyncio.timeout(self._params.header_timeout_s):
            header = await read_proxy_header(guest.socket)
        guest.client = header.client or guest.client

    async def _connect(self, guest: _Accepted) -> None:
        accepts_h2 = self._accepts_h2("unix" if guest.client is None else host_port(*guest.client))
        tls = None if self._certificate is None else self._certificate.context(offers_h2=accepts_h2)

        def known(arrival: Arrival, transport: asyncio.Transport, is_h2: bool, begun: bytes) -> None:
            self._live.discard(arrival)
            self._hand_over(transport, guest.client, begun, is_h2=is_h2)

        arrival = Arrival(
            accepts_h2=accepts_h2,
            timeout_s=self._params.header_timeout_s,
            counters=self._counters,
            on_known=known,
            on_closed=self._closed,
        )
        guest.is_taken = True
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: arrival,
            guest.socket,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self._params.handshake_timeout_s,
        )
        if arrival.is_waiting:
            self._live.add(arrival)

    def _greeted(self, task: asyncio.Task[None]) -> None:
        guest = self._greeting.pop(task)
        if not guest.is_taken:
            # Refused, or cancelled before the first step.
            guest.socket.close()
        self._gone.set()

    def _hand_over(
        self, transport: asyncio.Transport, client: Address | None, begun: bytes, *, is_h2: bool
    ) -> None:
        protocol = (self._h2 if is_h2 else self._h1)(transport, client)
        self._live.add(protocol)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if begun:
            protocol.data_received(begun)

    def _h2(self, transport: asyncio.Transport, client: Address | None) -> H2Protocol:
        self._counters.opened_h2 += 1
        return H2Protocol(
            self._app,
            params=self._h2_params,
            streams=self._streams,
            counters=self._h2_counters,
            client=client,
            server=_server(transport),
            scheme=self._scheme,
            on_closed=self._closed,
        )

    def _h1(self, transport: asyncio.Transport, client: Address | None) -> Http1Connection:
        self._counters.opened_h1 += 1
        return Http1Connection(
            self._app,
            settings=self._h1_settings,
            streams=self._streams,
            counters=self._counters,
            client=client,
            server=_server(transport),
            scheme=self._scheme,
            on_closed=self._closed,
        )

    def _closed(self, connection: _Live) -> None:
        self._live.discard(connection)
        self._gone.set()


def _host(client: Address | None) -> str | None:
    return None if client is None else client[0]


def _server(transport: asyncio.Transport) -> tuple[str, int | None]:
    name: Any = transport.get_extra_info("sockname")
    return (name, None) if isinstance(name, str) else (name[0], name[1])
