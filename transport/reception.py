"""Accepts connections, learns who is there and what is spoken, and hands each to its protocol."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from transport.arrival import Arrival, read_proxy_header
from transport.forwarded import is_trusted
from transport.guest import Guest
from transport.http1 import Http1Connection
from transport.http1_settings import Http1Settings
from transport.newcomers import Admitted, NewcomerParams, Newcomers, PutOut
from transport.protocol import H2Protocol
from transport.proxy_protocol import ProxyHeaderError
from transport.sockets import host_port, prefix_of
from transport.wire import ConnectionParams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp

    from transport.connection_counters import ConnectionCounters
    from transport.counters import Counters
    from transport.guest import Live
    from transport.instant import Instants
    from transport.server import ServerParams
    from transport.streams import StreamTable
    from transport.tls import Certificate

_log = logging.getLogger(__name__)

ACCEPT_PAUSE_S: Final = 0.1
"""How long nothing is accepted after the system refused to (out of descriptors or memory)."""
MAX_HEADER_BYTES: Final = 32 * 1024
SETTLE_S: Final = 0.1
"""Between the moment when somebody may be put out and that when it is, so that all that came is read."""


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
        newcomers: Bounds those that have not said yet what they speak, and those of one address.
        instants: What is answered at once, without the application.
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
        newcomers: NewcomerParams | None = None,
        instants: Instants | None = None,
    ) -> None:
        self._app = app
        self._params = params
        self._certificate = certificate
        self._streams = streams
        self._counters = counters
        self._h2_counters = h2_counters
        self._accepts_h2 = accepts_h2
        self._instants = instants
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
        self._guests: set[Guest] = set()
        bounds = newcomers or NewcomerParams()
        self._newcomers: Newcomers[Guest] = Newcomers(bounds)
        self._most_of_one = bounds.connections_per_address
        self._of_each: Counter[bytes] = Counter()
        """Connections by address."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf
        self._is_late = False
        self._scheme = "http" if certificate is None else "https"
        self.opened = 0
        """Accepted since the start, without those refused at once."""
        self._gone = asyncio.Event()
        """Set whenever a connection has gone."""

    @property
    def live(self) -> int:
        """How many connections there are."""
        return len(self._guests)

    @property
    def live_h2(self) -> int:
        """How many of them speak HTTP/2."""
        return sum(isinstance(guest.connection, H2Protocol) for guest in self._guests)

    @property
    def open_streams(self) -> int:
        """How many requests are not answered to their end."""
        return sum(guest.connection.open_streams for guest in self._guests if guest.connection is not None)

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
            client = None if accepted.family == socket.AF_UNIX else (address[0], address[1])
            guest = Guest(accepted, client)
            if self.live >= self._params.max_connections:
                self._counters.refused += 1
                accepted.close()
                continue
            self.opened += 1
            self._guests.add(guest)
            guest.greeting = asyncio.create_task(self._greet(guest))
            guest.greeting.add_done_callback(partial(self._greeted, guest))
            # One a turn: those who are served have theirs between many that come at once.
            await asyncio.sleep(0)

    def drain(self) -> None:
        """Tell every connection that nothing new is taken; those without a request end soon."""
        self._h1_settings.drain()
        for guest in list(self._guests):
            guest.drain()

    def abort(self) -> None:
        """End every connection now."""
        for guest in list(self._guests):
            guest.abort()

    async def wait_empty(self, timeout_s: float) -> None:
        """Wait until no connection is left, but not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.live:
                    self._gone.clear()
                    await self._gone.wait()

    async def _greet(self, guest: Guest) -> None:
        try:
            host = await self._ask_who(guest)
            if host is None or await self._find_place(guest, prefix_of(host)):
                await self._connect(guest)
        except (OSError, ProxyHeaderError):
            # The handshake failed, or the client went away in it (TimeoutError and SSLError are OSErrors).
            if guest.is_taken:
                self._counters.failed_handshakes += 1
            else:
                self._counters.failed_proxy_headers += 1
        except Exception:  # noqa: BLE001  (the top of a task)
            _log.exception("connection_failed")

    async def _ask_who(self, guest: Guest) -> str | None:
        """Return the client's host; None for a Unix socket and for a proxy, behind which are many."""
        host = None if guest.client is None else guest.client[0]
        params = self._params
        has_proxies = params.proxy_protocol or params.forwarded is not None
        if not has_proxies or not is_trusted(host, params.proxy_trusted):
            return host
        if not params.proxy_protocol:
            return None
        async with asyncio.timeout(params.header_timeout_s):
            header = await read_proxy_header(guest.socket)
        guest.client = header.client or guest.client
        return None if header.client is None else header.client[0]

    async def _find_place(self, guest: Guest, address: bytes) -> bool:
        """Wait until somebody can look after a connection; says whether its address may have it."""
        guest.address = address
        self._of_each[address] += 1
        if 0 < self._most_of_one < self._of_each[address]:
            self._counters.refused_of_address += 1
            return False
        guest.turn = asyncio.get_running_loop().create_future()
        self._newcomers.arrive(guest, address=address)
        self._let_in()
        await guest.turn
        return True

    def _let_in(self) -> None:
        """Give the places that are free."""
        self._place(self._newcomers.admit(now_s=asyncio.get_running_loop().time()))

    def _give_up_place(self, guest: Guest) -> None:
        self._newcomers.leave(guest)
        self._let_in()

    def _put_out(self) -> None:
        """Take places from those who kept them for too long."""
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        # Where it was us who stood still, what they have sent lies unread: one look at it first.
        self._is_late = not self._is_late and now_s > self._timer_s + SETTLE_S
        newcomers = self._newcomers
        self._place(newcomers.admit(now_s=now_s) if self._is_late else newcomers.advance(now_s=now_s))

    def _place(self, events: Iterable[Admitted[Guest] | PutOut[Guest]]) -> None:
        for event in events:
            match event:
                case Admitted(guest=guest):
                    if guest.turn is not None and not guest.turn.done():
                        guest.turn.set_result(None)
                case PutOut(guest=guest):
                    self._counters.put_out += 1
                    guest.abort()
        loop = asyncio.get_running_loop()
        due_s = max(self._newcomers.deadline_s, loop.time() + SETTLE_S)
        if self._timer is not None and (due_s < self._timer_s or due_s == inf):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and due_s < inf:
            self._timer, self._timer_s = loop.call_at(due_s, self._put_out), due_s

    async def _connect(self, guest: Guest) -> None:
        accepts_h2 = self._accepts_h2("unix" if guest.client is None else host_port(*guest.client))
        tls = None if self._certificate is None else self._certificate.context(offers_h2=accepts_h2)

        def known(transport: asyncio.Transport, is_h2: bool, begun: bytes) -> None:
            self._hand_over(guest, transport, begun, is_h2=is_h2)

        arrival = Arrival(
            accepts_h2=accepts_h2,
            timeout_s=self._params.header_timeout_s,
            counters=self._counters,
            on_known=known,
            on_closed=partial(self._closed, guest),
        )
        guest.is_taken = True
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: arrival,
            guest.socket,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self._params.handshake_timeout_s,
        )
        if arrival.is_waiting:
            guest.connection = arrival

    def _greeted(self, guest: Guest, _: asyncio.Task[None]) -> None:
        guest.greeting = None
        if not guest.is_taken:
            # Refused, or cancelled before the first step.
            guest.socket.close()
        if guest.connection is None:
            self._forget(guest)

    def _hand_over(self, guest: Guest, transport: asyncio.Transport, begun: bytes, *, is_h2: bool) -> None:
        protocol = (self._h2 if is_h2 else self._h1)(transport, guest)
        guest.connection = protocol
        self._give_up_place(guest)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if begun:
            protocol.data_received(begun)

    def _h2(self, transport: asyncio.Transport, guest: Guest) -> H2Protocol:
        self._counters.opened_h2 += 1
        return H2Protocol(
            self._app,
            params=self._h2_params,
            streams=self._streams,
            counters=self._h2_counters,
            client=guest.client,
            server=_server(transport),
            scheme=self._scheme,
            on_closed=partial(self._closed, guest),
            instants=self._instants,
        )

    def _h1(self, transport: asyncio.Transport, guest: Guest) -> Http1Connection:
        self._counters.opened_h1 += 1
        return Http1Connection(
            self._app,
            settings=self._h1_settings,
            streams=self._streams,
            counters=self._counters,
            client=guest.client,
            server=_server(transport),
            scheme=self._scheme,
            on_closed=partial(self._closed, guest),
            instants=self._instants,
        )

    def _closed(self, guest: Guest, _: Live) -> None:
        self._forget(guest)

    def _forget(self, guest: Guest) -> None:
        if guest not in self._guests:
            return
        self._guests.remove(guest)
        guest.connection = None  # it points back here: else it waits for the collector
        if guest.address is not None:
            self._of_each[guest.address] -= 1
            if not self._of_each[guest.address]:
                del self._of_each[guest.address]
        self._give_up_place(guest)
        self._gone.set()


def _server(transport: asyncio.Transport) -> tuple[str, int | None]:
    name: Any = transport.get_extra_info("sockname")
    return (name, None) if isinstance(name, str) else (name[0], name[1])
